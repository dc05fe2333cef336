//! `qing bench`: how fast a network runs here, and where the time goes.

use std::time::Instant;

use anyhow::{Result, ensure};
use qing::LayerTime;
use serde_json::{Value, json};

use crate::{
    model,
    output::{self, bytes, count, ms},
    process,
    runner::{Runner, random_inputs},
    table::Table,
    timing,
};

/// Profiled runs that are summed.
const PROFILED: usize = 10;

/// Measure latency, load time and memory on random input
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Samples in one run, where the network leaves that open
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// Show what each layer takes
    #[arg(long)]
    profile: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, base_memory: u64) -> Result<()> {
    ensure!(args.threads > 0, "--threads must be at least 1");
    ensure!(args.batch > 0, "--batch must be at least 1");
    ensure!(args.seconds >= 0.0, "--seconds must not be negative");
    let start = Instant::now();
    let model = model::load(&args.model)?;
    let inputs = random_inputs(&model.graph, args.batch)?;
    let mut runner = Runner::new(&model.graph, args.threads);
    let batch = runner.fixed_batch().unwrap_or(args.batch);
    let (activations, isa, slow) = {
        let plan = runner.session(&inputs)?.plan();
        let slow: Vec<String> = plan.reference_nodes().iter().map(|(node, op)| format!("{node} ({op})")).collect();
        (plan.peak_memory(), plan.isa().name().to_string(), slow)
    };
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let timing = timing::measure(&mut runner, &inputs, args.seconds)?;
    let layers = if args.profile { profile(&mut runner, &inputs)? } else { vec![] };
    let peak = process::peak_bytes();
    if args.json {
        return output::json(&json!({
            "model": args.model, "threads": args.threads, "batch": batch, "isa": isa,
            "latency_ms": {"median": timing.median, "min": timing.min}, "cpu_ms": {"median": timing.cpu_median},
            "runs": timing.runs, "load_ms": load_ms, "peak_memory_bytes": peak, "base_memory_bytes": base_memory,
            "activation_bytes": activations, "reference_nodes": slow,
            "layers": layers.iter().map(layer_json).collect::<Vec<_>>(),
        }));
    }
    output::line(&format!("{}  {} threads, batch {batch}, {isa}, {} runs", args.model, args.threads, timing.runs))?;
    output::line(&format!("latency  {} median, {} best", ms(timing.median), ms(timing.min)))?;
    output::line(&format!("CPU      {} a run", ms(timing.cpu_median)))?;
    output::line(&format!("loading  {}", ms(load_ms)))?;
    let own = peak.saturating_sub(base_memory);
    output::line(&format!(
        "memory   {} more than before loading; {} for activations",
        bytes(own as f64),
        bytes(activations as f64)
    ))?;
    if !slow.is_empty() {
        let names: Vec<String> = slow.iter().map(|s| output::name(s)).collect();
        output::line(&format!("no fast kernel for {} nodes: {}", slow.len(), names.join(", ")))?;
    }
    if args.profile {
        output::line("")?;
        output::print(&profile_table(&layers).render())?;
    }
    Ok(())
}

/// Mean times of some profiled runs.
fn profile(runner: &mut Runner, inputs: &[qing::Tensor]) -> Result<Vec<LayerTime>> {
    let session = runner.session(inputs)?;
    let mut sum = session.profile()?;
    for _ in 1..PROFILED {
        for (total, layer) in sum.iter_mut().zip(session.profile()?) {
            total.nanos += layer.nanos;
        }
    }
    sum.iter_mut().for_each(|l| l.nanos /= PROFILED as u64);
    Ok(sum)
}

fn profile_table(layers: &[LayerTime]) -> Table {
    let total: u64 = layers.iter().map(|l| l.nanos).sum();
    let mut table = Table::new(&["layer", "op", "kernel", ">µs", ">share", ">MACs", ">GMAC/s", ">GB/s"]);
    for l in layers {
        let per_nano = |n: u64| if n == 0 { String::new() } else { format!("{:.1}", n as f64 / l.nanos.max(1) as f64) };
        table.row([
            output::name(&l.node),
            l.op.clone(),
            l.kernel.clone(),
            format!("{:.1}", l.nanos as f64 / 1e3),
            format!("{:.1} %", 100.0 * l.nanos as f64 / total.max(1) as f64),
            if l.macs == 0 { String::new() } else { count(l.macs as f64) },
            per_nano(l.macs),
            per_nano(l.bytes),
        ]);
    }
    table.row(["all", "", "", &format!("{:.1}", total as f64 / 1e3), "100.0 %"]);
    table
}

fn layer_json(l: &LayerTime) -> Value {
    json!({"node": l.node, "op": l.op, "kernel": l.kernel, "ms": l.nanos as f64 / 1e6, "macs": l.macs, "bytes": l.bytes})
}

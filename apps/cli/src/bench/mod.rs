//! `qing bench`: how fast a network runs here, where the time goes, and how that compares.

mod against;
mod profile;
mod trace;

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    model,
    output::{self, bytes, ms},
    process,
    runner::{Runner, random_inputs},
    timing,
};

/// Measure latency, load time and memory on random input
///
/// With --profile, what each layer takes and how much of the machine it uses; with --against, the same network in
/// another engine, in turns.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Multiply floats as bfloat16 where this processor can: faster, results about half a percent off
    #[arg(long)]
    bf16: bool,
    /// Samples in one run, where the network leaves that open
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// How long to measure; with --against, in each turn [default: 2, with --against 0.5]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Show for each layer the time, the bytes moved, and the share of what this machine can do at most
    #[arg(long)]
    profile: bool,
    /// Write a few runs as a trace for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Compare with another engine, after checking that both compute the same
    #[arg(long, value_name = "ENGINE", conflicts_with_all = ["profile", "trace"])]
    against: Option<against::Engine>,
    /// Turns of each engine, with --against
    #[arg(long, value_name = "N", default_value_t = 7, requires = "against")]
    rounds: usize,
    /// The Python that has the other engine [default: $QING_PYTHON, python3 or python]
    #[arg(long, value_name = "FILE", requires = "against")]
    python: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, base_memory: u64) -> Result<()> {
    ensure!(args.threads > 0, "--threads must be at least 1");
    ensure!(args.batch > 0, "--batch must be at least 1");
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let seconds = args.seconds.unwrap_or(if args.against.is_some() { 0.5 } else { 2.0 });
    ensure!(seconds >= 0.0, "--seconds must not be negative");
    if let Some(engine) = args.against {
        return against::run(args, engine, seconds);
    }
    let start = Instant::now();
    let model = model::load(&args.model)?;
    let inputs = random_inputs(&model.graph, args.batch)?;
    let mut runner = Runner::of(&model, args.threads).bf16(args.bf16);
    let batch = runner.fixed_batch().unwrap_or(args.batch);
    let (activations, isa, slow) = {
        let plan = runner.session(&inputs)?.plan();
        let slow: Vec<String> = plan.reference_nodes().iter().map(|(node, op)| format!("{node} ({op})")).collect();
        (plan.peak_memory(), plan.isa().name().to_string(), slow)
    };
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let timing = timing::measure(&mut runner, &inputs, seconds)?;
    // Before peaks are measured, which takes memory of its own.
    let peak = process::peak_bytes();
    let profile = (args.profile || args.trace.is_some())
        .then(|| profile::measure(runner.session(&inputs)?, seconds))
        .transpose()?;
    if let (Some(path), Some(profile)) = (&args.trace, &profile) {
        trace::write(path, &args.model, runner.session(&inputs)?, profile)?;
    }
    let profile = profile.filter(|_| args.profile);
    if args.json {
        let mut report = json!({
            "model": args.model, "threads": args.threads, "batch": batch, "isa": isa,
            "latency_ms": {"median": timing.median, "min": timing.min}, "cpu_ms": {"median": timing.cpu_median},
            "runs": timing.runs, "load_ms": load_ms, "peak_memory_bytes": peak, "base_memory_bytes": base_memory,
            "activation_bytes": activations, "reference_nodes": slow,
        });
        if let Some(profile) = &profile {
            report["profile"] = profile.summary_json();
            report["layers"] = profile.layers_json();
        }
        return output::json(&report);
    }
    let plural = if args.threads == 1 { "" } else { "s" };
    output::line(&format!(
        "{}  {} thread{plural}, batch {batch}, {isa}, {} runs",
        args.model, args.threads, timing.runs
    ))?;
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
    if let Some(profile) = &profile {
        output::print(&profile.render())?;
    }
    if let Some(path) = &args.trace {
        output::line(&format!("trace    {}", path.display()))?;
    }
    Ok(())
}

//! `qing npu profile`: where a frame's cycles go.

use std::path::PathBuf;

use anyhow::Result;
use qing::npu::{Profile, Session};
use serde_json::{Value, json};

use super::{ChipArgs, program, roofline, trace, traffic};
use crate::{model, output, runner::random_inputs, table::Table};

const READING: &str = "\
How to read it: `cycles` is what the layer added to the frame: layers overlap, strip by strip, so one that runs beside another adds little.
`work` is what its unit needs at least (pairs of planes for the array, steps for the auxiliary unit), `span` from its first start to its last end.
`strips`: computed in so many strips together with its neighbours, because what lies between them does not fit the chip; their cycles are charged to the first.";

/// Show where the cycles of a frame go, layer by layer
#[derive(Debug, clap::Args)]
#[command(after_help = READING)]
pub(crate) struct Args {
    /// A quantized network: a file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Write what every queue did when, as a trace that Perfetto and chrome://tracing open
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the layers against the rooflines of the chip, as an SVG picture
    #[arg(long, value_name = "FILE")]
    roofline: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    chip: ChipArgs,
}

/// Runs it.
pub(super) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let config = args.chip.config()?;
    let mut session = Session::new(program(&model.graph, &config)?)?;
    let inputs = random_inputs(&session.program().graph, 1)?;
    let frame = session.run(&inputs)?;
    let profile = session.program().profile(&frame.run);
    if let Some(path) = &args.trace {
        trace::write(path, &model.name, session.program(), &frame.run)?;
    }
    if let Some(path) = &args.roofline {
        roofline::write(path, &model.name, &profile, &config)?;
    }
    if args.json {
        return output::json(&as_json(&args.model, &config.name, &profile));
    }
    let head = ["layer", "op", "unit", ">bits", ">MACs", ">work", ">span", ">strips", ">cycles", ">"];
    let mut table = Table::new(&head);
    for l in &profile.layers {
        let bits = l.bits.1.map_or_else(|| l.bits.0.to_string(), |w| format!("{}·{w}", l.bits.0));
        let macs = if l.macs > 0 { output::count(l.macs as f64) } else { String::new() };
        table.row([
            output::name(&l.name),
            l.op.clone(),
            l.unit.to_string(),
            bits,
            macs,
            l.work.to_string(),
            l.span.1.saturating_sub(l.span.0).to_string(),
            if l.strips > 1 { l.strips.to_string() } else { String::new() },
            l.cycles.to_string(),
            output::percent(l.cycles as f64 / profile.cycles as f64),
        ]);
    }
    output::print(&table.render())?;
    let micros = profile.cycles as f64 / config.clock_mhz as f64;
    output::line(&format!(
        "chip `{}`: {} cycles, {micros:.1} µs at {} MHz; array {} in use",
        config.name,
        profile.cycles,
        config.clock_mhz,
        output::percent(profile.array_use)
    ))?;
    output::line(&format!("external: {}", traffic(session.program())))
}

fn as_json(model: &str, chip: &str, profile: &Profile) -> Value {
    let layers: Vec<Value> = profile
        .layers
        .iter()
        .map(|l| {
            json!({
                "name": l.name, "op": l.op, "unit": l.unit, "activation_bits": l.bits.0, "weight_bits": l.bits.1,
                "macs": l.macs, "work": l.work, "start": l.span.0, "end": l.span.1, "strips": l.strips, "cycles": l.cycles
            })
        })
        .collect();
    json!({
        "model": model, "chip": chip, "cycles": profile.cycles, "macs": profile.macs, "array_use": profile.array_use,
        "words_in": profile.traffic.0, "words_out": profile.traffic.1, "layers": layers
    })
}

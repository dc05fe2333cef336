//! `qing npu explore`: which chip and which bits.

use anyhow::Result;
use qing::{
    Graph,
    lighten::{Bits, Options, lighten},
    npu::{Config, PRESETS, Session},
};

use super::ChipArgs;
use crate::{model, output, process, runner::random_inputs, table::Table};

/// Compare presets and precisions for a network: latency, energy and what does not fit, as one table
///
/// A quantized network is measured as it is on every preset; one in floating point is quantized at several widths first (ranges from noise: for cycles
/// and energy, not for accuracy).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Widths to try for a network in floating point
    #[arg(long, value_name = "wXaY,…", value_delimiter = ',', default_value = "w8a8,w4a8,w4a4,w2a4,w2a2")]
    bits: Vec<String>,
    #[command(flatten)]
    chip: ChipArgs,
}

/// Runs it.
pub(super) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let energy = args.chip.energy()?;
    let quantized = model.graph.values().any(|(_, v)| v.ty.quant.is_some());
    let mut forms: Vec<(String, Graph)> = Vec::new();
    if quantized {
        forms.push(("as it is".into(), model.graph.clone()));
    } else {
        for bits in &args.bits {
            let parsed: Bits = bits.parse()?;
            let mut options =
                Options { synthetic_batches: 2, noise_batches: 0, threads: process::cores(), ..Options::default() };
            options.quantize.bits = parsed;
            let lighter = lighten(&model.graph, &[], &options, &mut |_| {})?;
            forms.push((bits.clone(), lighter.graph));
        }
    }
    let mut table =
        Table::new(&["bits", "chip", ">cycles", ">ms", ">µJ", ">weights", ">array", "external or what does not fit"]);
    for (bits, graph) in &forms {
        for (preset, _) in PRESETS {
            let config = Config::preset(preset)?;
            let program = match qing::npu::compile(graph, &config) {
                Ok(program) => program,
                Err(error) => {
                    let why = error.to_string();
                    table.row([
                        bits.clone(),
                        preset.to_string(),
                        "–".into(),
                        String::new(),
                        String::new(),
                        String::new(),
                        String::new(),
                        why,
                    ]);
                    continue;
                }
            };
            let weights: usize = program.layers.iter().map(|l| l.weight_words * config.columns * 8).sum();
            let external = super::traffic(&program);
            let mut session = Session::new(program)?;
            let inputs = random_inputs(&session.program().graph, 1)?;
            let frame = session.run(&inputs)?;
            let profile = session.program().profile(&frame.run);
            let micro: f64 = energy.parts(&frame.run.counters, &config).iter().map(|p| p.1).sum();
            table.row([
                bits.clone(),
                preset.to_string(),
                profile.cycles.to_string(),
                format!("{:.3}", profile.cycles as f64 / config.clock_mhz as f64 / 1e3),
                format!("{micro:.1}"),
                output::bytes(weights as f64),
                output::percent(profile.array_use),
                external,
            ]);
        }
    }
    output::print(&table.render())
}

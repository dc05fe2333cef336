//! `qing npu compile`: a network's program for the chip.

use std::path::PathBuf;

use anyhow::{Context, Result};
use qing::npu::{Image, isa};

use super::{ChipArgs, program, traffic};
use crate::{model, output, runner::random_inputs, table::Table};

/// Compile a network for the chip: its instructions, or the image that a test bench or a board loads
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A quantized network: a file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Write the program image with the runs of a set-up and one frame of noise to this folder (docs/isa.md, section 9)
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Print the instructions as assembly
    #[arg(long)]
    assembly: bool,
    #[command(flatten)]
    chip: ChipArgs,
}

/// Runs it.
pub(super) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let config = args.chip.config()?;
    let program = program(&model.graph, &config)?;
    if args.assembly {
        return output::print(&isa::disassemble(&program.instructions)?);
    }
    let mut table = Table::new(&["layer", "op", ">bits", ">MACs", ">weights", ""]);
    for layer in &program.layers {
        let bits = layer.bits.1.map_or_else(|| layer.bits.0.to_string(), |w| format!("{}·{w}", layer.bits.0));
        let bytes = layer.weight_words * config.columns * 8;
        let place = if layer.resident { "" } else { "streamed" };
        let weights = if bytes > 0 { output::bytes(bytes as f64) } else { String::new() };
        let macs = if layer.macs > 0 { output::count(layer.macs as f64) } else { String::new() };
        table.row([output::name(&layer.name), layer.op.clone(), bits, macs, weights, place.to_string()]);
    }
    output::print(&table.render())?;
    let weights: usize = program.layers.iter().map(|l| l.weight_words).sum();
    let activations = program.buffers.iter().map(|b| b.base + b.words).max().unwrap_or(0);
    output::line(&format!(
        "chip `{}`: {} of {} instructions, weights {} of {}, activations {} of {}",
        config.name,
        program.instructions.len(),
        config.instructions,
        output::bytes((weights * config.columns * 8) as f64),
        output::bytes(config.weight_bytes() as f64),
        output::bytes(activations as f64 * 8.0),
        output::bytes(config.activation_bytes() as f64)
    ))?;
    output::line(&format!("external, per frame: {}", traffic(&program)))?;
    let host: Vec<&str> = program
        .network
        .before
        .iter()
        .chain(&program.network.after)
        .map(|n| program.graph.nodes[*n].op.name())
        .collect();
    if !host.is_empty() {
        output::line(&format!("computed by the host: {}", host.join(", ")))?;
    }
    if let Some(folder) = &args.output {
        let mut image = Image::new(&config, &program.instructions)?;
        image.run(program.setup, program.setup_words.clone());
        let words = program.frame_input(&random_inputs(&program.graph, 1)?)?;
        image.run(program.frame, words);
        image.write(folder).with_context(|| folder.display().to_string())?;
        output::line(&format!("wrote {}", folder.display()))?;
    }
    Ok(())
}

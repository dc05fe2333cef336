//! `qing npu run`: a network on the simulated chip, held to the engine.

use std::path::PathBuf;

use anyhow::{Result, bail};
use qing::{
    Graph, Tensor,
    npu::{Config, EnergyTable, Frame, Session},
};

use super::{ChipArgs, program, traffic};
use crate::{
    feeds::{Feeds, PreprocessArgs},
    model, output, process, run as runs,
    runner::{Runner, random_inputs},
    table::Table,
};

/// Run a network on the simulated chip; its results are compared with the engine's, bit for bit
///
/// Without INPUT, zoo:NAME runs on one of its own test images, any other network on noise.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A quantized network: a file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Images (JPEG, PNG, WebP), .npy arrays or .npz archives
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Classes shown for each sample, best first; 0 for none
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    #[command(flatten)]
    chip: ChipArgs,
}

/// Runs it.
pub(super) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let feeds = Feeds::new(&model.graph, &PreprocessArgs::default())?;
    let jobs = match (args.inputs.is_empty(), model.entry) {
        (false, _) => runs::jobs(&args.inputs, &feeds)?,
        (true, Some(entry)) => vec![runs::example(entry, &feeds, false)?],
        (true, None) => {
            vec![runs::Job { name: "noise".into(), inputs: random_inputs(&model.graph, 1)? }]
        }
    };
    let (config, energy) = (args.chip.config()?, args.chip.energy()?);
    let mut session = Session::new(program(&model.graph, &config)?)?;
    let mut engine = Runner::new(&boundary(&session), process::cores());
    for job in &jobs {
        let frame = session.run(&job.inputs)?;
        check(&frame, &engine.run(&job.inputs)?, &session)?;
        let names = model.graph.outputs.iter().map(|id| model.graph.value(*id).name.clone());
        let outputs: Vec<(String, Tensor)> = names.zip(frame.outputs.iter().cloned()).collect();
        runs::show(job, &outputs, &model, args.top)?;
        summary(&frame, &session, &config, &energy)?;
    }
    Ok(())
}

/// The network up to what the chip computes.
pub(super) fn boundary(session: &Session) -> Graph {
    let mut graph = session.program().graph.clone();
    graph.outputs = session.program().network.outputs.iter().map(|p| p.value).collect();
    graph.remove_dead_nodes();
    graph
}

/// Holds what the chip computed to the engine.
pub(super) fn check(frame: &Frame, expected: &[Tensor], session: &Session) -> Result<()> {
    for ((id, got), want) in frame.computed.iter().zip(expected) {
        if got.shape() != want.shape() || got.bytes() != want.bytes() {
            let name = &session.program().graph.value(*id).name;
            bail!("`{name}` differs between chip and engine: this is a bug of qing, please report it with the model");
        }
    }
    Ok(())
}

fn summary(frame: &Frame, session: &Session, config: &Config, energy: &EnergyTable) -> Result<()> {
    let profile = session.program().profile(&frame.run);
    let micros = profile.cycles as f64 / config.clock_mhz as f64;
    output::line(&format!(
        "chip `{}`: {} cycles, {micros:.1} µs at {} MHz; the engine's results, bit for bit",
        config.name, profile.cycles, config.clock_mhz
    ))?;
    output::line(&format!(
        "array {} in use; {} MACs, {:.1} a cycle",
        output::percent(profile.array_use),
        output::count(profile.macs as f64),
        profile.macs as f64 / profile.cycles as f64
    ))?;
    output::line(&format!("external: {}", traffic(session.program())))?;
    let parts = energy.parts(&frame.run.counters, config);
    let total: f64 = parts.iter().map(|p| p.1).sum();
    let mut table = Table::new(&["energy", ">µJ", ">"]);
    for (name, value) in parts {
        table.row([name.to_string(), format!("{value:.2}"), output::percent(value / total)]);
    }
    table.row(["total".into(), format!("{total:.2}"), String::new()]);
    output::print(&table.render())?;
    output::line(&format!("energy table `{}`: {}; leaves out {}", energy.name, energy.source, energy.leaves_out))
}

//! `qing npu`: networks on the chip.

mod compile;
mod explore;
mod pareto;
mod profile;
mod roofline;
mod run;
mod synth;
mod trace;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use qing::{
    Graph,
    lighten::{Bits, Options, QuantizeOptions, lighten},
    npu::{Config, EnergyTable, NpuError, PRESETS, Program, Session},
};

use crate::runner::random_inputs;

/// Networks on the chip: an ultra-low-bit NPU, simulated to the bit and to the cycle
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Run(run::Args),
    Compile(compile::Args),
    Profile(profile::Args),
    Explore(Box<explore::Args>),
    Synth(synth::Args),
}

/// Which chip.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ChipArgs {
    /// The chip's sizes: nano, edge or core
    #[arg(long, value_name = "NAME", default_value = "core", value_parser = PRESETS.iter().map(|p| p.0).collect::<Vec<_>>())]
    preset: String,
    /// The chip's sizes from a TOML file (those of the presets are in crates/npu/presets)
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// Energy of its operations: published-45nm, asap7, ihp-sg13g2 or a TOML file [default: published-45nm]
    #[arg(long, value_name = "NAME|FILE")]
    energy: Option<PathBuf>,
}

impl ChipArgs {
    /// The sizes.
    fn config(&self) -> Result<Config> {
        match &self.config {
            Some(path) => read(path, Config::parse),
            None => Ok(Config::preset(&self.preset)?),
        }
    }

    /// The energy table.
    fn energy(&self) -> Result<EnergyTable> {
        self.energy.as_deref().map_or_else(|| Ok(EnergyTable::published()?), energy_table)
    }
}

/// What a TOML file says.
fn read<T>(path: &Path, parse: impl Fn(&str) -> Result<T, NpuError>) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

/// A table of energies by its name or its file.
fn energy_table(named: &Path) -> Result<EnergyTable> {
    if let Some(table) = named.to_str().and_then(EnergyTable::named) {
        return Ok(table);
    }
    read(named, EnergyTable::parse)
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Compile(args) => compile::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Explore(args) => explore::run(args),
        Command::Synth(args) => synth::run(args),
    }
}

/// Cycles of a frame of a float network at eight bits, whatever its weights are: ranges are those of made-up data.
pub(crate) fn quick_cycles(graph: &Graph, preset: &str) -> Result<f64> {
    let quantize = QuantizeOptions::with_bits(Bits { weights: 8, activations: 8 });
    let options = Options { quantize, noise_batches: 0, synthetic_batches: 1, threads: 1 };
    let typed = lighten(graph, &[], &options, &mut |_| {})?.graph;
    let mut session = Session::new(program(&typed, &Config::preset(preset)?)?)?;
    let inputs = random_inputs(&session.program().graph, 1)?;
    Ok(session.run(&inputs)?.run.counters.cycles as f64)
}

/// Compiles a graph for a chip.
fn program(graph: &Graph, config: &Config) -> Result<Program> {
    qing::npu::compile(graph, config).with_context(|| format!("for the chip `{}`", config.name))
}

/// What the chip reads and writes outside for a frame, in words.
fn traffic(program: &Program) -> String {
    let (input, output) = program.frame_traffic();
    let weights = program.streamed.len();
    let kb = |words: usize| crate::output::bytes(words as f64 * 8.0);
    if weights == 0 {
        format!("{} in, {} out; all weights on the chip", kb(input), kb(output))
    } else {
        format!("{} in, {} of them weights that do not fit; {} out", kb(input), kb(weights), kb(output))
    }
}

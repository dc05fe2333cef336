//! `qing`, the command line: one module a subcommand, on the public API of the crate `qing` alone.
//!
//! Exit codes: 0 done, 1 failed (the message says where and what to do), 2 wrong usage.
#![forbid(unsafe_code)]

mod accuracy;
mod bench;
mod calibration;
mod compare;
mod compress;
mod design;
mod evaluate;
mod factorize;
mod feeds;
mod finetune;
mod inspect;
mod lighten;
mod model;
mod npu;
mod output;
mod pack;
mod picture;
mod process;
mod progress;
mod prune;
mod run;
mod runner;
mod score;
mod sparsify;
mod table;
mod timing;
mod train;
mod zoo;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  qing lighten zoo:fashion                          everything at once, with nothing else installed
  qing lighten net.onnx --calibrate photos --bits w8a8 -o light.onnx -o light.qing
  qing lighten net.onnx --calibrate data@0::10 --evaluate data@!0::10
  qing evaluate light.qing --data cifar10
  qing run light.qing cat.jpg dog.jpg --top 3
  qing bench light.qing --threads 2
  qing compare net.onnx light.qing --data photos
  qing design net.toml --budget 'macs<=5M'
  qing train zoo/fashion.toml
  qing finetune net.onnx --data photos:train --bits w2a2 --teacher net.onnx
  qing finetune net.onnx --data photos --memory 1MB
  qing npu profile light.qing --preset core

MODEL is a file (.onnx, .tflite, .qing) or a network that comes with qing (zoo:NAME, see `qing zoo`).
DATA is PATH[:SPLIT][@SLICE]. PATH is a folder with labels.csv (file,class), one folder per class, or plain images;
a folder of mosaics or IDX files; x.npy with y.npy, or an .npz with x and y; or zoo:NAME. SPLIT is train or test.
SLICE is start:stop:step as in Python, or the others with `!`: data@0::10 is every tenth sample, data@!0::10 the rest.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Makes trained neural networks light, trains them, and runs them.
#[derive(Debug, Parser)]
#[command(name = "qing", version, after_help = EXAMPLES, max_term_width = 120, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Lighten(Box<lighten::Args>),
    Design(design::Args),
    Factorize(factorize::Args),
    Prune(prune::Args),
    Sparsify(sparsify::Args),
    Compress(compress::Args),
    Pack(pack::Args),
    Run(run::Args),
    Evaluate(evaluate::Args),
    Inspect(inspect::Args),
    Compare(compare::Args),
    Score(score::Args),
    Bench(bench::Args),
    Train(train::Args),
    Finetune(finetune::Args),
    #[command(subcommand)]
    Npu(npu::Command),
    Zoo(zoo::Args),
}

fn main() -> ExitCode {
    // Read before anything is loaded, so that memory can be reported without the program's own.
    let base_memory = process::resident_bytes();
    let result = match Cli::parse().command {
        Command::Lighten(args) => lighten::run(&args),
        Command::Design(args) => design::run(&args),
        Command::Factorize(args) => factorize::run(&args),
        Command::Prune(args) => prune::run(&args),
        Command::Sparsify(args) => sparsify::run(&args),
        Command::Compress(args) => compress::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Bench(args) => bench::run(&args, base_memory),
        Command::Train(args) => train::run(&args),
        Command::Finetune(args) => finetune::run(&args),
        Command::Npu(command) => npu::run(&command),
        Command::Zoo(args) => zoo::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough: `qing inspect … | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("error: {}", explain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// The error and its causes; a cause that the text before it already tells is not said twice.
fn explain(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .reduce(|told, cause| if told.contains(&cause) { told } else { format!("{told}: {cause}") })
        .unwrap_or_default()
}

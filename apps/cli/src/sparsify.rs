//! `qing sparsify`: most weights of a float network become zero.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use qing::lighten::{
    LightenError,
    sparsify::weights::{Pattern, SparseLayer, SparsifyOptions, sparsify},
};
use serde_json::json;

use crate::{
    accuracy, calibration,
    feeds::{self, Feeds, PreprocessArgs},
    model,
    output::{self, count, percent},
    process,
    progress::Progress,
    table::Table,
};

/// Samples in one batch.
const BATCH: usize = 16;

/// Make most weights of a float network zero, and let the others make up for them
///
/// The zeros stay when the network is lightened further (`qing lighten`); compressed files do not store them, and kernels with AVX-512 skip
/// them where three of four weights or more are zero in a pattern.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A float network: a file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Which weights go: 4:16 (of 16 neighbouring inputs of an output 4 stay), 75% (any), blocks:75% (blocks of 16 outputs by 4 inputs)
    #[arg(long, value_name = "PATTERN", default_value = "2:4", value_parser = pattern)]
    pattern: Pattern,
    /// Typical samples, PATH[:SPLIT][@SLICE], labels not needed. Some hundreds are enough
    #[arg(long, value_name = "DATA")]
    calibrate: Option<String>,
    /// Take at most N of them
    #[arg(long, value_name = "N", default_value_t = 256)]
    calibration_limit: usize,
    /// Labelled samples to measure accuracy on, before and after
    #[arg(long, value_name = "DATA")]
    evaluate: Option<String>,
    /// Take at most N of them
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Take out the smallest weights and leave the others as they are, whatever the samples show
    #[arg(long)]
    magnitude: bool,
    /// Layers with fewer inputs to an output keep all their weights
    #[arg(long, value_name = "N", default_value_t = 32)]
    fewest_inputs: usize,
    /// Where to write, .onnx or .qing [default: MODEL-sparse.onnx]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

fn pattern(text: &str) -> Result<Pattern, LightenError> {
    text.parse()
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let feeds = Feeds::new(&model.graph, &args.preprocess)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}-sparse.onnx", model.name)));
    model::check_output(&output)?;
    let spec = calibration::spec(args.calibrate.as_ref(), &model);
    ensure!(
        spec.is_some() || args.magnitude,
        "give typical samples with --calibrate DATA, or --magnitude to go without"
    );
    let batches = match &spec {
        Some(spec) => feeds.batches(spec, args.calibration_limit, BATCH)?,
        None => vec![],
    };
    let test = args.evaluate.as_ref().map(|spec| feeds::open("--evaluate", spec, args.limit)).transpose()?;
    let threads = args.threads.unwrap_or_else(process::cores);
    let options =
        SparsifyOptions { pattern: args.pattern, surgery: !args.magnitude, fewest_inputs: args.fewest_inputs, threads };
    let mut progress = Progress::new("sparsify", 1);
    let mut made = sparsify(&model.graph, &batches, &options, &mut |p| progress.stage(p.stage, p.done, p.total))?;
    drop(progress);
    if let Some(p) = feeds.preprocess() {
        made.graph.metadata.extend(p.to_metadata());
    }
    model::write(&made.graph, &output)?;
    let accuracies = match &test {
        Some(data) => accuracy::top1_of(&[&model.graph, &made.graph], data, feeds.only()?, BATCH, threads)?,
        None => vec![],
    };
    if args.json {
        return output::json(&json!({ "layers": made.layers, "accuracy": accuracies, "output": output }));
    }
    show(&made.layers)?;
    if let [before, after] = accuracies[..] {
        output::line(&format!("accuracy {} before, {} after", percent(before), percent(after)))?;
    }
    output::line(&format!("wrote {}", output.display()))
}

fn show(layers: &[SparseLayer]) -> Result<()> {
    let mut table = Table::new(&["layer", ">weights", ">zero", ">lost"]);
    for l in layers {
        let lost = l.lost.map(percent).unwrap_or_default();
        table.row([output::name(&l.layer), count(l.weights as f64), percent(l.zeros as f64 / l.weights as f64), lost]);
    }
    let (weights, zeros) = layers.iter().fold((0, 0), |(w, z), l| (w + l.weights, z + l.zeros));
    table.row(["together".into(), count(weights as f64), percent(zeros as f64 / weights as f64), String::new()]);
    output::print(&table.render())
}

//! `qing prune`: whole channels go, and a smaller float network is left.

use std::path::PathBuf;

use anyhow::Result;
use qing::lighten::{
    LightenError,
    search::{Budget, parse_budgets},
    sparsify::channels::{Importance, PruneOptions, PruneReport, prune},
};
use serde_json::json;

use crate::{
    accuracy,
    feeds::{self, Feeds, PreprocessArgs},
    model,
    output::{self, count, percent},
    process,
    progress::Progress,
    table::Table,
};

/// Samples in one batch of data that channels are judged on.
const BATCH: usize = 32;

/// Take whole channels out of a float network until it keeps a budget
///
/// What is left is a smaller network that may be trained further (`qing finetune`, `qing train`) and lightened. Channels go with
/// everything that makes and reads them, through residual sums, concatenation, grouped and depthwise convolutions.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A float network: a file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// What is left may cost: "macs<=0.5x" (multiply–accumulates), "params<=100k", "latency<=2ms" (measured here)
    #[arg(long, value_name = "LIMIT", value_parser = budget)]
    budget: Budget,
    /// Samples to judge channels on and to fit what is left, PATH[:SPLIT][@SLICE], labels not needed. Some hundreds are enough
    #[arg(long, value_name = "DATA")]
    calibrate: Option<String>,
    /// Take at most N of them
    #[arg(long, value_name = "N", default_value_t = 512)]
    calibration_limit: usize,
    /// Labelled samples to measure accuracy on, before and after
    #[arg(long, value_name = "DATA")]
    evaluate: Option<String>,
    /// Take at most N of them
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// By what channels are judged: taylor (gradients, needs samples), magnitude (size of weights), scale (of batch normalization)
    #[arg(long, value_name = "HOW", default_value = "taylor", value_parser = importance)]
    importance: Importance,
    /// Channels of a layer are left in multiples of this
    #[arg(long, value_name = "N", default_value_t = 8)]
    multiple: usize,
    /// The least share of a layer's channels that stays
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    least: f64,
    /// Leave something of every residual branch
    #[arg(long)]
    keep_branches: bool,
    /// Rounds in which the budget is approached
    #[arg(long, value_name = "N", default_value_t = 2)]
    rounds: usize,
    /// Do not fit the layers that are left to what they made before
    #[arg(long)]
    no_fit: bool,
    /// Where to write, .onnx or .qing [default: MODEL-pruned.onnx]
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

fn importance(text: &str) -> Result<Importance, String> {
    match text {
        "taylor" => Ok(Importance::Taylor),
        "magnitude" => Ok(Importance::Magnitude),
        "scale" => Ok(Importance::Scale),
        _ => Err("channels are judged by taylor, magnitude or scale".into()),
    }
}

fn budget(text: &str) -> Result<Budget, LightenError> {
    let mut all = parse_budgets(text)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(LightenError::Option(format!("budget `{text}`: one limit at a time"))),
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let feeds = Feeds::new(&model.graph, &args.preprocess)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}-pruned.onnx", model.name)));
    model::check_output(&output)?;
    let test = args.evaluate.as_ref().map(|spec| feeds::open("--evaluate", spec, args.limit)).transpose()?;
    let batches = match &args.calibrate {
        Some(spec) => feeds.batches(spec, args.calibration_limit, BATCH)?,
        None => vec![],
    };
    let threads = args.threads.unwrap_or_else(process::cores);
    let options = PruneOptions {
        importance: args.importance,
        multiple: args.multiple,
        least: args.least,
        whole: !args.keep_branches,
        rounds: args.rounds,
        reconstruct: !args.no_fit,
        threads,
    };
    let mut progress = Progress::new("prune", 1);
    let mut pruned = prune(&model.graph, &batches, &args.budget, &options, None, &mut |p| {
        progress.stage(p.stage, p.done, p.total);
    })?;
    drop(progress);
    if let Some(p) = feeds.preprocess() {
        pruned.graph.metadata.extend(p.to_metadata());
    }
    model::write(&pruned.graph, &output)?;
    let accuracies = match &test {
        Some(data) => accuracy::top1_of(&[&model.graph, &pruned.graph], data, feeds.only()?, BATCH, threads)?,
        None => vec![],
    };
    if args.json {
        return output::json(&json!({
            "report": pruned.report, "accuracy_before": accuracies.first(), "accuracy_after": accuracies.get(1),
            "output": output,
        }));
    }
    show(&pruned.report)?;
    if let [before, after] = accuracies.as_slice() {
        output::line(&format!("accuracy {} → {}", percent(*before), percent(*after)))?;
    }
    output::line(&format!("wrote {}", output.display()))
}

fn show(report: &PruneReport) -> Result<()> {
    let mut table = Table::new(&["layer", "op", ">channels", ">MACs", ">", ">parameters", ">"]);
    for layer in &report.layers {
        let [c, d] = layer.channels;
        let channels = if layer.macs[1] == 0 { format!("{c} → gone") } else { format!("{c} → {d}") };
        table.row([
            output::name(&layer.name),
            layer.op.clone(),
            channels,
            count(layer.macs[0] as f64),
            count(layer.macs[1] as f64),
            count(layer.parameters[0] as f64),
            count(layer.parameters[1] as f64),
        ]);
    }
    output::print(&table.render())?;
    let share =
        |a: u64, b: u64| format!("{} → {} (÷ {:.2})", count(a as f64), count(b as f64), a as f64 / b.max(1) as f64);
    output::line(&format!("\nmultiply–accumulates {}", share(report.before.macs, report.after.macs)))?;
    output::line(&format!("parameters {}", share(report.before.parameters, report.after.parameters)))?;
    if let Some(db) = report.output_sqnr_db {
        output::line(&format!("{} layers fitted; the output is {db:.1} dB above its error", report.fitted))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_budget_and_a_known_importance() {
        assert!(budget("macs<=0.5x").is_ok());
        assert!(budget("macs<=0.5x,params<=1k").is_err());
        assert_eq!(importance("scale"), Ok(Importance::Scale));
        assert!(importance("luck").is_err());
    }
}

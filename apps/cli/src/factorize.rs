//! `qing factorize`: layers become chains of smaller ones, and a smaller float network is left.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use qing::lighten::{
    LightenError,
    factorize::{Amount, FactorizeOptions, FactorizedLayer, Form, factorize},
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

/// Take the layers of a float network apart into smaller ones until it keeps a budget
///
/// Every layer may become two or three of lower rank (SVD, Tucker-2, CP, depthwise-separable), judged by what its inputs look like on the samples; which ones do is
/// chosen over the whole network. What is left is a float network that may be trained further (`qing finetune`) and lightened.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A float network: a file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// What is left of the network: "macs<=0.6x" (multiply–accumulates) or "params<=0.5x" (weights of layers that can be taken apart)
    #[arg(long, value_name = "LIMIT", value_parser = amount)]
    budget: Amount,
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
    /// What layers may become: svd, tucker, cp, separable (one filter for each channel, then 1×1), with commas between
    #[arg(long, value_name = "FORMS", value_delimiter = ',', value_parser = form, default_value = "svd,tucker,cp,separable")]
    forms: Vec<Form>,
    /// Let all inputs of a layer count alike, whatever the samples show
    #[arg(long)]
    plain: bool,
    /// Where to write, .onnx or .qing [default: MODEL-factorized.onnx]
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

fn form(text: &str) -> Result<Form, LightenError> {
    text.parse()
}

fn amount(text: &str) -> Result<Amount, LightenError> {
    let bad = || LightenError::Option(format!("budget `{text}`: write macs<=0.6x or params<=0.5x, a share below 1"));
    let (what, share) = text.split_once("<=").ok_or_else(bad)?;
    let share = share.trim().strip_suffix('x').and_then(|s| s.trim().parse::<f64>().ok());
    let share = share.filter(|s| *s > 0.0 && *s < 1.0).ok_or_else(bad)?;
    match what.trim() {
        "macs" => Ok(Amount::Macs(share)),
        "params" | "parameters" => Ok(Amount::Parameters(share)),
        _ => Err(bad()),
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let feeds = Feeds::new(&model.graph, &args.preprocess)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}-factorized.onnx", model.name)));
    model::check_output(&output)?;
    let spec = calibration::spec(args.calibrate.as_ref(), &model);
    ensure!(spec.is_some() || args.plain, "give typical samples with --calibrate DATA, or --plain to go without");
    let batches = match &spec {
        Some(spec) => feeds.batches(spec, args.calibration_limit, BATCH)?,
        None => vec![],
    };
    let test = args.evaluate.as_ref().map(|spec| feeds::open("--evaluate", spec, args.limit)).transpose()?;
    let threads = args.threads.unwrap_or_else(process::cores);
    let options = FactorizeOptions { amount: args.budget, forms: args.forms.clone(), whitened: !args.plain, threads };
    let mut progress = Progress::new("factorize", 1);
    let mut made = factorize(&model.graph, &batches, &options, &mut |p| progress.stage(p.stage, p.done, p.total))?;
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

fn show(layers: &[FactorizedLayer]) -> Result<()> {
    let mut table = Table::new(&["layer", "becomes", ">weights", ">of", ">MACs", ">of", ">lost"]);
    let (mut weights, mut macs) = ((0, 0), (0.0, 0.0));
    for l in layers {
        weights = (weights.0 + l.parameters.0, weights.1 + l.parameters.1);
        macs = (macs.0 + l.macs.0, macs.1 + l.macs.1);
        table.row([
            l.layer.clone(),
            l.form.clone(),
            count(l.parameters.1 as f64),
            count(l.parameters.0 as f64),
            count(l.macs.1),
            count(l.macs.0),
            percent(l.lost),
        ]);
    }
    table.row([
        "together".into(),
        String::new(),
        count(weights.1 as f64),
        count(weights.0 as f64),
        count(macs.1),
        count(macs.0),
        String::new(),
    ]);
    output::print(&table.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_shares() {
        assert_eq!(amount("macs<=0.6x").unwrap(), Amount::Macs(0.6));
        assert_eq!(amount("params <= 0.5x").unwrap(), Amount::Parameters(0.5));
        for bad in ["macs<=5M", "macs<=1x", "size<=0.5x", "0.5"] {
            assert!(amount(bad).is_err(), "{bad}");
        }
    }
}

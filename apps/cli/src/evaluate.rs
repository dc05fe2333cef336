//! `qing evaluate`: accuracy on labelled data.

use anyhow::Result;
use serde_json::json;

use crate::{
    accuracy,
    feeds::{self, Feeds, PreprocessArgs},
    model,
    output::{self, percent},
    process,
    runner::Runner,
};

/// Measure a classifier's accuracy on labelled data
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Labelled data, PATH[:SPLIT][@SLICE]; the network's own for zoo:NAME
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// Use the first N samples only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Samples in one run
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Multiply floats as bfloat16 where this processor can: faster, results about half a percent off
    #[arg(long)]
    bf16: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let spec = match (&args.data, model.entry) {
        (Some(data), _) => data.clone(),
        (None, Some(_)) => args.model.clone(),
        (None, None) => anyhow::bail!("--data is needed: labelled samples to measure {} on", args.model),
    };
    let data = feeds::open("--data", &spec, args.limit)?;
    let feeds = Feeds::new(&model.graph, &args.preprocess)?;
    feeds.warn_if_guessed(&data.item(0)?);
    let mut runner = Runner::of(&model, args.threads.unwrap_or_else(process::cores)).bf16(args.bf16);
    let result = accuracy::measure(&mut runner, &data, feeds.only()?, args.batch, "evaluate")?;
    let rate = result.samples as f64 / result.seconds.max(1e-9);
    if args.json {
        return output::json(&json!({
            "model": args.model, "data": data.name(), "samples": result.samples, "classes": result.classes,
            "top1": result.top1(), "top5": result.top5(), "samples_per_second": rate,
        }));
    }
    output::line(&format!("{}  {} samples of {}", args.model, result.samples, data.name()))?;
    output::line(&format!("top-1  {}", percent(result.top1())))?;
    if result.classes > 5 {
        output::line(&format!("top-5  {}", percent(result.top5())))?;
    }
    output::line(&format!("{rate:.1} samples per second, reading included"))
}

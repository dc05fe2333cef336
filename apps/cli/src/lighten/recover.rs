//! `--recover`: the lighter network learns again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use qing::{
    lighten::{Effort, Lightened, Recovery, totals},
    train::run::{self, Options},
};

use super::Args;
use crate::{calibration::Batches, feeds::Feeds, model::Model, train::Watcher};

/// Learning again.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Recovery (--effort thorough does it on the calibration data, without labels)")]
pub(crate) struct RecoverArgs {
    /// Labelled samples on which the lighter network goes on learning, taught by the network it was made of. Writes the recipe and a
    /// checkpoint beside the first output
    #[arg(long, value_name = "DATA")]
    recover: Option<String>,
    /// How often it sees every sample [default: 1, 4 or 12, by --effort; without labels, as many as make 900 steps]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Highest learning rate [default: 0.02; without labels 0.01, for large images 0.001]
    #[arg(long, value_name = "RATE")]
    rate: Option<f32>,
    /// Do not mirror or shift images
    #[arg(long)]
    no_augment: bool,
    /// Go on from the checkpoint of a recovery that was ended
    #[arg(long)]
    resume: bool,
}

/// Trains what was made at the widths it was given, if that is wanted.
pub(crate) fn run(
    args: &Args,
    model: &Model,
    feeds: &Feeds,
    batches: &Batches,
    outputs: &[PathBuf],
    threads: usize,
    made: &mut Lightened,
) -> Result<()> {
    let first = outputs.first().context("no output")?;
    let name = first.file_stem().map(|s| s.to_string_lossy().into_owned()).context("an output without a name")?;
    let mut recovery = match &args.recover.recover {
        Some(data) => Recovery::labelled(&name, &args.model, data, args.effort),
        None if args.effort == Effort::Thorough && !batches.synthetic => {
            let values = feeds
                .only()?
                .ty
                .shape
                .as_ref()
                .map_or(0, |s| s.iter().skip(1).map(|d| d.known().unwrap_or(1)).product());
            Recovery::unlabelled(&name, &args.model, &batches.spec, batches.samples, values)
        }
        None => return Ok(()),
    };
    recovery.rate = args.recover.rate.unwrap_or(recovery.rate);
    recovery.epochs = args.recover.epochs.unwrap_or(recovery.epochs);
    ensure!(recovery.epochs > 0, "--epochs is at least 1");
    if args.recover.no_augment || feeds.preprocess().is_none() {
        recovery.augment = None;
    }
    if let Some(p) = feeds.preprocess() {
        recovery.preprocess = p.to_metadata().into_iter().collect();
    }
    // Without normalizations to adapt, what calibration made is the better beginning.
    let start = first.with_extension("start.qing");
    let folded = !model.graph.nodes.iter().any(|n| n.op.name() == "BatchNormalization");
    if folded && !recovery.labelled {
        qing::formats::qing::write(&made.graph, &start)?;
        recovery.model = start.display().to_string();
    }
    let recipe = recovery.recipe(&made.report)?;
    let output = first.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
    qing::formats::atomic::write(&output.join(format!("{name}.toml")), recipe.to_toml().as_bytes())?;
    let options = Options {
        folder: PathBuf::from("."),
        output,
        threads,
        resume: args.recover.resume,
        checkpoint_steps: Some(200),
        test: false,
    };
    let mut watcher = Watcher::new(args.json);
    let outcome = run::train(&recipe, &options, &mut |event| watcher.see(event))?;
    if start.exists() {
        fs::remove_file(&start).with_context(|| start.display().to_string())?;
    }
    made.graph = outcome.graph;
    // What was measured was the network before it learnt.
    made.report.after = totals(&made.graph, None);
    made.report.output_sqnr_db = None;
    made.report.layers.iter_mut().for_each(|l| l.sqnr_db = None);
    Ok(())
}

//! `qing lighten`: a trained network goes in, a lighter one comes out, and a table says what that cost.

mod args;
mod npu;
mod recover;
mod report;
mod rounding;
mod search;
mod show;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use qing::{Graph, formats, lighten};

pub(crate) use args::Args;

use self::{
    args::options,
    show::{Side, as_json, show, show_one},
};
use crate::{
    accuracy,
    feeds::Feeds,
    model::{self, Model},
    output, process,
    progress::Progress,
    run::has_extension,
    runner::{Runner, random_inputs},
    timing::{self, Timing},
};

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.edge_bits <= 8, "--edge-bits is 0 to 8");
    args.rounding.check()?;
    args.report.as_deref().map(report::check).transpose()?;
    let model = model::load(&args.model)?;
    let feeds = Feeds::new(&model.graph, &args.preprocess)?;
    check_layers(args, &model)?;
    let outputs = output_paths(args, &model)?;
    let test = args.data.test(&model)?;
    let threads = args.threads.unwrap_or_else(process::cores);
    let mut options = options(args, threads);
    let batches = args.data.calibration(&model, &feeds, options.quantize.reconstruct.is_some())?;
    if let Some(data) = &test {
        feeds.warn_if_guessed(&data.item(0)?);
    }

    let mut progress = Progress::new("lighten", 1);
    options.quantize.checkpoint = args.rounding.checkpoint(&outputs);
    let mut lightened = search::run(args, &model, &feeds, &batches, &options, &mut |p| {
        progress.stage(p.stage, p.done, p.total);
    })?;
    drop(progress);
    lightened.report.calibration.synthetic |= batches.synthetic;
    recover::run(args, &model, &feeds, &batches, &outputs, threads, &mut lightened)?;
    if let Some(p) = feeds.preprocess() {
        lightened.graph.metadata.extend(p.to_metadata());
    }
    let made = format!("{}, calibrated on {}", args.widths(), batches.source);
    lightened.graph.metadata.insert("qing.lightened".into(), made);
    for path in &outputs {
        write(&lightened.graph, path, args)?;
    }
    if let Some(path) = options.quantize.checkpoint.filter(|path| path.exists()) {
        std::fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
    }
    // What is measured is what was written.
    let last = outputs.iter().rev().find(|p| has_extension(p, "qing")).or(outputs.last()).context("no output")?;
    let light = formats::read(last)?;

    let mut before = Runner::new(&model.graph, threads);
    let mut after = Runner::new(&light, threads);
    let report = &lightened.report;
    let mut sides = [
        Side { file_bytes: model.file_bytes, totals: report.before.clone(), accuracy: None, timing: None },
        Side { file_bytes: model::file_bytes(last), totals: report.after.clone(), accuracy: None, timing: None },
    ];
    if let Some(data) = &test {
        for ((side, runner), what) in
            sides.iter_mut().zip([&mut before, &mut after]).zip(["evaluate before", "evaluate after"])
        {
            side.accuracy = Some(accuracy::measure(runner, data, feeds.only()?, 1, what)?);
        }
    }
    if args.seconds > 0.0 {
        let inputs = random_inputs(&model.graph, 1)?;
        // In turns, so that a noisy machine hurts both alike.
        let mut times: [Vec<Timing>; 2] = [vec![], vec![]];
        for _ in 0..3 {
            for (times, runner) in times.iter_mut().zip([&mut before, &mut after]) {
                times.push(timing::measure(runner, &inputs, args.seconds / 3.0)?);
            }
        }
        for (side, mut times) in sides.iter_mut().zip(times) {
            times.sort_by(|a, b| a.median.total_cmp(&b.median));
            side.timing = Some(times[1]);
        }
    }
    let mut outputs = outputs;
    if let Some(path) = &args.report {
        outputs.extend(report::write(path, &model.graph, &light, &batches, &sides, report, threads)?);
    }
    if args.json {
        return output::json(&as_json(args, &sides, report, &outputs));
    }
    if let Some(data) = test.as_ref().filter(|_| model.entry.is_some()) {
        show_one(data, &feeds, &mut before, &mut after)?;
    }
    show(&model.name, &sides, report, &batches.source, &outputs)
}

/// Refuses what would change nothing: a network that is quantized already, and names that no layer has.
fn check_layers(args: &Args, model: &Model) -> Result<()> {
    let layers = lighten::layers(&model.graph, None);
    ensure!(
        layers.is_empty() || layers.iter().any(|l| l.weight_bits > 8),
        "{}: its layers are quantized already; give the float network it was made from",
        args.model
    );
    let patterns = args.layer.iter().map(|o| &o.pattern).map(|p| ("--layer", p));
    for (flag, pattern) in patterns.chain(args.keep_float.iter().map(|p| ("--keep-float", p))) {
        let known = model.graph.nodes.iter().any(|n| lighten::matches(pattern, &n.name));
        ensure!(known, "{flag} {pattern}: no layer has such a name; `qing inspect {}` lists them", args.model);
    }
    Ok(())
}

fn output_paths(args: &Args, model: &Model) -> Result<Vec<PathBuf>> {
    let stem = format!("{}-{}", model.name, args.widths());
    let paths = match args.output.is_empty() {
        true => vec![PathBuf::from(format!("{stem}.onnx")), PathBuf::from(format!("{stem}.qing"))],
        false => args.output.clone(),
    };
    for path in &paths {
        ensure!(
            has_extension(path, "onnx") || has_extension(path, "qing"),
            "{}: the extension says the format, .onnx or .qing",
            path.display()
        );
        if Path::new(&args.model).canonicalize().is_ok_and(|m| path.canonicalize().is_ok_and(|p| p == m)) {
            bail!("{}: would overwrite the model it is made from", path.display());
        }
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        ensure!(folder.is_dir(), "{}: the folder {} does not exist", path.display(), folder.display());
    }
    Ok(paths)
}

fn write(graph: &Graph, path: &Path, args: &Args) -> Result<()> {
    if has_extension(path, "qing") {
        let write = if args.compress || args.encoding().is_some() {
            formats::qing::write_compressed
        } else {
            formats::qing::write
        };
        return Ok(write(graph, path)?);
    }
    let options = formats::onnx::WriteOptions { external_data: args.external_data, ..Default::default() };
    Ok(formats::onnx::write(graph, path, &options)?)
}

//! `qing lighten`: a trained network goes in, a lighter one comes out, and a table says what that cost.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use qing::{
    Graph, Tensor,
    data::{Dataset, Item, synthetic},
    formats,
    lighten::{self, Bits, Options, Override, QuantizeOptions, RangeMethod, Report, Totals},
};
use serde_json::{Value, json};

use crate::{
    accuracy::{self, Accuracy},
    feeds::{self, Feeds, PreprocessArgs},
    inspect::{layer_json, layer_table},
    model::{self, Model},
    output::{self, bytes, count, ms, note, percent},
    picture, process,
    progress::Progress,
    run::{has_extension, predict},
    runner::{Runner, random_inputs},
    table::Table,
    timing::{self, Timing},
};

/// Samples in one batch of calibration data.
const CALIBRATION_BATCH: usize = 8;
/// Images made up where there is no calibration data.
const SYNTHETIC: usize = 64;
/// Most samples taken from calibration data unless --calibration-limit says otherwise.
const ENOUGH: usize = 256;

/// Make a network lighter: fold, calibrate, quantize, and report what was gained and lost
///
/// Without -o, two files are written here: MODEL-wXaY.onnx (for onnxruntime and other tools) and MODEL-wXaY.qing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Samples to choose ranges with, PATH[:SPLIT][@SLICE], labels not needed. A hundred typical ones are enough
    #[arg(long, value_name = "DATA")]
    calibrate: Option<String>,
    /// Take at most N of them
    #[arg(long, value_name = "N", default_value_t = ENOUGH)]
    calibration_limit: usize,
    /// Labelled samples to measure accuracy on, before and after
    #[arg(long, value_name = "DATA")]
    evaluate: Option<String>,
    /// Take at most N of them
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Bits of weights and activations, 1–8 each
    #[arg(long, value_name = "wXaY", default_value = "w4a8")]
    bits: Bits,
    /// Other bits for layers by name, `*` standing for anything: --layer 'head*=w8a8'. Repeatable, the first that fits wins
    #[arg(long, value_name = "NAME=wXaY")]
    layer: Vec<Override>,
    /// Leave layers in floating point, by name. Repeatable
    #[arg(long, value_name = "NAME")]
    keep_float: Vec<String>,
    /// Least bits for the first and the last layer; 0 to treat them like the others
    #[arg(long, value_name = "BITS", default_value_t = 8)]
    edge_bits: u8,
    /// How activation ranges are chosen: minmax, percentile (or percentile:99.99), mse (least squared error)
    #[arg(long, value_name = "METHOD", default_value = "mse", value_parser = parse_range)]
    range: RangeMethod,
    /// Do not even out the channels of consecutive layers first (cross-layer equalization)
    #[arg(long)]
    no_equalize: bool,
    /// Do not shift biases by the mean error of the weights
    #[arg(long)]
    no_bias_correction: bool,
    /// Do not let roundings make up for each other's errors
    #[arg(long)]
    no_error_feedback: bool,
    /// One weight scale for a whole layer rather than one for each output channel
    #[arg(long)]
    per_tensor: bool,
    /// Where to write, by extension .onnx or .qing; repeatable [default: both, here]
    #[arg(long, short, value_name = "FILE")]
    output: Vec<PathBuf>,
    /// Keep the weights of an .onnx output in a file beside it
    #[arg(long)]
    external_data: bool,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Seconds spent on each latency; 0 leaves latency out
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

fn parse_range(text: &str) -> Result<RangeMethod, String> {
    match text.split_once(':') {
        None if text == "minmax" => Ok(RangeMethod::MinMax),
        None if text == "mse" => Ok(RangeMethod::LeastSquares),
        None if text == "percentile" => Ok(RangeMethod::Percentile(99.99)),
        Some(("percentile", p)) => match p.parse() {
            Ok(p) if (50.0..=100.0).contains(&p) => Ok(RangeMethod::Percentile(p)),
            _ => Err(format!("`{p}` is no percentile between 50 and 100")),
        },
        _ => Err("methods are minmax, percentile, percentile:99.9 and mse".into()),
    }
}

/// What is measured of a network before and after.
struct Side {
    file_bytes: u64,
    totals: Totals,
    accuracy: Option<Accuracy>,
    timing: Option<Timing>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.edge_bits <= 8, "--edge-bits is 0 to 8");
    let model = model::load(&args.model)?;
    let feeds = Feeds::new(&model.graph, &args.preprocess)?;
    check_layers(args, &model)?;
    let outputs = output_paths(args, &model)?;
    let test = test_data(args, &model)?;
    let batches = calibration(args, &model, &feeds)?;
    if let Some(data) = &test {
        feeds.warn_if_guessed(&data.item(0)?);
    }
    let threads = args.threads.unwrap_or_else(process::cores);

    let mut progress = Progress::new("lighten", 1);
    let mut lightened = lighten::lighten(&model.graph, &batches.tensors, &options(args), &mut |p| {
        progress.stage(p.stage, p.done, p.total);
    })?;
    drop(progress);
    lightened.report.calibration.synthetic |= batches.synthetic;
    if let Some(p) = feeds.preprocess() {
        lightened.graph.metadata.extend(p.to_metadata());
    }
    let made = format!("w{}a{}, calibrated on {}", args.bits.weights, args.bits.activations, batches.source);
    lightened.graph.metadata.insert("qing.lightened".into(), made);
    for path in &outputs {
        write(&lightened.graph, path, args.external_data)?;
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
    if args.json {
        return output::json(&as_json(args, &sides, report, &outputs));
    }
    if let Some(data) = test.as_ref().filter(|_| model.entry.is_some()) {
        show_one(data, &feeds, &mut before, &mut after)?;
    }
    show(&model.name, &sides, report, &batches.source, &outputs)
}

fn options(args: &Args) -> Options {
    let base = QuantizeOptions::with_bits(args.bits);
    let quantize = QuantizeOptions {
        overrides: args.layer.clone(),
        keep_float: args.keep_float.clone(),
        edge_bits: (args.edge_bits > 0).then_some(args.edge_bits),
        range: args.range,
        per_channel: !args.per_tensor,
        bias_correction: !args.no_bias_correction,
        equalize: base.equalize && !args.no_equalize,
        error_feedback: !args.no_error_feedback,
        ..base
    };
    Options { quantize, ..Options::default() }
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
    let stem = format!("{}-w{}a{}", model.name, args.bits.weights, args.bits.activations);
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

fn write(graph: &Graph, path: &Path, external_data: bool) -> Result<()> {
    if has_extension(path, "qing") {
        return Ok(formats::qing::write(graph, path)?);
    }
    let options = formats::onnx::WriteOptions { external_data, ..Default::default() };
    Ok(formats::onnx::write(graph, path, &options)?)
}

fn test_data(args: &Args, model: &Model) -> Result<Option<Dataset>> {
    match (&args.evaluate, model.entry) {
        (Some(spec), _) => {
            if args.calibrate.as_ref().is_some_and(|c| feeds::overlap(c, spec)) {
                note("note: some samples calibrate and evaluate; keep them apart with @0::10 and @!0::10.");
            }
            feeds::open("--evaluate", spec, args.limit).map(Some)
        }
        (None, Some(_)) => feeds::open("--evaluate", &args.model, args.limit).map(Some),
        (None, None) => Ok(None),
    }
}

/// Calibration data as the network takes it.
struct Batches {
    tensors: Vec<Vec<Tensor>>,
    source: String,
    synthetic: bool,
}

fn calibration(args: &Args, model: &Model, feeds: &Feeds) -> Result<Batches> {
    let spec = match (&args.calibrate, model.entry) {
        (Some(spec), _) => Some(spec.clone()),
        (None, Some(_)) => Some(format!("{}:calibrate", args.model)),
        (None, None) => None,
    };
    let Some(spec) = spec else {
        note(
            "WARNING: no calibration data. Ranges are chosen on made-up inputs, and accuracy may suffer badly.\n\
             WARNING: give some typical inputs with --calibrate DATA; a hundred are enough, labels are not needed.",
        );
        let source = "MADE-UP DATA".to_string();
        let images = match feeds.all() {
            [feed] => synthetic(feed, SYNTHETIC, 0),
            _ => None,
        };
        let tensors = images.map(|items| batched(items, feeds)).transpose()?.unwrap_or_default();
        return Ok(Batches { tensors, source, synthetic: true });
    };
    let data = feeds::open("--calibrate", &spec, Some(args.calibration_limit))?;
    let items = (0..data.len()).map(|i| data.item(i)).collect::<Result<Vec<_>, _>>()?;
    feeds.warn_if_guessed(&items[0]);
    let source = format!("{} samples of {}", items.len(), data.name());
    Ok(Batches { tensors: batched(items, feeds)?, source, synthetic: false })
}

fn batched(items: Vec<Item>, feeds: &Feeds) -> Result<Vec<Vec<Tensor>>> {
    let feed = feeds.only()?;
    let fixed = feed.ty.shape.as_ref().and_then(|s| s.first()?.known());
    let size = fixed.unwrap_or(CALIBRATION_BATCH).max(1);
    let whole = if fixed.is_some() { items.len() / size * size } else { items.len() };
    ensure!(whole > 0, "the network takes batches of {size}, so calibration needs at least as many samples");
    let mut items = items.into_iter().take(whole).peekable();
    let mut batches = vec![];
    while items.peek().is_some() {
        batches.push(vec![feed.batch(items.by_ref().take(size).collect())?]);
    }
    Ok(batches)
}

/// Shows one image and what both networks take it for.
fn show_one(data: &Dataset, feeds: &Feeds, before: &mut Runner, after: &mut Runner) -> Result<()> {
    let item = data.item(0)?;
    if let Item::Image(image) = &item {
        output::print(&picture::render(image))?;
    }
    let input = feeds.only()?.batch(vec![item])?;
    let answer =
        |r: &mut Runner| Ok::<_, anyhow::Error>(predict(r, input.clone())?.map_or_else(String::new, |(_, name)| name));
    output::line(&format!("before: {}, after: {}\n", answer(before)?, answer(after)?))
}

fn show(model: &str, sides: &[Side; 2], report: &Report, source: &str, outputs: &[PathBuf]) -> Result<()> {
    output::print(&layer_table(&report.layers, true).render())?;
    for island in &report.islands {
        output::line(&format!("in floating point: {} ({}): {}", island.node, island.op, island.reason))?;
    }
    output::line("")?;
    let mut table = Table::new(&[model, ">before", ">after", ">"]);
    let [a, b] = sides;
    let mut row = |name: &str, show: &dyn Fn(&Side) -> String, value: &dyn Fn(&Side) -> f64| {
        let (x, y) = (value(a), value(b));
        let change = if y > 0.0 && x != y { format!("÷ {:.2}", x / y) } else { String::new() };
        table.row([name.to_string(), show(a), show(b), change]);
    };
    row("size on disk", &|s| bytes(s.file_bytes as f64), &|s| s.file_bytes as f64);
    row("weights", &|s| bytes(s.totals.weight_bytes), &|s| s.totals.weight_bytes);
    row("parameters", &|s| count(s.totals.parameters as f64), &|s| s.totals.parameters as f64);
    row("multiply–accumulates", &|s| count(s.totals.macs as f64), &|s| s.totals.macs as f64);
    row("bit operations", &|s| count(s.totals.bit_operations as f64), &|s| s.totals.bit_operations as f64);
    let latency = |s: &Side| s.timing.map_or(0.0, |t| t.median);
    if a.timing.is_some() {
        row("latency", &|s| ms(latency(s)), &latency);
    }
    if let (Some(x), Some(y)) = (a.accuracy, b.accuracy) {
        let points = |d: f64| format!("{:+.2} points", 100.0 * d);
        let name = format!("accuracy on {} samples", x.samples);
        table.row([name, percent(x.top1()), percent(y.top1()), points(y.top1() - x.top1())]);
        if x.classes >= 100 {
            table.row([
                "… among the best five".into(),
                percent(x.top5()),
                percent(y.top5()),
                points(y.top5() - x.top5()),
            ]);
        }
    }
    output::print(&table.render())?;
    let loud = if report.calibration.synthetic { "  ← ranges are a guess; give --calibrate DATA" } else { "" };
    output::line(&format!("\ncalibrated on {source}{loud}"))?;
    if a.accuracy.is_none() {
        output::line("accuracy not measured; give --evaluate DATA")?;
    }
    let names: Vec<String> = outputs.iter().map(|p| p.display().to_string()).collect();
    output::line(&format!("wrote {}", names.join(" and ")))
}

fn as_json(args: &Args, sides: &[Side; 2], report: &Report, outputs: &[PathBuf]) -> Value {
    let side = |s: &Side| {
        json!({
            "file_bytes": s.file_bytes, "parameters": s.totals.parameters, "weight_bytes": s.totals.weight_bytes,
            "macs": s.totals.macs, "bit_operations": s.totals.bit_operations,
            "accuracy": s.accuracy.map(|a| json!({"samples": a.samples, "top1": a.top1(), "top5": a.top5()})),
            "latency_ms": s.timing.map(|t| json!({"median": t.median, "min": t.min})),
        })
    };
    let islands: Vec<Value> =
        report.islands.iter().map(|i| json!({"node": i.node, "op": i.op, "reason": i.reason})).collect();
    json!({
        "model": args.model, "bits": {"weights": args.bits.weights, "activations": args.bits.activations},
        "before": side(&sides[0]), "after": side(&sides[1]),
        "calibration": {"samples": report.calibration.samples, "synthetic": report.calibration.synthetic},
        "output_sqnr_db": report.output_sqnr_db, "layers": report.layers.iter().map(layer_json).collect::<Vec<_>>(),
        "float_islands": islands, "outputs": outputs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("minmax").unwrap(), RangeMethod::MinMax);
        assert_eq!(parse_range("percentile:99").unwrap(), RangeMethod::Percentile(99.0));
        for bad in ["", "max", "percentile:", "percentile:101", "mse:3"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}

//! `qing compare`: two networks side by side.

use anyhow::{Result, ensure};
use qing::lighten::compare::{Comparison, Pair, compare};
use serde_json::json;

use crate::{
    feeds::{self, Feeds, PreprocessArgs},
    model,
    output::{self, percent},
    process,
    progress::Progress,
    table::Table,
};

/// Rows of the table unless --all is given.
const ROWS: usize = 40;

/// Run two versions of a network side by side, layer by layer, and show where they part
///
/// Float against quantized, quantized against quantized, a file of one format against one of another. Values are matched by name, layers
/// without a name in common by op, shape and order; a layer is compared after its activation function. Each network's input is
/// prepared as its own metadata says.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The network to compare with: a file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "A")]
    a: String,
    /// The network that may differ
    #[arg(value_name = "B")]
    b: String,
    /// Samples, PATH[:SPLIT][@SLICE]; with labels, accuracy is shown as well
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Take at most N of them
    #[arg(long, value_name = "N", default_value_t = 64)]
    limit: usize,
    /// Samples in one run
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Show every value that was matched; else the layers with weights and the places where the networks part
    #[arg(long)]
    all: bool,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (a, b) = (model::load(&args.a)?, model::load(&args.b)?);
    let feeds = [Feeds::new(&a.graph, &args.preprocess)?, Feeds::new(&b.graph, &args.preprocess)?];
    let data = feeds::open("--data", &args.data, Some(args.limit))?;
    ensure!(!data.is_empty(), "--data {}: no samples", args.data);
    let first = data.item(0)?;
    feeds.iter().for_each(|f| f.warn_if_guessed(&first));
    // A network that insists on a size of batches gets it; samples that do not fill the last one are left out.
    let fixed = [&a.graph, &b.graph].iter().find_map(|g| g.ty(*g.inputs.first()?).shape.as_ref()?.first()?.known());
    let size = fixed.unwrap_or(args.batch).clamp(1, data.len().max(1));
    let count = if fixed.is_some() { data.len() / size * size } else { data.len() };
    ensure!(count > 0, "the network takes batches of {size}; there are {} samples", data.len());
    let mut batches = vec![];
    for first in (0..count).step_by(size) {
        let items = || (first..(first + size).min(count)).map(|i| data.item(i)).collect::<Result<Vec<_>, _>>();
        batches.push((vec![feeds[0].only()?.batch(items()?)?], vec![feeds[1].only()?.batch(items()?)?]));
    }
    let mut progress = Progress::new("compare", batches.len());
    let threads = args.threads.unwrap_or_else(process::cores);
    let found = compare(&a.graph, &b.graph, &batches, threads, &mut |p| progress.stage(p.stage, p.done, p.total))?;
    drop(progress);
    let labels: Vec<Option<usize>> = (0..found.predictions.len()).map(|i| data.label(i)).collect();
    let accuracy = accuracy(&found, &labels);
    if args.json {
        let mut value = serde_json::to_value(&found)?;
        value["a"] = json!(args.a);
        value["b"] = json!(args.b);
        value["data"] = json!(data.name());
        value["accuracy"] = json!(accuracy);
        return output::json(&value);
    }
    show(args, &found, accuracy)
}

/// Share of the samples each network takes for what they are, if all have labels.
fn accuracy(found: &Comparison, labels: &[Option<usize>]) -> Option<[f64; 2]> {
    if labels.is_empty() || labels.iter().any(Option::is_none) {
        return None;
    }
    let right = |pick: fn(&(usize, usize)) -> usize| {
        let hits = found.predictions.iter().zip(labels).filter(|(p, l)| Some(pick(p)) == **l).count();
        hits as f64 / labels.len() as f64
    };
    Some([right(|p| p.0), right(|p| p.1)])
}

fn show(args: &Args, found: &Comparison, accuracy: Option<[f64; 2]>) -> Result<()> {
    let last = found.pairs.len().saturating_sub(1);
    let wanted = |i: usize, p: &Pair| args.all || p.layer || i == last || found.parting.contains(&i);
    let shown: Vec<usize> = (0..found.pairs.len()).filter(|i| wanted(*i, &found.pairs[*i])).collect();
    let mut table = Table::new(&[
        "value",
        "op",
        "in B",
        "type in A",
        "type in B",
        ">SNR",
        ">cosine",
        ">max error",
        ">of",
        ">bias",
        "",
    ]);
    let hidden = if args.all { 0 } else { shown.len().saturating_sub(ROWS) };
    // Of very deep networks the places that matter and every so many layers.
    let step = shown.len().div_ceil(ROWS).max(1);
    for (n, i) in shown.iter().enumerate() {
        let mark = found.parting.iter().position(|p| p == i);
        if hidden > 0 && mark.is_none() && n % step != 0 && *i != last {
            continue;
        }
        table.row(row(&found.pairs[*i], mark));
    }
    output::print(&table.render())?;
    if hidden > 0 {
        output::line(&format!("({} of {} values; --all shows every one)", table.len(), found.pairs.len()))?;
    }
    output::line("")?;
    let Some(end) = found.pairs.last() else { return Ok(()) };
    output::line(&format!("output: {}, over {} samples", snr(end.snr_db), found.samples))?;
    match found.parting.first().map(|i| &found.pairs[*i]) {
        None => output::line("nowhere do they part: every value compared is equal")?,
        Some(worst) => output::line(&format!(
            "they part most at {} ({}): {:.2} % of its power is difference that was not in its inputs",
            output::name(&worst.a),
            worst.op,
            100.0 * worst.added
        ))?,
    }
    for (name, lost) in [("A", &found.only_a), ("B", &found.only_b)] {
        if !lost.is_empty() {
            let names: Vec<String> = lost.iter().map(|n| output::name(n)).collect();
            output::line(&format!("layers of {name} without a counterpart: {}", names.join(", ")))?;
        }
    }
    if let Some(agreement) = found.agreement {
        output::line(&format!("the same class for {} of the samples", percent(agreement)))?;
    }
    if let Some([x, y]) = accuracy {
        output::line(&format!("right: A {}, B {}", percent(x), percent(y)))?;
    }
    Ok(())
}

/// A ratio of signal to noise; of a value that is nothing but zeros there is none.
fn snr(db: Option<f64>) -> String {
    match db {
        None => "silent".into(),
        Some(db) if db >= 200.0 => "equal".into(),
        Some(db) => format!("{db:.1} dB"),
    }
}

fn row(p: &Pair, mark: Option<usize>) -> [String; 11] {
    let short = |ty: &str| ty.split('[').next().unwrap_or_default().to_string();
    [
        output::name(&p.a),
        p.op.clone(),
        if p.a == p.b { String::new() } else { output::name(&p.b) },
        short(&p.a_type),
        short(&p.b_type),
        snr(p.snr_db),
        p.cosine.map_or("–".into(), |c| format!("{c:.5}")),
        format!("{:.3}", p.max_error),
        format!("{:.3}", p.max_value),
        format!("{:+.4}", p.mean_error),
        match (mark, (0.5..2.0).contains(&p.gain) || p.max_value == 0.0) {
            (Some(m), true) => format!("← parts ({})", m + 1),
            (Some(m), false) => format!("← parts ({}), in another unit (× {:.3})", m + 1, p.gain),
            (None, true) => String::new(),
            (None, false) => format!("in another unit (× {:.3})", p.gain),
        },
    ]
}

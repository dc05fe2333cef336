//! What became of a network, for people and for programs.

use std::path::PathBuf;

use anyhow::Result;
use qing::{
    data::{Dataset, Item},
    lighten::{Report, Totals},
};
use serde_json::{Value, json};

use super::{Args, search};
use crate::{
    accuracy::Accuracy,
    feeds::Feeds,
    inspect::{layer_json, layer_table},
    output::{self, bytes, count, ms, percent},
    picture,
    run::predict,
    runner::Runner,
    table::Table,
    timing::Timing,
};

/// What is measured of a network before and after.
pub(super) struct Side {
    pub file_bytes: u64,
    pub totals: Totals,
    pub accuracy: Option<Accuracy>,
    pub timing: Option<Timing>,
}

/// Shows one image and what both networks take it for.
pub(super) fn show_one(data: &Dataset, feeds: &Feeds, before: &mut Runner, after: &mut Runner) -> Result<()> {
    let item = data.item(0)?;
    if let Item::Image(image) = &item {
        output::print(&picture::render(image))?;
    }
    let input = feeds.only()?.batch(vec![item])?;
    let answer =
        |r: &mut Runner| Ok::<_, anyhow::Error>(predict(r, input.clone())?.map_or_else(String::new, |(_, name)| name));
    output::line(&format!("before: {}, after: {}\n", answer(before)?, answer(after)?))
}

pub(super) fn show(model: &str, sides: &[Side; 2], report: &Report, source: &str, outputs: &[PathBuf]) -> Result<()> {
    output::print(&layer_table(&report.layers, true).render())?;
    for island in &report.islands {
        output::line(&format!("in floating point: {} ({}): {}", island.node, island.op, island.reason))?;
    }
    if !report.smoothed.is_empty() {
        let multiplied = report.smoothed.iter().filter(|s| s.multiplied).count();
        let cost =
            if multiplied > 0 { format!(", {multiplied} of them by a multiplication more") } else { String::new() };
        output::line(&format!("outliers of {} values moved into weights{cost}", report.smoothed.len()))?;
    }
    if !report.rotated.is_empty() {
        let products: usize = report.rotated.iter().map(|r| r.products).sum();
        let cost = if products > 0 { format!(", by {products} small products more") } else { String::new() };
        output::line(&format!("outliers in {} places spread over channels{cost}", report.rotated.len()))?;
    }
    search::show(report)?;
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
    table.row(["compressed (--compress)".into(), String::new(), bytes(report.file_bytes[1] as f64), String::new()]);
    output::print(&table.render())?;
    let loud = if report.calibration.synthetic { "  ← ranges are a guess; give --calibrate DATA" } else { "" };
    output::line(&format!("\ncalibrated on {source}{loud}"))?;
    if a.accuracy.is_none() {
        output::line("accuracy not measured; give --evaluate DATA")?;
    }
    let names: Vec<String> = outputs.iter().map(|p| p.display().to_string()).collect();
    output::line(&format!("wrote {}", names.join(" and ")))
}

pub(super) fn as_json(args: &Args, sides: &[Side; 2], report: &Report, outputs: &[PathBuf]) -> Value {
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
        "model": args.model, "bits": {"weights": args.bits.weights, "activations": args.bits.activations}, "search": report.search,
        "before": side(&sides[0]), "after": side(&sides[1]),
        "calibration": {"samples": report.calibration.samples, "synthetic": report.calibration.synthetic},
        "file_bytes": {"plain": report.file_bytes[0], "compressed": report.file_bytes[1]},
        "output_sqnr_db": report.output_sqnr_db, "layers": report.layers.iter().map(layer_json).collect::<Vec<_>>(),
        "smoothed": report.smoothed, "rotated": report.rotated, "blocks": report.blocks, "float_islands": islands, "outputs": outputs,
    })
}

//! `qing inspect`: what is in a model.

use anyhow::Result;
use qing::{Plan, PlanOptions, graph::dump, lighten};
use serde_json::json;

use crate::{
    model,
    output::{self, bytes, count},
    table::Table,
};

/// Show what is in a model: inputs, outputs, metadata, costs, layers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Print the whole graph, one line a node, as it was read
    #[arg(long, conflicts_with_all = ["plan", "json"])]
    graph: bool,
    /// Print the plan for this machine: kernels, fusions, memory
    #[arg(long, conflicts_with = "json")]
    plan: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    if args.graph {
        return output::print(&dump(&model.graph));
    }
    if args.plan {
        return output::print(&Plan::new(&model.graph, &PlanOptions::default())?.dump());
    }
    let (inputs, outputs) = model::signature(&model.graph);
    let totals = lighten::totals(&model.graph, None);
    let layers = lighten::layers(&model.graph, None);
    if args.json {
        return output::json(&json!({
            "model": args.model, "file_bytes": model.file_bytes, "inputs": inputs, "outputs": outputs,
            "metadata": model.graph.metadata, "nodes": model.graph.nodes.len(),
            "parameters": totals.parameters, "weight_bytes": totals.weight_bytes, "macs": totals.macs,
            "bit_operations": totals.bit_operations,
            "layers": layers.iter().map(layer_json).collect::<Vec<_>>(),
        }));
    }
    output::line(&format!("{}  {}, {} nodes", args.model, bytes(model.file_bytes as f64), model.graph.nodes.len()))?;
    inputs.iter().try_for_each(|x| output::line(&format!("  input   {x}")))?;
    outputs.iter().try_for_each(|x| output::line(&format!("  output  {x}")))?;
    for (key, value) in &model.graph.metadata {
        output::line(&format!("  {key} = {}", shortened(value)))?;
    }
    output::line(&format!(
        "  {} parameters in {}, {} multiply–accumulates, {} bit operations\n",
        count(totals.parameters as f64),
        bytes(totals.weight_bytes),
        count(totals.macs as f64),
        count(totals.bit_operations as f64)
    ))?;
    output::print(&layer_table(&layers, false).render())?;
    let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
    model.graph.nodes.iter().for_each(|n| *kinds.entry(n.op.name()).or_default() += 1);
    let kinds: Vec<String> = kinds.into_iter().map(|(op, n)| format!("{n} {op}")).collect();
    output::line(&format!("\nops: {}", kinds.join(", ")))
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST { text.into() } else { text.chars().take(LONGEST).collect::<String>() + "…" }
}

/// Layers with their costs, and their noise where it was measured.
pub(crate) fn layer_table(layers: &[lighten::Layer], noise: bool) -> Table {
    let mut columns = vec!["layer", "op", "output", ">weights", ">activations", ">parameters", ">MACs", ">bit ops"];
    if noise {
        columns.push(">SQNR");
    }
    let mut table = Table::new(&columns);
    for l in layers {
        let shape: Vec<String> = l.output.iter().map(usize::to_string).collect();
        let mut row = vec![
            output::name(&l.name),
            l.op.clone(),
            shape.join("×"),
            format!("{} bit", l.weight_bits),
            format!("{} bit", l.activation_bits),
            count(l.parameters as f64),
            count(l.macs as f64),
            count(l.bit_operations as f64),
        ];
        if noise {
            row.push(l.sqnr_db.map_or_else(|| "–".into(), |db| format!("{db:.1} dB")));
        }
        table.row(row);
    }
    table
}

pub(crate) fn layer_json(l: &lighten::Layer) -> serde_json::Value {
    json!({
        "name": l.name, "op": l.op, "output": l.output, "weight_bits": l.weight_bits, "activation_bits": l.activation_bits,
        "parameters": l.parameters, "weight_bytes": l.weight_bytes, "macs": l.macs, "bit_operations": l.bit_operations,
        "sqnr_db": l.sqnr_db,
    })
}

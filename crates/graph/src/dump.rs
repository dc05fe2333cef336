//! A graph as text: one line a node, for people, snapshots and diffs.

use std::fmt::Write as _;

use crate::{AttrValue, Graph, ValueId};

/// The whole graph as text.
pub fn dump(graph: &Graph) -> String {
    let mut out = String::new();
    let value = |id: &ValueId| format!("%{}", graph.value(*id).name);
    let typed = |id: &ValueId| format!("%{}: {}", graph.value(*id).name, graph.ty(*id));
    let list = |ids: &[ValueId], f: &dyn Fn(&ValueId) -> String| ids.iter().map(f).collect::<Vec<_>>().join(", ");
    let _ = writeln!(out, "graph {}({}) {{", graph.name, list(&graph.inputs, &typed));
    for node in &graph.nodes {
        let inputs: Vec<String> = node
            .inputs
            .iter()
            .map(|i| match i {
                None => "–".into(),
                Some(id) if graph.constant(*id).is_some() => typed(id),
                Some(id) => value(id),
            })
            .collect();
        let attrs: Vec<String> = node.op.attrs().0.iter().map(|(name, v)| format!("{name}={}", attribute(v))).collect();
        let attrs = if attrs.is_empty() { String::new() } else { format!(" {{{}}}", attrs.join(", ")) };
        let outputs = list(&node.outputs, &typed);
        let _ = writeln!(out, "  {outputs} = {}({}){attrs}", node.op.name(), inputs.join(", "));
    }
    let _ = writeln!(out, "  return {}\n}}", list(&graph.outputs, &value));
    out
}

fn attribute(value: &AttrValue) -> String {
    match value {
        AttrValue::Int(v) => v.to_string(),
        AttrValue::Float(v) => v.to_string(),
        AttrValue::String(v) => format!("{v:?}"),
        AttrValue::Tensor(v) => format!("{v:?}"),
        AttrValue::Ints(v) => format!("{v:?}"),
        AttrValue::Floats(v) => format!("{v:?}"),
        AttrValue::Strings(v) => format!("{v:?}"),
    }
}

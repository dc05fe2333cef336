//! The invariants of a graph, checked after every rewrite in debug builds and tests, and on everything read from a file.

use std::collections::HashSet;

use crate::{Graph, GraphError, QuantRule, ValueId, infer};

/// Checks that the graph is well formed: every value defined once and before its use, constants of the type they claim,
/// quantization that fits element and shape, and shapes that each op's rule agrees with.
///
/// # Errors
/// The first violation found, naming node and value.
pub fn verify(graph: &Graph) -> Result<(), GraphError> {
    let malformed = |text: String| Err(GraphError::Malformed(text));
    let mut defined: HashSet<ValueId> = HashSet::new();
    let count = graph.values().len();
    for id in graph.inputs.iter().chain(&graph.outputs) {
        if id.0 as usize >= count {
            return malformed(format!("value {} does not exist", id.0));
        }
    }
    for (id, value) in graph.values() {
        if let Some(q) = &value.ty.quant {
            if !value.ty.element.is_quantizable() {
                return malformed(format!("`{}` is quantized but its element is {}", value.name, value.ty.element));
            }
            if let Some(shape) = value.ty.known_shape()
                && q.slices(&shape) != Some(q.scales().len())
            {
                let n = q.scales().len();
                return malformed(format!("`{}` of type {} has {n} scales", value.name, value.ty));
            }
        }
        if let Some(tensor) = &value.constant {
            defined.insert(id);
            if tensor.element() != value.ty.element || value.ty.known_shape().is_some_and(|s| s != tensor.shape()) {
                return malformed(format!("constant `{}` is {:?}, its type says {}", value.name, tensor, value.ty));
            }
        }
    }
    for id in &graph.inputs {
        defined.insert(*id);
    }
    for node in &graph.nodes {
        for id in node.inputs.iter().flatten() {
            if id.0 as usize >= count {
                return malformed(format!("node `{}` reads value {}, which does not exist", node.name, id.0));
            }
            if !defined.contains(id) {
                let name = &graph.value(*id).name;
                return malformed(format!("node `{}` reads `{name}` before it is defined", node.name));
            }
        }
        for id in &node.outputs {
            if id.0 as usize >= count {
                return malformed(format!("node `{}` defines value {}, which does not exist", node.name, id.0));
            }
            // A node whose result was computed ahead of time keeps defining it.
            if !defined.insert(*id) && graph.constant(*id).is_none() {
                return malformed(format!("`{}` is defined twice", graph.value(*id).name));
            }
        }
        if let QuantRule::Dot { weight, .. } = node.op.quantization()
            && let (Some(x), Some(w)) = (node.input(if weight == 0 { 1 } else { 0 }), node.input(weight))
            && graph.ty(x).quant.is_some() != graph.ty(w).quant.is_some()
        {
            let (x, w) = (graph.ty(x), graph.ty(w));
            return malformed(format!(
                "node `{}` multiplies {x} by {w}; both must be quantized, or neither",
                node.name
            ));
        }
        let inferred = infer::infer_node(graph, node, node.outputs.len())?;
        for (id, ty) in node.outputs.iter().zip(inferred) {
            let (Some(have), Some(want)) = (&graph.ty(*id).shape, &ty.shape) else { continue };
            let agree = have.len() == want.len()
                && have.iter().zip(want).all(|(a, b)| match (a.known(), b.known()) {
                    (Some(a), Some(b)) => a == b,
                    _ => true,
                });
            if !agree {
                let value = graph.value(*id);
                return malformed(format!("`{}` is {}, but node `{}` gives {ty}", value.name, value.ty, node.name));
            }
        }
    }
    for id in &graph.outputs {
        if !defined.contains(id) {
            return malformed(format!("output `{}` is never defined", graph.value(*id).name));
        }
    }
    Ok(())
}

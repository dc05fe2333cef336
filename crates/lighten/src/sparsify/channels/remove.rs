//! Taking channels out of a graph.

use qing_graph::{AttrValue, Graph, Node, NodeId, OpError, Tensor, ValueId, infer, verify};

use super::depend::{Dependencies, Edit};
use crate::LightenError;

/// The graph without the units that are `gone`. A layer that is left with nothing to read is taken out with what it made, its
/// bias included; an addition that loses an operand this way is its other operand.
///
/// # Errors
/// If something that cannot go would be left without channels.
pub(super) fn remove(graph: &Graph, d: &Dependencies, gone: &[bool]) -> Result<Graph, LightenError> {
    let silent = silence(graph, d, gone)
        .map_err(|node| LightenError::Option(format!("`{}` would be left without channels", graph.nodes[node].name)))?;
    let mut made = graph.clone();
    for slice in &d.slices {
        if d.left(&slice.atoms, gone) < slice.atoms.len() {
            cut(&mut made, slice.constant, slice.axis, |i| d.stays(slice.atoms[i], gone))?;
        }
    }
    for edit in &d.edits {
        change(&mut made, d, edit, gone)?;
    }
    // What is silent is read by nobody any more.
    let mut stands_for: Vec<Option<ValueId>> = vec![None; graph.values().len()];
    let through = |stands_for: &[Option<ValueId>], mut id: ValueId| {
        while let Some(other) = stands_for.get(id.0 as usize).copied().flatten() {
            id = other;
        }
        id
    };
    for node in &mut made.nodes {
        // Constants that were added are heard.
        let heard = |id: &ValueId| !silent.get(id.0 as usize).copied().unwrap_or(false);
        if node.outputs.iter().all(|o| !heard(o)) {
            continue;
        }
        if node.inputs.iter().flatten().any(|id| !heard(id)) {
            node.inputs.retain(|id| id.is_none_or(|id| heard(&id)));
            if let ([Some(only)], true) = (node.inputs.as_slice(), node.op.name() != "Concat") {
                stands_for[node.outputs[0].0 as usize] = Some(*only);
            }
        }
        for id in node.inputs.iter_mut().flatten() {
            *id = through(&stands_for, *id);
        }
    }
    let mut nodes = std::mem::take(&mut made.nodes);
    nodes.retain(|n| !n.outputs.iter().all(|o| silent[o.0 as usize] || stands_for[o.0 as usize].is_some()));
    made.nodes = nodes;
    for i in 0..made.outputs.len() {
        made.outputs[i] = through(&stands_for, made.outputs[i]);
    }
    forget_shapes(&mut made);
    infer::infer(&mut made)?;
    let made = made.compacted();
    verify::verify(&made)?;
    Ok(made)
}

/// By value, whether nothing is left of it; the node that would be needed for a result and has nothing left, if there is one.
pub(super) fn silence(graph: &Graph, d: &Dependencies, gone: &[bool]) -> Result<Vec<bool>, NodeId> {
    let mut silent = vec![false; graph.values().len()];
    let mut reads: Vec<Option<&[usize]>> = vec![None; graph.nodes.len()];
    for layer in &d.weighted {
        reads[layer.node] = layer.input.as_deref();
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let is_silent = |id: &ValueId| silent[id.0 as usize];
        let deaf = node.inputs.iter().flatten().any(is_silent)
            || reads[i].is_some_and(|atoms| !atoms.is_empty() && d.left(atoms, gone) == 0);
        let empty = |id: &ValueId| {
            d.lanes[id.0 as usize].as_ref().is_some_and(|l| !l.atoms.is_empty() && d.left(&l.atoms, gone) == 0)
        };
        let quiet = match node.op.name() {
            "Add" | "Sum" | "Concat" if deaf => {
                let same = |id: &ValueId| graph.ty(*id).shape == graph.ty(node.outputs[0]).shape;
                let others = node.inputs.iter().flatten().filter(|id| !is_silent(id));
                // A sum of one is that one only if it need not be spread out.
                if node.op.name() != "Concat" && others.clone().any(|id| !same(id)) {
                    return Err(i);
                }
                others.count() == 0
            }
            "Sub" | "Div" | "Min" | "Max" | "PRelu" | "Pow"
                if deaf && node.inputs.iter().flatten().any(|id| !is_silent(id) && graph.constant(*id).is_none()) =>
            {
                return Err(i);
            }
            "Pad" if deaf && !node.outputs.iter().all(empty) => return Err(i),
            _ => deaf || node.outputs.iter().all(empty),
        };
        for id in &node.outputs {
            silent[id.0 as usize] = quiet;
        }
    }
    let last = |id: &ValueId| graph.nodes.iter().position(|n| n.outputs.contains(id)).unwrap_or(0);
    match graph.outputs.iter().find(|id| silent[id.0 as usize]) {
        Some(id) => Err(last(id)),
        None => Ok(silent),
    }
}

/// Keeps the slices of a constant along an axis for which `keep` is true.
fn cut(graph: &mut Graph, id: ValueId, axis: usize, keep: impl Fn(usize) -> bool) -> Result<(), LightenError> {
    let value = graph.value_mut(id);
    let Some(tensor) = &value.constant else { return Ok(()) };
    let mut shape = tensor.shape().to_vec();
    let inner: usize = shape[axis + 1..].iter().product();
    let size = shape[axis];
    let values = tensor.to_f64s();
    let kept = (0..values.len()).filter(|i| keep(i / inner.max(1) % size)).map(|i| values[i]).collect::<Vec<_>>();
    shape[axis] = (0..size).filter(|i| keep(*i)).count();
    let tensor = Tensor::new(&shape, kept).map_err(OpError::from)?.cast(tensor.element());
    value.ty.shape = Some(shape.into_iter().map(Into::into).collect());
    value.constant = Some(tensor);
    Ok(())
}

fn change(graph: &mut Graph, d: &Dependencies, edit: &Edit, gone: &[bool]) -> Result<(), LightenError> {
    match edit {
        Edit::Depthwise { node, atoms } => {
            let left = d.left(atoms, gone);
            if left < atoms.len() {
                let node = &mut graph.nodes[*node];
                let mut attrs = node.op.attrs();
                attrs.set("group", AttrValue::Int(left.max(1) as i64));
                node.op = (node.op.spec().build)(&attrs)?;
            }
        }
        Edit::Shape { node, at, atoms } => {
            let left = d.left(atoms, gone) as i64;
            set_ints(graph, *node, |shape| shape[*at] = left)?;
        }
        Edit::Pad { node, axis, before, after } => {
            let (before, after) = (d.left(before, gone) as i64, d.left(after, gone) as i64);
            set_ints(graph, *node, |pads| {
                let rank = pads.len() / 2;
                (pads[*axis], pads[rank + *axis]) = (before, after);
            })?;
        }
    }
    Ok(())
}

/// Gives a node a constant of its own as input 1: the integers it has there, changed.
fn set_ints(graph: &mut Graph, node: NodeId, change: impl Fn(&mut [i64])) -> Result<(), LightenError> {
    let Node { name, .. } = graph.nodes[node].clone();
    let Some(tensor) = graph.nodes[node].input(1).and_then(|id| graph.constant(id)).cloned() else {
        return Err(LightenError::Option(format!("`{name}`: its shape is computed; fold constants first")));
    };
    let mut ints: Vec<i64> = tensor.to_f64s().into_iter().map(|v| v as i64).collect();
    let old = ints.clone();
    change(&mut ints);
    if ints != old {
        let id = graph.add_constant(&format!("{name}.cut"), Tensor::new(tensor.shape(), ints).map_err(OpError::from)?);
        graph.nodes[node].inputs[1] = Some(id);
    }
    Ok(())
}

/// Shapes of what nodes make follow from what they read.
fn forget_shapes(graph: &mut Graph) {
    for node in &graph.nodes.clone() {
        for id in &node.outputs {
            let value = graph.value_mut(*id);
            value.ty.shape = None;
        }
    }
}

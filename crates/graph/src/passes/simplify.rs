//! Removes what does nothing and joins what exporters split: identities, casts and reshapes to what a value already is,
//! transposes that cancel, padding before a convolution, means over all of space.

use qing_tensor::{Element, Tensor};

use super::support::{int, ints, is, make, producer};
use crate::{
    AttrValue, Dim, Graph, GraphError, Node, OpError, Type,
    rewrite::{Patch, PatchValue, Rule, View, rewrite},
};

/// Applies all simplifications of this file until none is left to do.
///
/// # Errors
/// If a rewrite would not type.
pub fn simplify(graph: &mut Graph) -> Result<usize, GraphError> {
    rewrite(graph, &[&RemoveIdentity, &MergeTransposes, &MergeReshapes, &MergePad, &GlobalMean])
}

fn static_shape(ty: &Type) -> Option<&[Dim]> {
    ty.shape.as_deref().filter(|s| s.iter().all(|d| !matches!(d, Dim::Unknown)))
}

/// Nodes whose output is their first input.
struct RemoveIdentity;

impl Rule for RemoveIdentity {
    fn name(&self) -> &'static str {
        "remove identity"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let graph = view.graph;
        let (Some(x), Some(y)) = (node.input(0), node.outputs.first().copied()) else { return Ok(None) };
        let others_unused =
            node.outputs[1..].iter().all(|id| view.consumers(*id).len() == 0 && !graph.outputs.contains(id));
        let (from, to) = (graph.ty(x), graph.ty(y));
        let same_shape = static_shape(from).is_some() && static_shape(from) == static_shape(to);
        let same_type = from.element == to.element && from.quant == to.quant;
        let training = || node.input(2).is_some_and(|id| graph.constant(id).is_none_or(|t| t.to_bools() != [false]));
        let does_nothing = match node.op.name() {
            _ if !node.op.spec().domain.is_empty() => false,
            "Identity" => true,
            "Dropout" => !training(),
            "Cast" => same_type && from.quant.is_none(),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Expand" => same_shape && same_type,
            "Transpose" => {
                let perm = ints(node, "perm");
                !perm.is_empty() && perm.iter().enumerate().all(|(i, p)| i as i64 == *p)
            }
            "Pad" => {
                let pads = node.input(1).and_then(|id| graph.constant(id));
                pads.is_some_and(|p| p.to_i64s().iter().all(|v| *v == 0))
            }
            "Concat" | "Sum" | "Max" | "Min" | "Mean" => node.inputs.len() == 1,
            "Slice" => same_shape && slice_steps_forward(graph, node),
            _ => false,
        };
        // An output that is also an input, or a constant, keeps a node of its own.
        let named = graph.outputs.contains(&y) && (view.producer(x).is_none() || graph.outputs.contains(&x));
        if !does_nothing || !others_unused || named {
            return Ok(None);
        }
        let mut patch = Patch::new();
        patch.replace(y, x);
        Ok(Some(patch))
    }
}

/// A slice that keeps every element keeps their order, if no step is negative.
fn slice_steps_forward(graph: &Graph, node: &Node) -> bool {
    match node.input(4) {
        None => true,
        Some(id) => graph.constant(id).is_some_and(|t| t.to_i64s().iter().all(|s| *s > 0)),
    }
}

/// Two transposes in a row are one.
struct MergeTransposes;

impl Rule for MergeTransposes {
    fn name(&self) -> &'static str {
        "merge transposes"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        if !is(node, "Transpose") {
            return Ok(None);
        }
        let Some(before) = node.input(0).and_then(|x| producer(view, x, "Transpose")) else { return Ok(None) };
        let (inner, outer) = (ints(before, "perm"), ints(node, "perm"));
        let merged: Option<Vec<i64>> =
            outer.iter().map(|p| usize::try_from(*p).ok().and_then(|p| inner.get(p)).copied()).collect();
        let (Some(merged), Some(x)) = (merged.filter(|m| !m.is_empty()), before.input(0)) else { return Ok(None) };
        let mut patch = Patch::new();
        let ty = view.graph.ty(node.outputs[0]).clone();
        let op = make("Transpose", &[("perm", AttrValue::Ints(merged))])?;
        let y = patch.typed_node(op, &node.name, &[Some(x.into())], ty);
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

/// Of two reshapes in a row only the last matters, if it names every dimension.
struct MergeReshapes;

impl Rule for MergeReshapes {
    fn name(&self) -> &'static str {
        "merge reshapes"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        if !is(node, "Reshape") {
            return Ok(None);
        }
        let before = node.input(0).and_then(|x| view.producer(x)).filter(|n| {
            matches!(n.op.name(), "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze") && n.op.spec().domain.is_empty()
        });
        let Some((x, shape)) = before.and_then(|n| n.input(0)).zip(node.input(1)) else { return Ok(None) };
        let absolute = view.graph.constant(shape).is_some_and(|t| t.to_i64s().iter().all(|d| *d != 0));
        if !absolute || view.graph.ty(x).quant != view.graph.ty(node.outputs[0]).quant {
            return Ok(None);
        }
        let mut patch = Patch::new();
        let ty = view.graph.ty(node.outputs[0]).clone();
        let y = patch.typed_node(node.op.clone(), &node.name, &[Some(x.into()), Some(shape.into())], ty);
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

/// Padding with zeros becomes the convolution's own.
struct MergePad;

impl Rule for MergePad {
    fn name(&self) -> &'static str {
        "merge padding"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let graph = view.graph;
        if !is(node, "Conv") {
            return Ok(None);
        }
        let attrs = node.op.attrs();
        let auto = attrs.read("auto_pad", String::from("NOTSET"))?;
        let Some(pad) = node.input(0).and_then(|x| producer(view, x, "Pad")) else { return Ok(None) };
        let Some((pads, rank)) = zero_pads(graph, pad) else { return Ok(None) };
        let spatial = rank.saturating_sub(2);
        if spatial == 0 || !matches!(auto.as_str(), "NOTSET" | "VALID" | "") {
            return Ok(None);
        }
        let outer_padded = [0, 1, rank, rank + 1].iter().any(|i| pads[*i] != 0);
        if outer_padded || pads.iter().any(|p| *p < 0) {
            return Ok(None);
        }
        let mut own = ints(node, "pads");
        if auto == "VALID" || own.is_empty() {
            own = vec![0; 2 * spatial];
        }
        for i in 0..spatial {
            own[i] += pads[2 + i];
            own[spatial + i] += pads[rank + 2 + i];
        }
        let mut attrs = attrs;
        attrs.remove("auto_pad");
        attrs.set("pads", AttrValue::Ints(own));
        let op = (node.op.spec().build)(&attrs)?;
        let mut inputs: Vec<Option<PatchValue>> = node.inputs.iter().map(|i| i.map(PatchValue::Old)).collect();
        inputs[0] = pad.input(0).map(PatchValue::Old);
        let mut patch = Patch::new();
        let y = patch.typed_node(op, &node.name, &inputs, graph.ty(node.outputs[0]).clone());
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

/// The pads of all axes (begins, then ends) of a constant padding with zeros, and the rank.
fn zero_pads(graph: &Graph, pad: &Node) -> Option<(Vec<i64>, usize)> {
    let rank = graph.ty(pad.input(0)?).rank()?;
    let mode: String = pad.op.attrs().read("mode", "constant".into()).ok()?;
    let value = pad.input(2).map(|id| graph.constant(id).map(Tensor::to_f64s));
    let zero = match value {
        None => true,
        Some(v) => v.is_some_and(|v| v.iter().all(|v| *v == 0.0)),
    };
    let given = graph.constant(pad.input(1)?)?.to_i64s();
    if mode != "constant" || !zero || graph.ty(pad.input(0)?).quant.is_some() {
        return None;
    }
    let Some(axes) = pad.input(3) else { return (given.len() == 2 * rank).then_some((given, rank)) };
    let axes = graph.constant(axes)?.to_i64s();
    if given.len() != 2 * axes.len() {
        return None;
    }
    let mut pads = vec![0; 2 * rank];
    for (i, axis) in axes.iter().enumerate() {
        let axis = usize::try_from(if *axis < 0 { axis + rank as i64 } else { *axis }).ok().filter(|a| *a < rank)?;
        pads[axis] = given[i];
        pads[rank + axis] = given[axes.len() + i];
    }
    Some((pads, rank))
}

/// A mean over all spatial axes is global average pooling, which has an integer rule. Of rank 3 it is more likely part of a
/// normalization.
struct GlobalMean;

impl Rule for GlobalMean {
    fn name(&self) -> &'static str {
        "mean over space to global average pooling"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let graph = view.graph;
        let Some(x) = node.input(0).filter(|_| is(node, "ReduceMean")) else { return Ok(None) };
        let (Some(rank), Some(axes)) = (graph.ty(x).rank().filter(|r| *r >= 4), axes_of(graph, node)) else {
            return Ok(None);
        };
        let mut axes: Vec<i64> = axes.iter().map(|a| if *a < 0 { a + rank as i64 } else { *a }).collect();
        axes.sort_unstable();
        if axes != (2..rank as i64).collect::<Vec<_>>() || graph.ty(x).element != Element::F32 {
            return Ok(None);
        }
        let mut patch = Patch::new();
        let keep = int(node, "keepdims", 1) != 0;
        let pooled = patch.any_node(make("GlobalAveragePool", &[])?, &node.name, vec![Some(x.into())], 1, None);
        let y = if keep {
            pooled
        } else {
            let squeezed = patch.constant(&format!("{}.axes", node.name), Tensor::vector(axes));
            patch.any_node(make("Squeeze", &[])?, &node.name, vec![Some(pooled), Some(squeezed)], 1, None)
        };
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

fn axes_of(graph: &Graph, node: &Node) -> Option<Vec<i64>> {
    match node.input(1) {
        Some(id) => graph.constant(id).map(Tensor::to_i64s),
        None => Some(ints(node, "axes")).filter(|a| !a.is_empty()),
    }
}

//! What the passes share.

use std::sync::Arc;

use qing_tensor::{Element, Tensor};

use crate::{AttrValue, Attrs, Graph, Node, Op, OpError, ValueId, ops, rewrite::View};

/// True if the node's op is ONNX's `name`.
pub(super) fn is(node: &Node, name: &str) -> bool {
    let spec = node.op.spec();
    spec.name == name && spec.domain.is_empty()
}

/// An op of the standard domain from its name and attributes.
pub(super) fn make(name: &str, attrs: &[(&str, AttrValue)]) -> Result<Arc<dyn Op>, OpError> {
    let spec = ops::find("", name).ok_or_else(|| OpError::unsupported(format!("the op {name}")))?;
    (spec.build)(&Attrs(attrs.iter().map(|(n, v)| ((*n).to_string(), v.clone())).collect()))
}

/// The node that defines `value`, if its op is ONNX's `name`.
pub(super) fn producer<'g>(view: &View<'g>, value: ValueId, name: &str) -> Option<&'g Node> {
    view.producer(value).filter(|n| is(n, name))
}

/// An integer attribute.
pub(super) fn int(node: &Node, name: &str, default: i64) -> i64 {
    node.op.attrs().read(name, default).unwrap_or(default)
}

/// A float attribute.
pub(super) fn float(node: &Node, name: &str, default: f32) -> f32 {
    node.op.attrs().read(name, default).unwrap_or(default)
}

/// An attribute that is a list of integers.
pub(super) fn ints(node: &Node, name: &str) -> Vec<i64> {
    node.op.attrs().read(name, vec![]).unwrap_or_default()
}

/// The constant behind input `i`, as f64.
pub(super) fn floats(graph: &Graph, node: &Node, i: usize) -> Option<Vec<f64>> {
    let tensor = graph.constant(node.input(i)?)?;
    tensor.element().is_float().then(|| tensor.to_f64s())
}

/// The constant number that input `i` holds in all its places.
pub(super) fn uniform(graph: &Graph, node: &Node, i: usize) -> Option<f64> {
    let values = floats(graph, node, i)?;
    let first = *values.first()?;
    values.iter().all(|v| *v == first).then_some(first)
}

/// Of a binary node, the input that is not constant, and the index of the one that is.
pub(super) fn split_constant(graph: &Graph, node: &Node) -> Option<(ValueId, usize)> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    match (graph.constant(a).is_some(), graph.constant(b).is_some()) {
        (false, true) => Some((a, 1)),
        (true, false) => Some((b, 0)),
        _ => None,
    }
}

/// A tensor of `element` from f64.
pub(super) fn tensor(element: Element, shape: &[usize], values: Vec<f64>) -> Result<Tensor, OpError> {
    Ok(Tensor::new(shape, values)?.cast(element))
}

//! What a layer can do to its results before it stores them: the nodes after it that need no pass of their own.

use qing_graph::{Element, Node, NodeId, Type, ValueId, arithmetic, ops};
use qing_kernels::{float::Clamp, quantized::Requantize};

use super::{Lower, attr};
use crate::storage::bias;

/// Nodes absorbed into a float layer.
pub(super) struct FloatTail {
    /// The value the layer computes in the end.
    pub(super) output: ValueId,
    /// Limits of the results.
    pub(super) clamp: Clamp,
    /// What is added before.
    pub(super) residual: Option<ValueId>,
    /// Absorbed nodes.
    pub(super) nodes: Vec<NodeId>,
}

/// Nodes absorbed into a quantized layer.
pub(super) struct QuantizedTail {
    /// The value the layer computes in the end.
    pub(super) output: ValueId,
    /// For every integer of the layer's own output type, from the lowest: the integer of `output`.
    table: Option<Vec<i32>>,
    /// Absorbed nodes.
    pub(super) nodes: Vec<NodeId>,
}

/// The limits of a ReLU or of a clip between constants.
pub(super) fn clamp_of(cx: &Lower<'_>, node: &Node) -> Option<Clamp> {
    if node.op.is::<ops::Relu>() {
        return Some(Clamp::RELU);
    }
    if node.op.name() != "Clip" {
        return None;
    }
    let bound = |i: usize, name: &str, none: f32| match node.input(i) {
        Some(id) => cx.graph.constant(id).and_then(|t| t.to_f32s().first().copied()),
        None => Some(attr(node, name, none)),
    };
    let clamp = Clamp { lo: bound(1, "min", f32::NEG_INFINITY)?, hi: bound(2, "max", f32::INFINITY)? };
    (clamp.lo <= clamp.hi).then_some(clamp)
}

/// Follows the values after a float layer that gives `output`, as long as they have one reader that can be absorbed.
pub(super) fn float_tail(cx: &Lower<'_>, output: ValueId, with_residual: bool) -> FloatTail {
    let mut tail = FloatTail { output, clamp: Clamp::NONE, residual: None, nodes: vec![] };
    if cx.graph.ty(output).element != Element::F32 || cx.graph.ty(output).quant.is_some() {
        return tail;
    }
    while let Some((index, node)) = cx.single_consumer(tail.output) {
        if let Some(clamp) = clamp_of(cx, node) {
            tail.clamp = Clamp { lo: clamp.apply(tail.clamp.lo), hi: clamp.apply(tail.clamp.hi) };
        } else if with_residual && tail.residual.is_none() && tail.clamp == Clamp::NONE && node.op.is::<ops::Add>() {
            let other = node.inputs.iter().flatten().find(|id| **id != tail.output).copied();
            let Some(other) = other else { break };
            // The other side must have been computed, and lie as the results do.
            if !cx.is_defined(other) || cx.shape(other) != cx.shape(tail.output) || cx.graph.ty(other).quant.is_some() {
                break;
            }
            tail.residual = Some(other);
        } else {
            break;
        }
        tail.output = node.outputs[0];
        tail.nodes.push(index);
    }
    tail
}

/// For unary ops between values quantized per tensor, the integer for each integer of the input's type.
pub(super) fn table_of(cx: &Lower<'_>, node: &Node) -> Option<Vec<i32>> {
    let x = node.input(0)?;
    let [y] = node.outputs[..] else { return None };
    let (x, y) = (cx.graph.ty(x), cx.graph.ty(y));
    if x.quant.is_none() || y.quant.is_none() {
        return None;
    }
    let rest_constant = node.inputs.iter().skip(1).flatten().all(|id| cx.graph.constant(*id).is_some());
    if !rest_constant {
        return None;
    }
    if node.inputs.len() > 1 || node.op.name() == "Clip" {
        let clamp = clamp_of(cx, node)?;
        return arithmetic::rescale_table(x, y, clamp.lo, clamp.hi).ok();
    }
    node.op.table(x, y).ok().flatten()
}

/// Follows the values after a quantized layer that gives `output`: every unary function of a quantized value is a table.
pub(super) fn quantized_tail(cx: &Lower<'_>, output: ValueId) -> QuantizedTail {
    let mut tail = QuantizedTail { output, table: None, nodes: vec![] };
    while let Some((index, node)) = cx.single_consumer(tail.output) {
        if node.input(0) != Some(tail.output) {
            break;
        }
        let Some(next) = table_of(cx, node) else { break };
        let Some((lo, hi)) = cx.graph.ty(tail.output).range() else { break };
        tail.table = Some(match tail.table {
            None => next,
            Some(before) => before.into_iter().map(|q| next[(q.clamp(lo, hi) - lo) as usize]).collect(),
        });
        tail.output = node.outputs[0];
        tail.nodes.push(index);
    }
    tail
}

/// A table over the integers of `x` as one over stored bytes.
pub(super) fn stored_table(table: &[i32], x: &Type, y: &Type) -> Box<[u8; 256]> {
    let lo = x.range().map_or(0, |(lo, _)| lo);
    let mut stored = Box::new([0u8; 256]);
    for (i, entry) in stored.iter_mut().enumerate() {
        let q = i as i32 - bias(x.element);
        let at = (q - lo).clamp(0, table.len() as i32 - 1) as usize;
        *entry = (table[at] + bias(y.element)).clamp(0, 255) as u8;
    }
    stored
}

impl QuantizedTail {
    /// `first`, a table that gives integers of `own`, followed by the absorbed functions.
    pub(super) fn compose(&self, cx: &Lower<'_>, first: Vec<i32>, own: ValueId) -> Vec<i32> {
        let (Some(table), Some((lo, hi))) = (&self.table, cx.graph.ty(own).range()) else { return first };
        first.into_iter().map(|q| table[(q.clamp(lo, hi) - lo) as usize]).collect()
    }

    /// How the layer's sums are brought back: `own` is the type of the layer's own output, `scale` per channel.
    pub(super) fn requantize(&self, cx: &Lower<'_>, own: &Type, scale: Vec<f32>) -> Option<Requantize> {
        let to = arithmetic::per_tensor(own).ok()?;
        let stored = |q: i32| u8::try_from(q + bias(own.element)).ok();
        let mut requantize =
            Requantize { scale, zero: stored(to.zero)?, lo: stored(to.lo)?, hi: stored(to.hi)?, table: None };
        if own.element == Element::Bipolar {
            return None;
        }
        let Some(table) = &self.table else { return Some(requantize) };
        let y = cx.graph.ty(self.output);
        // A table that only limits the range is a narrower range.
        let (low, high) = (*table.first()?, *table.last()?);
        let limits =
            own.element == y.element && low <= high && table.iter().zip(to.lo..).all(|(t, q)| *t == q.clamp(low, high));
        if limits {
            requantize.lo = stored(low)?;
            requantize.hi = stored(high)?;
        } else {
            requantize.table = Some(stored_table(table, own, y));
        }
        Some(requantize)
    }
}

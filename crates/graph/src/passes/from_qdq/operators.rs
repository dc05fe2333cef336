//! Quantized operators whose scales and zero points are inputs: which op on quantized types each of them is.

use std::sync::Arc;

use qing_tensor::Element;

use super::params::Params;
use crate::{Granularity, Graph, Node, Op, Quant, ValueId, ops, passes::support::is};

/// A layer whose quantization parameters were inputs.
pub(super) struct QLinear {
    pub(super) op: Arc<dyn Op>,
    pub(super) x: Params,
    pub(super) w: Params,
    pub(super) y: Params,
}

pub(super) fn qlinear_layer(graph: &Graph, node: &Node) -> Option<QLinear> {
    let (op, axis): (Arc<dyn Op>, usize) = if let Some(conv) = node.op.downcast::<ops::QLinearConv>() {
        (Arc::new(conv.conv()), 0)
    } else if is(node, "QLinearMatMul") {
        let rank = graph.ty(node.input(3)?).rank()?;
        (Arc::new(ops::MatMul {}), rank.checked_sub(1)?)
    } else {
        return None;
    };
    let params = |value: usize, scale: usize, zero: usize| {
        let scales = graph.constant(node.input(scale)?)?.to_f32s();
        let zero_tensor = graph.constant(node.input(zero)?)?;
        let zeros = zero_tensor.to_ints();
        let element = if value == usize::MAX { zero_tensor.element() } else { graph.ty(node.input(value)?).element };
        let quant = match scales.len() {
            1 if zeros.len() == 1 => Quant::per_tensor(scales[0], zeros[0]).ok()?,
            n if scale == 4 => {
                // Scales and zero points may each be one for all.
                let count = n.max(zeros.len());
                let scales = if n == 1 { vec![scales[0]; count] } else { scales };
                Quant::new(Granularity::Axis(axis), scales, zeros).ok()?
            }
            _ => return None,
        };
        element.is_quantizable().then(|| Params { element, quant: Arc::new(quant) })
    };
    let layer = QLinear { op, x: params(0, 1, 2)?, w: params(3, 4, 5)?, y: params(usize::MAX, 6, 7)? };
    (axis < 2 || layer.w.quant.as_per_tensor().is_some()).then_some(layer)
}

/// What a QLinear node says of its input `id`.
pub(super) fn qlinear_input(graph: &Graph, node: &Node, id: ValueId) -> Option<Params> {
    if let Some(layer) = qlinear_layer(graph, node) {
        return (node.input(0) == Some(id)).then_some(layer.x);
    }
    let form = qoperator(graph, node)?;
    let mut meanings =
        form.operands.into_iter().filter(|(at, _)| node.input(*at) == Some(id)).map(|(_, params)| params);
    let first = meanings.next()?;
    meanings.all(|m| m == first).then_some(first)
}

/// An op with quantized operands whose parameters were inputs.
pub(super) struct QOperator {
    pub(super) op: Arc<dyn Op>,
    /// Position and quantization of each operand.
    pub(super) operands: Vec<(usize, Params)>,
    pub(super) y: Params,
}

pub(super) fn qoperator(graph: &Graph, node: &Node) -> Option<QOperator> {
    let channels_first = |last: bool| (!last).then_some(());
    let op = &node.op;
    let (op, tensors, y): (Arc<dyn Op>, Vec<usize>, usize) = if op.is::<ops::QLinearAdd>() {
        (Arc::new(ops::Add {}), vec![0, 3], 6)
    } else if let Some(pool) = op.downcast::<ops::QLinearGlobalAveragePool>() {
        channels_first(pool.channels_last)?;
        (Arc::new(ops::GlobalAveragePool {}), vec![0], 3)
    } else if let Some(pool) = op.downcast::<ops::QLinearAveragePool>() {
        channels_first(pool.channels_last)?;
        (Arc::new(pool.pool()), vec![0], 3)
    } else if op.is::<ops::QLinearSigmoid>() {
        (Arc::new(ops::Sigmoid {}), vec![0], 3)
    } else if let Some(concat) = op.downcast::<ops::QLinearConcat>() {
        (Arc::new(ops::Concat { axis: concat.axis }), (2..node.inputs.len()).step_by(3).collect(), 0)
    } else {
        return None;
    };
    let params = |element: Element, scale: usize| {
        let scales = graph.constant(node.input(scale)?)?.to_f32s();
        let zeros = match node.input(scale + 1) {
            Some(zero) => graph.constant(zero)?.to_ints(),
            None => vec![0],
        };
        let ([scale], [zero]) = (&scales[..], &zeros[..]) else { return None };
        let quant = Arc::new(Quant::per_tensor(*scale, *zero).ok()?);
        element.is_quantizable().then_some(Params { element, quant })
    };
    let operands: Option<Vec<(usize, Params)>> =
        tensors.iter().map(|at| Some((*at, params(graph.ty(node.input(*at)?).element, at + 1)?))).collect();
    Some(QOperator { op, operands: operands?, y: params(graph.ty(node.outputs[0]).element, y)? })
}

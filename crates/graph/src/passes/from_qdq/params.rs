//! What a quantization node says: scale, zero point and integers, read from its constant inputs.

use std::sync::Arc;

use qing_tensor::{Element, Tensor};

use super::super::support::{int, is};
use crate::{Granularity, Graph, Node, Quant};

/// The quantization a node names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Params {
    pub(super) element: Element,
    pub(super) quant: Arc<Quant>,
}

/// How a node stands between reals and integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Reals to integers: `QuantizeLinear`.
    Quantize,
    /// Integers to reals: `DequantizeLinear`.
    Dequantize,
    /// Reals to the reals that integers can stand for: QONNX's `Quant` and `BipolarQuant`.
    Both,
}

/// The role and parameters of a quantization node; `None` for every other node, and for those whose parameters are not
/// constant or not of integers of 1–8 bits.
pub(super) fn read(graph: &Graph, node: &Node) -> Option<(Role, Params)> {
    let (role, params) = match (node.op.name(), node.op.spec().domain) {
        ("QuantizeLinear", "") => (Role::Quantize, linear(graph, node, graph.ty(node.outputs[0]).element)?),
        ("DequantizeLinear", "") => (Role::Dequantize, linear(graph, node, graph.ty(node.input(0)?).element)?),
        ("Quant" | "IntQuant", _) => (Role::Both, qonnx(graph, node)?),
        ("BipolarQuant", _) => {
            let scale = graph.constant(node.input(1)?)?;
            let rank = graph.ty(node.input(0)?).rank()?;
            (Role::Both, Params { element: Element::Bipolar, quant: Arc::new(quant(scale, &[0], rank)?) })
        }
        _ => return None,
    };
    params.element.is_quantizable().then_some((role, params))
}

/// The narrower integers that a clip of a freshly quantized value leaves: how widths without an ONNX type are written.
pub(super) fn narrowed(graph: &Graph, clip: &Node, from: Element) -> Option<Element> {
    if !is(clip, "Clip") {
        return None;
    }
    let bound = |i| Some(i64::from(*graph.constant(clip.input(i)?)?.to_ints().first()?));
    let (lo, hi) = (bound(1)?, bound(2)?);
    let signed = from.range()?.0 < 0;
    (1..8).filter_map(|width| Element::integer(width, signed)).find(|e| e.range() == Some((lo, hi)))
}

fn linear(graph: &Graph, node: &Node, element: Element) -> Option<Params> {
    let scale = graph.constant(node.input(1)?)?;
    if !scale.element().is_float() || !element.is_quantizable() {
        return None;
    }
    let zeros = match node.input(2) {
        Some(id) => graph.constant(id)?.to_ints(),
        None => vec![0],
    };
    let scales = scale.to_f32s();
    if scales.len() == 1 && scale.rank() <= 1 {
        return Some(Params { element, quant: Arc::new(Quant::per_tensor(scales[0], *zeros.first()?).ok()?) });
    }
    let rank = graph.ty(node.input(0)?).rank()? as i64;
    let axis = int(node, "axis", 1);
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|a| *a < rank as usize)?;
    let granularity = match usize::try_from(int(node, "block_size", 0)).ok()? {
        0 if scale.rank() == 1 => Granularity::Axis(axis),
        0 => return None,
        size => Granularity::Block { axis, size },
    };
    Some(Params { element, quant: Arc::new(Quant::new(granularity, scales, zeros).ok()?) })
}

/// QONNX's `Quant(x, scale, zero, bits)`.
fn qonnx(graph: &Graph, node: &Node) -> Option<Params> {
    let attrs = node.op.attrs();
    let signed = attrs.read("signed", 1i64).ok()? != 0;
    let narrow = attrs.read("narrow", 0i64).ok()? != 0;
    let rounding: String = attrs.read("rounding_mode", "ROUND".into()).ok()?;
    if rounding != "ROUND" && rounding != "round" {
        return None;
    }
    let (scale, zero) = (graph.constant(node.input(1)?)?, graph.constant(node.input(2)?)?);
    let bits = graph.constant(node.input(3)?)?.to_f64s();
    let zeros: Option<Vec<i32>> = zero.to_f64s().iter().map(|z| (z.fract() == 0.0).then_some(*z as i32)).collect();
    let width = *bits.first().filter(|b| b.fract() == 0.0 && (1.0..=8.0).contains(*b))? as u8;
    // Signed integers of one bit are −1 and +1.
    let element = if signed && width == 1 { Element::Bipolar } else { Element::integer(width, signed)? };
    // A narrow range of activations has one code fewer than the type; only weights, which are folded, may use it.
    if narrow && (!signed || graph.constant(node.input(0)?).is_none()) {
        return None;
    }
    Some(Params { element, quant: Arc::new(quant(scale, &zeros?, graph.ty(node.input(0)?).rank()?)?) })
}

/// Scales that broadcast along one axis of a value of `rank`, or none, as QONNX stores them.
fn quant(scale: &Tensor, zeros: &[i32], rank: usize) -> Option<Quant> {
    let scales = scale.to_f32s();
    if scales.len() == 1 {
        return Quant::per_tensor(scales[0], *zeros.first()?).ok();
    }
    let mut axes = scale.shape().iter().enumerate().filter(|(_, d)| **d != 1).map(|(i, _)| i);
    let axis = axes.next()? + rank.checked_sub(scale.rank())?;
    if axes.next().is_some() {
        return None;
    }
    Quant::new(Granularity::Axis(axis), scales, zeros.to_vec()).ok()
}

//! Per-channel scaling and shifting (batch normalization; multiplication, division, addition and subtraction of constants)
//! merges into the convolution or matrix product before it. What is left of batch normalization becomes a depthwise
//! 1×1 convolution, which can be quantized like any other.

use qing_tensor::Tensor;

use super::support::{float, int, is, make, split_constant, tensor};
use crate::{
    AttrValue, Graph, GraphError, Node, Op, OpError, ValueId,
    rewrite::{Patch, PatchValue, Rule, View, rewrite},
};

/// Folds affine nodes into the layers before them.
///
/// # Errors
/// If a rewrite would not type.
pub fn fold_affine(graph: &mut Graph) -> Result<usize, GraphError> {
    Ok(rewrite(graph, &[&FoldAffine])? + rewrite(graph, &[&BatchNormToDepthwise])?)
}

/// `y = scale[c]·x + shift[c]` along the channel axis; one entry stands for all channels.
struct Affine {
    x: ValueId,
    scale: Vec<f64>,
    shift: Vec<f64>,
}

/// Reads a node as an affine map over channels at axis 1 (`last` false) or the last axis.
fn affine(graph: &Graph, node: &Node, last: bool) -> Option<Affine> {
    if is(node, "BatchNormalization") {
        let rank = graph.ty(node.input(0)?).rank()?;
        if (last && rank != 2) || int(node, "training_mode", 0) != 0 {
            return None;
        }
        let get = |i| super::support::floats(graph, node, i);
        let (gamma, beta, mean, var) = (get(1)?, get(2)?, get(3)?, get(4)?);
        let epsilon = f64::from(float(node, "epsilon", 1e-5));
        let scale: Vec<f64> = gamma.iter().zip(&var).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        return Some(Affine { x: node.input(0)?, scale, shift });
    }
    let (x, at) = split_constant(graph, node)?;
    let rank = graph.ty(x).rank()?;
    let constant = graph.constant(node.input(at)?)?;
    if !constant.element().is_float() || constant.element() != graph.ty(x).element {
        return None;
    }
    // The constant may vary along the channel axis only, and must not widen the shape.
    let axis = if last { rank.checked_sub(1)? } else { 1 };
    if constant.rank() > rank {
        return None;
    }
    let lead = rank - constant.rank();
    if constant.shape().iter().enumerate().any(|(i, d)| *d != 1 && i + lead != axis) {
        return None;
    }
    let c = constant.to_f64s();
    let (scale, shift) = match (node.op.name(), at) {
        _ if !node.op.spec().domain.is_empty() => return None,
        ("Mul", _) => (c, vec![0.0]),
        ("Div", 1) => (c.iter().map(|v| 1.0 / v).collect(), vec![0.0]),
        ("Add", _) => (vec![1.0], c),
        ("Sub", 1) => (vec![1.0], c.iter().map(|v| -v).collect()),
        ("Sub", 0) => (vec![-1.0], c),
        _ => return None,
    };
    scale.iter().chain(&shift).all(|v| v.is_finite()).then_some(Affine { x, scale, shift })
}

struct FoldAffine;

impl Rule for FoldAffine {
    fn name(&self) -> &'static str {
        "fold affine"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let graph = view.graph;
        let linear = |last| {
            let affine = affine(graph, node, last)?;
            let before = view.producer(affine.x)?;
            view.single_consumer(affine.x)?;
            Some((affine, before))
        };
        if let Some((affine, conv)) = linear(false)
            && (is(conv, "Conv") || is(conv, "ConvTranspose"))
        {
            return fold_into_convolution(graph, node, conv, &affine);
        }
        if let Some((affine, before)) = linear(true)
            && (is(before, "Gemm") || is(before, "MatMul"))
        {
            return fold_into_product(graph, node, before, &affine);
        }
        Ok(None)
    }
}

/// Unquantized constant weights.
fn weights(graph: &Graph, id: Option<ValueId>) -> Option<&Tensor> {
    graph.constant(id?).filter(|w| w.element().is_float())
}

/// `bias·scale + shift` for every channel.
fn merged_bias(bias: Option<&[f64]>, channels: usize, affine: &Affine) -> Vec<f64> {
    let at = |v: &[f64], i: usize| if v.len() == 1 { v[0] } else { v[i] };
    (0..channels).map(|i| bias.map_or(0.0, |b| at(b, i)) * at(&affine.scale, i) + at(&affine.shift, i)).collect()
}

fn fits(v: &[f64], channels: usize) -> bool {
    v.len() == 1 || v.len() == channels
}

fn fold_into_convolution(graph: &Graph, node: &Node, conv: &Node, affine: &Affine) -> Result<Option<Patch>, OpError> {
    let Some(w) = weights(graph, conv.input(1)) else { return Ok(None) };
    let bias = match conv.input(2) {
        None => None,
        Some(id) => match graph.constant(id) {
            Some(b) => Some(b.to_f64s()),
            None => return Ok(None),
        },
    };
    if w.rank() < 3 {
        return Ok(None);
    }
    // Weights of a transposed convolution are [in, out/group, taps…].
    let transposed = is(conv, "ConvTranspose");
    let groups = usize::try_from(int(conv, "group", 1)).unwrap_or(1).max(1);
    let per_group = if transposed { w.shape()[1] } else { w.shape()[0] };
    let channels = if transposed { per_group * groups } else { per_group };
    if !fits(&affine.scale, channels) || !fits(&affine.shift, channels) {
        return Ok(None);
    }
    let taps: usize = w.shape()[2..].iter().product();
    let inner: usize = w.shape()[1..].iter().product();
    let ins = w.shape()[0] / groups.max(1);
    let channel = |i: usize| {
        if transposed { i / inner / ins.max(1) * per_group + i / taps % per_group } else { i / inner }
    };
    let scale = |c: usize| if affine.scale.len() == 1 { affine.scale[0] } else { affine.scale[c] };
    let scaled: Vec<f64> = w.to_f64s().into_iter().enumerate().map(|(i, v)| v * scale(channel(i))).collect();
    let bias = merged_bias(bias.as_deref(), channels, affine);
    let mut patch = Patch::new();
    let (w_name, b_name) = (format!("{}.weight", conv.name), format!("{}.bias", conv.name));
    let new_w = patch.constant(&w_name, tensor(w.element(), w.shape(), scaled)?);
    let new_b = patch.constant(&b_name, tensor(w.element(), &[channels], bias)?);
    let x = conv.input(0).map(PatchValue::Old);
    replace_layer(graph, &mut patch, conv, node, conv.op.clone(), vec![x, Some(new_w), Some(new_b)]);
    Ok(Some(patch))
}

/// A node named as `layer` was, in place of `last`.
fn replace_layer(
    graph: &Graph,
    patch: &mut Patch,
    layer: &Node,
    last: &Node,
    op: std::sync::Arc<dyn Op>,
    inputs: Vec<Option<PatchValue>>,
) {
    let ty = graph.ty(last.outputs[0]).clone();
    let y = patch.any_node(op, &layer.name, inputs, 1, Some(vec![ty]));
    patch.replace(last.outputs[0], y);
}

fn fold_into_product(graph: &Graph, node: &Node, before: &Node, affine: &Affine) -> Result<Option<Patch>, OpError> {
    let Some(w) = weights(graph, before.input(1)).filter(|w| w.rank() == 2) else { return Ok(None) };
    let gemm = is(before, "Gemm");
    let transposed = gemm && int(before, "transB", 0) != 0;
    let channels = w.shape()[usize::from(!transposed)];
    let x_rank = before.input(0).and_then(|x| graph.ty(x).rank());
    let shifts = affine.shift.iter().any(|s| *s != 0.0);
    if !fits(&affine.scale, channels) || !fits(&affine.shift, channels) || (!gemm && shifts && x_rank != Some(2)) {
        return Ok(None);
    }
    let alpha = if gemm { f64::from(float(before, "alpha", 1.0)) } else { 1.0 };
    let mut bias: Option<Vec<f64>> = None;
    if gemm {
        let beta = f64::from(float(before, "beta", 1.0));
        if let Some(id) = before.input(2) {
            match graph.constant(id) {
                Some(c) if c.len() == 1 || (c.len() == channels && c.shape().last() == Some(&channels)) => {
                    bias = Some(c.to_f64s().into_iter().map(|v| v * beta).collect());
                }
                _ => return Ok(None),
            }
        }
    }
    let inner = w.shape()[1];
    let scale = |c: usize| if affine.scale.len() == 1 { affine.scale[0] } else { affine.scale[c] };
    let channel = |i: usize| if transposed { i / inner } else { i % inner };
    let scaled: Vec<f64> = w.to_f64s().into_iter().enumerate().map(|(i, v)| v * alpha * scale(channel(i))).collect();
    let mut patch = Patch::new();
    let new_w = patch.constant(&format!("{}.weight", before.name), tensor(w.element(), w.shape(), scaled)?);
    let x = before.input(0).map(PatchValue::Old);
    if !gemm && !shifts {
        replace_layer(graph, &mut patch, before, node, before.op.clone(), vec![x, Some(new_w)]);
        return Ok(Some(patch));
    }
    let bias = tensor(w.element(), &[channels], merged_bias(bias.as_deref(), channels, affine))?;
    let new_b = patch.constant(&format!("{}.bias", before.name), bias);
    let flags = |name| AttrValue::Int(if gemm { int(before, name, 0) } else { 0 });
    let op = make("Gemm", &[("transA", flags("transA")), ("transB", flags("transB"))])?;
    replace_layer(graph, &mut patch, before, node, op, vec![x, Some(new_w), Some(new_b)]);
    Ok(Some(patch))
}

struct BatchNormToDepthwise;

impl Rule for BatchNormToDepthwise {
    fn name(&self) -> &'static str {
        "batch normalization to depthwise convolution"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let graph = view.graph;
        if !is(node, "BatchNormalization") {
            return Ok(None);
        }
        let Some(affine) = affine(graph, node, false) else { return Ok(None) };
        let ty = graph.ty(affine.x);
        let channels = affine.scale.len();
        let Some(rank) = ty.rank().filter(|r| *r >= 3) else { return Ok(None) };
        if ty.shape.as_ref().and_then(|s| s[1].known()) != Some(channels) || !ty.element.is_float() {
            return Ok(None);
        }
        let mut shape = vec![1; rank];
        shape[0] = channels;
        let mut patch = Patch::new();
        let w = patch.constant(&format!("{}.weight", node.name), tensor(ty.element, &shape, affine.scale)?);
        let b = patch.constant(&format!("{}.bias", node.name), tensor(ty.element, &[channels], affine.shift)?);
        let op = make("Conv", &[("group", AttrValue::Int(channels as i64))])?;
        replace_layer(graph, &mut patch, node, node, op, vec![Some(affine.x.into()), Some(w), Some(b)]);
        Ok(Some(patch))
    }
}

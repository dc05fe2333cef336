//! Activation functions and normalizations that exporters spell out become the one op they are, which has an integer table
//! (or a kernel): SiLU, hard swish, GELU by the error function or by tanh, layer normalization.

use std::sync::Arc;

use qing_tensor::Tensor;

use super::support::{int, ints, is, make, producer, split_constant, uniform};
use crate::{
    AttrValue, Graph, GraphError, Node, Op, OpError, ValueId,
    rewrite::{Patch, PatchValue, Rule, View, rewrite},
};

/// Joins spelled-out activation functions and layer normalizations.
///
/// # Errors
/// If a rewrite would not type.
pub fn fuse_activations(graph: &mut Graph) -> Result<usize, GraphError> {
    rewrite(graph, &[&Activation, &LayerNorm])
}

/// Constants of spelled-out functions are rounded in many ways.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-3 * b.abs()
}

/// A product: one number, and values.
#[derive(Debug)]
struct Product {
    constant: f64,
    factors: Vec<ValueId>,
}

/// How many multiplications are looked through, one below the other.
const DEEPEST: usize = 8;

/// A value as a product, seen through multiplications and divisions by constants; those below the top (depth 0) must have no
/// other reader.
fn product(view: &View<'_>, value: ValueId, depth: usize) -> Product {
    let graph = view.graph;
    let one = || Product { constant: 1.0, factors: vec![value] };
    let Some(node) = view
        .producer(value)
        .filter(|_| depth == 0 || view.single_consumer(value).is_some())
        .filter(|_| depth < DEEPEST)
    else {
        return one();
    };
    let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return one() };
    if is(node, "Div") {
        let Some(by) = uniform(graph, node, 1).filter(|v| *v != 0.0) else { return one() };
        let inner = product(view, a, depth + 1);
        return Product { constant: inner.constant / by, factors: inner.factors };
    }
    if !is(node, "Mul") {
        return one();
    }
    let mut made = Product { constant: 1.0, factors: vec![] };
    for (i, input) in [a, b].into_iter().enumerate() {
        if let Some(c) = uniform(graph, node, i) {
            made.constant *= c;
        } else if graph.constant(input).is_some() {
            return one();
        } else {
            let inner = product(view, input, depth + 1);
            made.constant *= inner.constant;
            made.factors.extend(inner.factors);
        }
    }
    made
}

/// `(other, c)` of a sum `other + c` with one constant.
fn plus(view: &View<'_>, value: ValueId) -> Option<(ValueId, f64)> {
    let node = producer(view, value, "Add")?;
    let (x, at) = split_constant(view.graph, node)?;
    Some((x, uniform(view.graph, node, at)?))
}

struct Activation;

impl Rule for Activation {
    fn name(&self) -> &'static str {
        "activation functions"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        if !(is(node, "Mul") || is(node, "Div")) || view.graph.ty(node.outputs[0]).quant.is_some() {
            return Ok(None);
        }
        let whole = product(view, node.outputs[0], 0);
        let [a, b] = whole.factors[..] else { return Ok(None) };
        for (x, gate) in [(a, b), (b, a)] {
            if let Some(op) = gated(view, x, gate, whole.constant)? {
                let mut patch = Patch::new();
                let ty = view.graph.ty(node.outputs[0]).clone();
                let y = patch.typed_node(op, &node.name, &[Some(x.into())], ty);
                patch.replace(node.outputs[0], y);
                return Ok(Some(patch));
            }
        }
        Ok(None)
    }
}

/// The function that `constant · x · gate` is, if `gate` is made of `x`.
fn gated(view: &View<'_>, x: ValueId, gate: ValueId, constant: f64) -> Result<Option<Arc<dyn Op>>, OpError> {
    let graph = view.graph;
    if let Some(sigmoid) = producer(view, gate, "Sigmoid").filter(|_| near(constant, 1.0)) {
        let Some(inside) = sigmoid.input(0).map(|v| product(view, v, 1)) else { return Ok(None) };
        if inside.factors == [x] {
            let alpha = AttrValue::Float(inside.constant as f32);
            return make("Swish", &[("alpha", alpha)]).map(Some);
        }
    }
    if let Some(hard) = producer(view, gate, "HardSigmoid").filter(|n| n.input(0) == Some(x) && near(constant, 1.0)) {
        let attr = |name, default| f64::from(super::support::float(hard, name, default));
        if near(attr("alpha", 0.2), 1.0 / 6.0) && near(attr("beta", 0.5), 0.5) {
            return make("HardSwish", &[]).map(Some);
        }
    }
    if let Some(clip) = producer(view, gate, "Clip").filter(|_| near(constant, 1.0 / 6.0))
        && let Some(shifted) = clip.input(0)
        && plus(view, shifted).is_some_and(|(v, c)| v == x && near(c, 3.0))
        && uniform(graph, clip, 1) == Some(0.0)
        && uniform(graph, clip, 2) == Some(6.0)
    {
        return make("HardSwish", &[]).map(Some);
    }
    // GELU: ½·x·(1 + f(…)).
    let Some((inner, one)) = plus(view, gate) else { return Ok(None) };
    if !near(one, 1.0) || !near(constant, 0.5) {
        return Ok(None);
    }
    if let Some(inside) = producer(view, inner, "Erf").and_then(|n| n.input(0)).map(|v| product(view, v, 1))
        && inside.factors == [x]
        && near(inside.constant, std::f64::consts::FRAC_1_SQRT_2)
    {
        return make("Gelu", &[]).map(Some);
    }
    if let Some(inside) = producer(view, inner, "Tanh").and_then(|n| n.input(0)).map(|v| product(view, v, 1))
        && let [sum] = inside.factors[..]
        && near(inside.constant, (2.0 / std::f64::consts::PI).sqrt())
        && is_cubic(view, sum, x)
    {
        return make("Gelu", &[("approximate", AttrValue::String("tanh".into()))]).map(Some);
    }
    Ok(None)
}

/// `x + 0.044715·x³`.
fn is_cubic(view: &View<'_>, sum: ValueId, x: ValueId) -> bool {
    let Some(node) = producer(view, sum, "Add") else { return false };
    let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return false };
    let cube = |v: ValueId| {
        let p = product(view, v, 1);
        let power = match p.factors[..] {
            [one] => producer(view, one, "Pow")
                .is_some_and(|n| n.input(0) == Some(x) && uniform(view.graph, n, 1) == Some(3.0)),
            [..] => p.factors == [x, x, x],
        };
        power && near(p.constant, 0.044_715)
    };
    (a == x && cube(b)) || (b == x && cube(a))
}

struct LayerNorm;

impl Rule for LayerNorm {
    fn name(&self) -> &'static str {
        "layer normalization"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let graph = view.graph;
        // (x − mean) / √(var + ε) · scale + shift.
        if !is(node, "Add") {
            return Ok(None);
        }
        let Some((scaled, at)) = split_constant(graph, node) else { return Ok(None) };
        let Some(shift) = node.input(at).and_then(|id| graph.constant(id)) else { return Ok(None) };
        let Some(mul) = producer(view, scaled, "Mul").filter(|_| view.single_consumer(scaled).is_some()) else {
            return Ok(None);
        };
        let Some((quotient, at)) = split_constant(graph, mul) else { return Ok(None) };
        let Some(scale) = mul.input(at).and_then(|id| graph.constant(id)) else { return Ok(None) };
        let Some((x, epsilon)) = normalized(view, quotient) else { return Ok(None) };
        let ty = graph.ty(x);
        let width = ty.shape.as_ref().and_then(|s| s.last()?.known());
        let fits = |t: &Tensor| t.shape().last().copied() == width && Some(t.len()) == width;
        if ty.quant.is_some() || width.is_none() || !fits(scale) || !fits(shift) {
            return Ok(None);
        }
        let width = width.unwrap_or_default();
        let mut patch = Patch::new();
        let scale = patch.constant(&format!("{}.scale", node.name), scale.reshaped(&[width])?);
        let shift = patch.constant(&format!("{}.shift", node.name), shift.reshaped(&[width])?);
        let op = make("LayerNormalization", &[("epsilon", AttrValue::Float(epsilon as f32))])?;
        let inputs = [Some(PatchValue::Old(x)), Some(scale), Some(shift)];
        let y = patch.typed_node(op, &node.name, &inputs, graph.ty(node.outputs[0]).clone());
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

/// `x` and `ε`, if the value is `(x − mean(x)) / √(mean((x − mean(x))²) + ε)` over the last axis.
fn normalized(view: &View<'_>, value: ValueId) -> Option<(ValueId, f64)> {
    let div = producer(view, value, "Div")?;
    let centered = producer(view, div.input(0)?, "Sub")?;
    let x = centered.input(0)?;
    let mean = producer(view, centered.input(1)?, "ReduceMean")?;
    let root = producer(view, div.input(1)?, "Sqrt")?;
    let (variance, epsilon) = plus(view, root.input(0)?)?;
    let variance = producer(view, variance, "ReduceMean")?;
    let square = view.producer(variance.input(0)?)?;
    // Some exporters subtract the mean twice.
    let same = |id: Option<ValueId>| {
        id.is_some_and(|id| {
            id == div.input(0).unwrap_or(id)
                || producer(view, id, "Sub").is_some_and(|n| n.input(0) == Some(x) && n.input(1) == centered.input(1))
        })
    };
    let squared = match square.op.name() {
        "Pow" => same(square.input(0)) && uniform(view.graph, square, 1) == Some(2.0),
        "Mul" => same(square.input(0)) && square.input(0) == square.input(1),
        _ => false,
    };
    let rank = view.graph.ty(x).rank()? as i64;
    let last = |node: &Node| {
        let axes = match node.input(1) {
            Some(id) => view.graph.constant(id).map(Tensor::to_i64s),
            None => Some(ints(node, "axes")),
        };
        int(node, "keepdims", 1) == 1 && axes.is_some_and(|a| a == [-1] || a == [rank - 1])
    };
    (squared && mean.input(0) == Some(x) && last(mean) && last(variance)).then_some((x, epsilon))
}

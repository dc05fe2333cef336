//! Functions that exporters spell out and kernels know by name, and paddings that a convolution can do itself.
//!
//! Only float graphs: between quantized values every step of the spelled-out form rounds, so its name would be another
//! function (`composed.rs` makes a table of it).

use qing_graph::{
    Element, Node, OpError, Tensor, Type, ValueId, arithmetic, ops,
    rewrite::{Patch, Rule, View},
};

use super::{composed::Composed, shuffled::Shuffled, transposed::Transposed};

/// The rules, in the order they are tried.
pub(super) const RULES: &[&dyn Rule] = &[&Silu, &Gelu, &PadConv, &QuantizeThenMove, &Composed, &Transposed, &Shuffled];

fn is_float(view: &View<'_>, id: ValueId) -> bool {
    view.graph.ty(id).element == Element::F32 && view.graph.ty(id).quant.is_none()
}

/// The value of a constant of one element.
fn scalar(view: &View<'_>, id: ValueId) -> Option<f32> {
    let tensor = view.graph.constant(id).filter(|t| t.len() == 1 && t.element() == Element::F32)?;
    tensor.to_f32s().first().copied()
}

/// The operands of a node of two.
fn operands(node: &Node, name: &str) -> Option<(ValueId, ValueId)> {
    match node.inputs[..] {
        [Some(a), Some(b)] if node.op.name() == name => Some((a, b)),
        _ => None,
    }
}

/// `x · sigmoid(x)`
struct Silu;

impl Rule for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let Some((a, b)) = operands(node, "Mul") else { return Ok(None) };
        for (x, gate) in [(a, b), (b, a)] {
            let Some((_, sigmoid)) = view.producer_as::<ops::Sigmoid>(gate) else { continue };
            if sigmoid.input(0) == Some(x) && view.single_consumer(gate).is_some() && is_float(view, x) {
                let mut patch = Patch::new();
                let y = patch.node(ops::Swish { alpha: 1.0 }, &node.name, &[x.into()]);
                patch.replace(node.outputs[0], y);
                return Ok(Some(patch));
            }
        }
        Ok(None)
    }
}

/// `x · ½ · (1 + erf(x / √2))`, its factors in any order.
struct Gelu;

/// The factors of a tree of products whose inner nodes nobody else reads.
fn factors(view: &View<'_>, id: ValueId, depth: usize, all: &mut Vec<ValueId>) {
    let product = view.producer(id).and_then(|node| operands(node, "Mul"));
    match product {
        // ½, x and 1 + erf(…) are at most two products deep.
        Some((a, b)) if depth < 3 && (depth == 0 || view.single_consumer(id).is_some()) => {
            factors(view, a, depth + 1, all);
            factors(view, b, depth + 1, all);
        }
        _ => all.push(id),
    }
}

/// Whether a value is `1 + erf(x / √2)`.
fn is_gate(view: &View<'_>, id: ValueId, x: ValueId) -> bool {
    let found = || {
        let (a, b) = operands(view.producer(id)?, "Add")?;
        let (erf, one) = if scalar(view, a).is_some() { (b, a) } else { (a, b) };
        let argument = view.producer_as::<ops::Erf>(erf)?.1.input(0)?;
        let node = view.producer(argument)?;
        let near = |value: f32, to: f32| (value - to).abs() < 1e-6;
        let scaled = match operands(node, "Div") {
            Some((a, b)) => a == x && near(scalar(view, b)?, std::f32::consts::SQRT_2),
            None => {
                let (a, b) = operands(node, "Mul")?;
                let (a, b) = if a == x { (a, b) } else { (b, a) };
                a == x && near(scalar(view, b)?, std::f32::consts::FRAC_1_SQRT_2)
            }
        };
        Some(scaled && scalar(view, one)? == 1.0)
    };
    found() == Some(true)
}

impl Rule for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        if operands(node, "Mul").is_none() {
            return Ok(None);
        }
        let mut parts = vec![];
        factors(view, node.outputs[0], 0, &mut parts);
        let [a, b, c] = parts[..] else { return Ok(None) };
        for (half, p, q) in [(a, b, c), (b, a, c), (c, a, b)] {
            if scalar(view, half) != Some(0.5) {
                continue;
            }
            for (x, gate) in [(p, q), (q, p)] {
                if is_float(view, x) && is_gate(view, gate, x) {
                    let mut patch = Patch::new();
                    let y = patch.node(ops::Gelu::default(), &node.name, &[x.into()]);
                    patch.replace(node.outputs[0], y);
                    return Ok(Some(patch));
                }
            }
        }
        Ok(None)
    }
}

/// A convolution over an image surrounded by zeros (or, between quantized values, by the zero point): padding is what it
/// does anyway.
struct PadConv;

impl Rule for PadConv {
    fn name(&self) -> &'static str {
        "pad into convolution"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let Some(conv) = node.op.downcast::<ops::Conv>() else { return Ok(None) };
        let found = || {
            let padded = node.input(0)?;
            let (pad, source) = view.producer_as::<ops::Pad>(padded)?;
            let x = source.input(0)?;
            let zero = source.input(2).is_none_or(|v| {
                view.graph.constant(v).is_some_and(|v| v.element().is_float() && v.to_f64s().iter().all(|v| *v == 0.0))
            });
            let same = view.graph.ty(x).quant == view.graph.ty(padded).quant;
            let plain = matches!(conv.auto_pad.as_str(), "NOTSET" | "" | "VALID");
            if pad.mode != "constant" || !zero || !same || !plain || source.input(3).is_some() {
                return None;
            }
            let pads = view.graph.constant(source.input(1)?).map(Tensor::to_i64s)?;
            let rank = pads.len() / 2;
            if pads.iter().any(|p| *p < 0) || rank < 3 || [0, 1, rank, rank + 1].iter().any(|i| pads[*i] != 0) {
                return None;
            }
            let outer: Vec<i64> = pads[2..rank].iter().chain(&pads[rank + 2..]).copied().collect();
            let own =
                if conv.pads.is_empty() || conv.auto_pad == "VALID" { vec![0; outer.len()] } else { conv.pads.clone() };
            let pads = own.iter().zip(&outer).map(|(a, b)| a + b).collect();
            Some((x, ops::Conv { pads, auto_pad: "NOTSET".into(), ..conv.clone() }))
        };
        let Some((x, conv)) = found() else { return Ok(None) };
        let mut inputs = vec![Some(x.into())];
        inputs.extend(node.inputs[1..].iter().map(|id| id.map(Into::into)));
        let mut patch = Patch::new();
        let ty = view.graph.ty(node.outputs[0]).clone();
        let y = patch.typed_node(std::sync::Arc::new(conv), &node.name, &inputs, ty);
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

/// A value that is moved and then quantized: bytes move faster, and what computed the value can quantize it at once.
struct QuantizeThenMove;

impl Rule for QuantizeThenMove {
    fn name(&self) -> &'static str {
        "quantize before moving"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let found = || {
            let moved = node.input(0).filter(|_| node.op.is::<ops::Quantize>())?;
            let mover = view.producer(moved)?;
            let moves = mover.op.is::<ops::Transpose>() || mover.op.is::<ops::Reshape>();
            let source = mover.input(0)?;
            let ty = view.graph.ty(node.outputs[0]);
            let uniform = arithmetic::per_tensor(ty).is_ok();
            let plain = is_float(view, moved) && is_float(view, source) && view.graph.constant(source).is_none();
            (moves && uniform && plain && view.single_consumer(moved).is_some()).then_some((mover, source, ty.clone()))
        };
        let Some((mover, source, ty)) = found() else { return Ok(None) };
        let mut patch = Patch::new();
        let before = Type { shape: view.graph.ty(source).shape.clone(), ..ty.clone() };
        let quantized = patch.typed_node(node.op.clone(), &node.name, &[Some(source.into())], before);
        let rest = mover.inputs[1..].iter().map(|id| id.map(Into::into));
        let inputs: Vec<_> = std::iter::once(Some(quantized)).chain(rest).collect();
        let y = patch.typed_node(mover.op.clone(), &mover.name, &inputs, ty);
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qing_graph::{Graph, Op, Quant, interpret::interpret, rewrite::rewrite};

    use super::*;

    fn node(graph: &mut Graph, op: impl Op, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        graph.add_node(Arc::new(op), "n", &inputs, 1).unwrap()[0]
    }

    fn names(graph: &Graph) -> Vec<&'static str> {
        graph.nodes.iter().map(|n| n.op.name()).collect()
    }

    #[test]
    fn spelled_out_activations_get_their_names() {
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", Type::new(Element::F32, [4usize]));
        let s = node(&mut graph, ops::Sigmoid {}, &[x]);
        let silu = node(&mut graph, ops::Mul {}, &[s, x]);
        let root = graph.add_constant("root", Tensor::scalar(std::f32::consts::SQRT_2));
        let one = graph.add_constant("one", Tensor::scalar(1.0f32));
        let half = graph.add_constant("half", Tensor::scalar(0.5f32));
        let scaled = node(&mut graph, ops::Div {}, &[silu, root]);
        let erf = node(&mut graph, ops::Erf {}, &[scaled]);
        let gate = node(&mut graph, ops::Add {}, &[erf, one]);
        let product = node(&mut graph, ops::Mul {}, &[silu, gate]);
        let gelu = node(&mut graph, ops::Mul {}, &[product, half]);
        graph.mark_output(gelu);
        rewrite(&mut graph, RULES).unwrap();
        assert_eq!(names(&graph), ["Swish", "Gelu"]);
    }

    #[test]
    fn quantization_comes_before_movement() {
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", Type::new(Element::F32, [2usize, 3]));
        let turned = node(&mut graph, ops::Transpose { perm: vec![1, 0] }, &[x]);
        let ty = Type::new(Element::F32, [3usize, 2]).quantized(Element::U8, Quant::per_tensor(0.5, 3).unwrap());
        let y = graph.add_typed_node(Arc::new(ops::Quantize {}), "q", &[Some(turned)], vec![ty.clone()]).unwrap()[0];
        graph.mark_output(y);
        let input = Tensor::new(&[2, 3], vec![0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let before = interpret(&graph, std::slice::from_ref(&input)).unwrap();
        rewrite(&mut graph, RULES).unwrap();
        assert_eq!(names(&graph), ["Quantize", "Transpose"]);
        assert_eq!(graph.ty(graph.outputs[0]), &ty);
        assert_eq!(interpret(&graph, &[input]).unwrap(), before);
        // A value that somebody else reads as it is stays where it is.
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", Type::new(Element::F32, [2usize, 3]));
        let turned = node(&mut graph, ops::Transpose { perm: vec![1, 0] }, &[x]);
        let y = graph.add_typed_node(Arc::new(ops::Quantize {}), "q", &[Some(turned)], vec![ty]).unwrap()[0];
        graph.mark_output(y);
        graph.mark_output(turned);
        rewrite(&mut graph, RULES).unwrap();
        assert_eq!(names(&graph), ["Transpose", "Quantize"]);
    }

    #[test]
    fn padding_goes_into_the_convolution() {
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", Type::new(Element::F32, [1usize, 1, 4, 4]));
        let pads = graph.add_constant("pads", Tensor::vector(vec![0i64, 0, 1, 2, 0, 0, 3, 0]));
        let w = graph.add_constant("w", Tensor::new(&[1, 1, 2, 2], vec![1.0f32; 4]).unwrap());
        let padded = node(&mut graph, ops::Pad { mode: "constant".into() }, &[x, pads]);
        let y = node(&mut graph, ops::Conv::default(), &[padded, w]);
        graph.mark_output(y);
        rewrite(&mut graph, RULES).unwrap();
        assert_eq!(names(&graph), ["Conv"]);
        assert_eq!(graph.nodes[0].op.downcast::<ops::Conv>().unwrap().pads, [1, 2, 3, 0]);
    }
}

//! Attention as exporters spell it out is one step, in floats and between quantized values, and computes what the graph says.

use std::sync::Arc;

use qing_engine::{Options, Plan, Session};
use qing_graph::{Element, Graph, Op, Quant, Tensor, Type, ValueId, interpret::interpret, ops};

/// How the graph spells it.
#[derive(Debug, Clone, Copy)]
struct Style {
    quantized: bool,
    /// Scores are quantized before they are scaled.
    rounded: bool,
    mask: bool,
    /// The factor is applied to the queries and keys instead of the scores.
    early: bool,
    /// Heads are joined after the product with the values.
    joined: bool,
    /// Keys are transposed twice.
    twice: bool,
}

struct Builder {
    graph: Graph,
    count: usize,
}

impl Builder {
    fn node(&mut self, op: impl Op, inputs: &[ValueId], ty: Option<Type>) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.count += 1;
        let name = format!("n{}", self.count);
        let made = match ty {
            Some(ty) => self.graph.add_typed_node(Arc::new(op), &name, &inputs, vec![ty]),
            None => self.graph.add_node(Arc::new(op), &name, &inputs, 1),
        };
        made.expect("a legal node")[0]
    }

    fn real(&mut self, op: impl Op, inputs: &[ValueId]) -> ValueId {
        self.node(op, inputs, None)
    }

    /// The type of a value quantized.
    fn bytes(&self, id: ValueId, scale: f32, zero: i32) -> Type {
        self.graph.ty(id).clone().quantized(Element::U8, Quant::per_tensor(scale, zero).expect("a positive scale"))
    }

    fn quantize(&mut self, id: ValueId, scale: f32, zero: i32) -> ValueId {
        let ty = self.bytes(id, scale, zero);
        self.node(ops::Quantize {}, &[id], Some(ty))
    }

    fn scaled(&mut self, id: ValueId, factor: f32) -> ValueId {
        let factor = self.graph.add_constant("factor", Tensor::scalar(factor));
        self.real(ops::Mul {}, &[id, factor])
    }

    fn product(&mut self, a: ValueId, b: ValueId, to: Option<(f32, i32)>) -> ValueId {
        let Some((scale, zero)) = to else { return self.real(ops::MatMul {}, &[a, b]) };
        let (rows, cols) = (self.shape(a), self.shape(b));
        let shape: Vec<usize> = rows[..3].iter().copied().chain([cols[3]]).collect();
        let quant = Quant::per_tensor(scale, zero).expect("a positive scale");
        let ty = Type::new(Element::F32, shape).quantized(Element::U8, quant);
        self.node(ops::MatMul {}, &[a, b], Some(ty))
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.graph.ty(id).known_shape().expect("known")
    }
}

const SIZES: [usize; 4] = [2, 3, 9, 8];

fn build(style: Style) -> (Graph, Vec<Tensor>) {
    let [batch, heads, length, size] = SIZES;
    let mut b = Builder { graph: Graph::new("attention"), count: 0 };
    let shape = [batch, length, heads * size];
    let count: usize = shape.iter().product();
    let mut tensors = vec![];
    let mut sides = vec![];
    for side in 0..3usize {
        let x = b.graph.add_input(&format!("x{side}"), Type::new(Element::F32, shape));
        let values: Vec<f32> = (0..count).map(|i| ((i * (37 + 22 * side)) % 211) as f32 / 105.0 - 1.0).collect();
        tensors.push(Tensor::new(&shape, values).expect("fits"));
        let to = Tensor::vector([batch, length, heads, size].map(|d| d as i64).to_vec());
        let to = b.graph.add_constant("split", to);
        let x = b.real(ops::Reshape { allowzero: false }, &[x, to]);
        let perm = if side == 1 && !style.twice { vec![0, 2, 3, 1] } else { vec![0, 2, 1, 3] };
        let mut x = b.real(ops::Transpose { perm }, &[x]);
        if style.early && side < 2 {
            x = b.scaled(x, 0.6);
        }
        if side == 1 && style.twice {
            x = b.real(ops::Transpose { perm: vec![0, 1, 3, 2] }, &[x]);
        }
        sides.push(if style.quantized { b.quantize(x, 0.01, 120 + side as i32) } else { x });
    }
    let sums = b.product(sides[0], sides[1], (style.quantized && style.rounded).then_some((0.05, 100)));
    let mut scores = match (style.quantized, style.rounded) {
        (true, true) => b.real(ops::Dequantize {}, &[sums]),
        _ => sums,
    };
    if !style.early {
        scores = b.scaled(scores, 0.35);
    }
    if style.mask {
        let values: Vec<f32> = (0..batch * length).map(|i| if i % 4 == 3 { -3.4e38 } else { 0.0 }).collect();
        let mask = Tensor::new(&[batch, 1, 1, length], values).expect("fits");
        let input = b.graph.add_input("mask", Type::new(Element::F32, [batch, 1, 1, length]));
        tensors.push(mask);
        scores = b.real(ops::Add {}, &[scores, input]);
    }
    let mut weights = b.real(ops::Softmax { axis: -1, coerced: false }, &[scores]);
    if style.quantized {
        weights = b.quantize(weights, 1.0 / 255.0, 0);
    }
    let mut y = b.product(weights, sides[2], style.quantized.then_some((0.008, 125)));
    if style.joined {
        let ty = style.quantized.then(|| {
            let ty = Type::new(Element::F32, [batch, length, heads, size]);
            ty.quantized(Element::U8, Quant::per_tensor(0.008, 125).expect("a positive scale"))
        });
        y = b.node(ops::Transpose { perm: vec![0, 2, 1, 3] }, &[y], ty);
    }
    b.graph.mark_output(y);
    (b.graph, tensors)
}

fn styles() -> impl Iterator<Item = Style> {
    (0..64u32).map(|bits| {
        let bit = |i: u32| bits >> i & 1 == 1;
        Style { quantized: bit(0), rounded: bit(1), mask: bit(2), early: bit(3), joined: bit(4), twice: bit(5) }
    })
}

#[test]
fn every_spelling_is_one_step_and_means_the_same() {
    for style in styles() {
        let (graph, inputs) = build(style);
        let want = interpret(&graph, &inputs).expect("runs").remove(0);
        let mut first = None;
        for threads in 1..=3 {
            let plan = Plan::new(&graph, &Options::threads(threads)).expect("a legal graph");
            let dump = plan.dump();
            // A factor on keys, between their only transposition and their quantization, keeps them from being read in place.
            let apart = style.quantized && style.early;
            let count = usize::from(!apart || style.twice);
            assert_eq!(dump.matches("[attention ").count(), count, "{style:?}\n{dump}");
            assert!(apart || !dump.contains("[transpose]"), "{style:?}\n{dump}");
            let mut session = Session::new(Arc::new(plan));
            let got = session.run(&inputs).expect("runs").remove(0);
            for (got, want) in got.to_f64s().iter().zip(want.to_f64s()) {
                let near = if style.quantized { 1.0 } else { 2e-6 };
                assert!((got - want).abs() <= near, "{style:?}: {got}, expected {want}");
            }
            let first = first.get_or_insert_with(|| got.clone());
            assert_eq!(*first, got, "{style:?} on {threads} threads");
        }
    }
}

#[test]
fn scores_that_somebody_reads_are_computed() {
    let style = Style { quantized: false, rounded: false, mask: false, early: false, joined: true, twice: false };
    let (mut graph, inputs) = build(style);
    let softmax = graph.nodes.iter().find(|n| n.op.is::<ops::Softmax>()).expect("a softmax").outputs[0];
    graph.mark_output(softmax);
    let plan = Plan::new(&graph, &Options::default()).expect("a legal graph");
    assert!(!plan.dump().contains("[attention "), "{}", plan.dump());
    let got = Session::new(Arc::new(plan)).run(&inputs).expect("runs");
    let want = interpret(&graph, &inputs).expect("runs");
    for (got, want) in got.iter().zip(&want) {
        assert!(got.to_f64s().iter().zip(want.to_f64s()).all(|(got, want)| (got - want).abs() < 2e-6));
    }
}

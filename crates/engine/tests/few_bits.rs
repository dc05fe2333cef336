//! Networks of few bits: every combination of widths equals the reference to the bit, on every instruction set; values stay
//! bit planes between layers that compute on them; weights take the memory they should.

use std::sync::Arc;

use proptest::prelude::*;
use qing_engine::{Isa, Options, Plan, Session};
use qing_graph::{Element, Granularity, Graph, Op, Quant, Tensor, Type, ValueId, interpret::interpret, ops};

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
}

fn unsigned(bits: u8) -> Element {
    Element::integer(bits, false).expect("1 to 8 bits")
}

/// Activations of `bits`, unsigned or not, with a zero point anywhere in the range.
fn activation(dice: &mut Dice, shape: &[usize], bits: u8) -> Type {
    let element = Element::integer(bits, dice.below(3) == 0).expect("1 to 8 bits");
    let (lo, hi) = element.range().expect("an integer");
    let zero = if dice.below(2) == 0 { lo.max(0) } else { lo + dice.below((hi - lo + 1) as usize) as i64 };
    let quant = Quant::per_tensor(0.3 + 0.1 * dice.below(5) as f32, zero as i32).expect("a positive scale");
    Type::new(Element::F32, shape.iter().copied()).quantized(element, quant)
}

/// Weights `[out, …]` of `bits`, symmetric or not; one bit is ±1.
fn weights(graph: &mut Graph, dice: &mut Dice, shape: &[usize], bits: u8, symmetric: bool) -> ValueId {
    let element = if bits == 1 { Element::Bipolar } else { Element::integer(bits, true).expect("1 to 8 bits") };
    let (lo, hi) = element.range().expect("an integer");
    let values: Vec<i32> = (0..shape.iter().product())
        .map(|_| match element {
            Element::Bipolar => 2 * dice.below(2) as i32 - 1,
            _ if symmetric => dice.below(2 * hi as usize + 1) as i32 - hi as i32,
            _ => dice.below((hi - lo + 1) as usize) as i32 + lo as i32,
        })
        .collect();
    let scales = (0..shape[0]).map(|_| 0.01 + 0.01 * dice.below(10) as f32).collect();
    let ty = Type::new(Element::F32, shape.iter().copied())
        .quantized(element, Quant::per_axis(0, scales).expect("positive scales"));
    let name = format!("w{}", graph.nodes.len());
    graph.add_typed_constant(&name, ty, Tensor::from_ints(element, shape, &values).expect("fits"))
}

fn node(graph: &mut Graph, op: impl Op, inputs: &[ValueId], ty: Type) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    let name = format!("node{}", graph.nodes.len());
    graph.add_typed_node(Arc::new(op), &name, &inputs, vec![ty]).expect("a legal node")[0]
}

/// A chain of convolutions, some with a ReLU, a sigmoid or a residual after them, and a classifier.
fn network(seed: u64) -> Graph {
    let mut dice = Dice(seed);
    let mut graph = Graph::new("few bits");
    let sizes = [8, 16, 24, 32, 40, 64];
    let mut channels = sizes[dice.below(6)];
    let (mut h, mut w) = (3 + dice.below(6), 3 + dice.below(10));
    let batch = 1 + dice.below(2);
    let widths = |dice: &mut Dice| [1u8, 1, 2, 2, 3, 4, 8][dice.below(7)];
    let bits = widths(&mut dice);
    let ty = activation(&mut dice, &[batch, channels, h, w], bits);
    let mut x = graph.add_input("x", ty);
    for _ in 0..2 + dice.below(4) {
        let out = if dice.below(2) == 0 { channels } else { sizes[dice.below(6)] };
        let kernel = [1, 3, 3, 2][dice.below(4)];
        let stride = if h > 4 && w > 4 && dice.below(4) == 0 { 2 } else { 1 };
        let dilation = if dice.below(5) == 0 && kernel == 3 { 2 } else { 1 };
        let pad = dice.below(kernel);
        let reach = dilation * (kernel - 1) + 1;
        if h + 2 * pad < reach || w + 2 * pad < reach {
            continue;
        }
        let sizes_out = [h, w].map(|size| (size + 2 * pad - reach) / stride + 1);
        let (weight_bits, symmetric) = ([1, 1, 2, 2, 3, 4][dice.below(6)], dice.below(2) == 0);
        let filter = weights(&mut graph, &mut dice, &[out, channels, kernel, kernel], weight_bits, symmetric);
        let mut inputs = vec![x, filter];
        if dice.below(2) == 0 {
            let bias = (0..out).map(|_| dice.below(60) as i32 - 30).collect::<Vec<i32>>();
            let name = format!("b{}", graph.nodes.len());
            inputs.push(graph.add_constant(&name, Tensor::vector(bias)));
        }
        let op = ops::Conv {
            pads: vec![pad as i64; 4],
            strides: vec![stride as i64; 2],
            dilations: vec![dilation as i64; 2],
            ..ops::Conv::default()
        };
        let shape = [batch, out, sizes_out[0], sizes_out[1]];
        let before = x;
        let bits = widths(&mut dice);
        let ty = activation(&mut dice, &shape, bits);
        x = node(&mut graph, op, &inputs, ty.clone());
        match dice.below(5) {
            0 => x = node(&mut graph, ops::Relu {}, &[x], ty),
            1 => {
                let bits = widths(&mut dice);
                let ty = activation(&mut dice, &shape, bits);
                x = node(&mut graph, ops::Sigmoid {}, &[x], ty);
            }
            2 if graph.ty(before).known_shape().as_deref() == Some(&shape) => {
                let bits = widths(&mut dice);
                let ty = activation(&mut dice, &shape, bits);
                x = node(&mut graph, ops::Add {}, &[x, before], ty);
            }
            _ => {}
        }
        if dice.below(8) == 0 {
            graph.mark_output(x);
        }
        (channels, h, w) = (out, sizes_out[0], sizes_out[1]);
    }
    if dice.below(2) == 0 {
        let flat = channels * h * w;
        let ty = graph.ty(x).with_shape(Some(vec![batch.into(), flat.into()]));
        x = node(&mut graph, ops::Flatten { axis: 1 }, &[x], ty);
        let bits = 1 + dice.below(4) as u8;
        let filter = weights(&mut graph, &mut dice, &[10, flat], bits, true);
        let ty = Type::new(Element::F32, [batch, 10]);
        x = node(&mut graph, ops::Gemm { transB: true, ..ops::Gemm::default() }, &[x, filter], ty);
    }
    graph.mark_output(x);
    graph
}

fn input(graph: &Graph, seed: u64) -> Tensor {
    let mut dice = Dice(seed ^ 0x5555);
    let ty = graph.ty(graph.inputs[0]);
    let shape = ty.known_shape().expect("known");
    let values: Vec<i32> = (0..shape.iter().product::<usize>()).map(|_| dice.next() as i32).collect();
    Tensor::from_ints(ty.element, &shape, &values).expect("fits")
}

fn run(graph: &Graph, isa: Isa, threads: usize, x: &Tensor) -> (Vec<Tensor>, String) {
    let options = Options { isa: Some(isa), threads, ..Options::default() };
    let mut session = Session::new(Arc::new(Plan::new(graph, &options).expect("a legal graph")));
    let first = session.run(std::slice::from_ref(x)).expect("a legal input");
    let again = session.run(std::slice::from_ref(x)).expect("a legal input");
    assert_eq!(first, again, "a second run differs:\n{}", session.plan().dump());
    (again, session.plan().dump())
}

/// Runs a graph everywhere and gives the plan for plain Rust.
fn check(graph: &Graph, seed: u64) -> Result<String, TestCaseError> {
    let x = input(graph, seed);
    let want = interpret(graph, std::slice::from_ref(&x)).expect("a legal graph");
    for isa in Isa::available() {
        for threads in [1, 3] {
            let (got, dump) = run(graph, isa, threads, &x);
            prop_assert_eq!(&got, &want, "{} with {} threads:\n{}", isa.name(), threads, dump);
            prop_assert!(!dump.contains("reference"), "no kernel:\n{}", dump);
        }
    }
    Ok(run(graph, Isa::Scalar, 1, &x).1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn networks_of_few_bits_equal_the_reference(seed in any::<u64>()) {
        check(&network(seed), seed)?;
    }

    #[test]
    fn products_in_blocks_equal_the_reference(
        seed in any::<u64>(), rows in 1usize..5, blocks in 1usize..5, size in 1usize..9, columns in 1usize..70,
        bits in 2u8..5, real: bool, shifted: bool,
    ) {
        let (size, mut dice) = (4 * size, Dice(seed));
        let depth = blocks * size;
        let mut graph = Graph::new("blocks");
        let ty = activation(&mut dice, &[rows, depth], 8);
        let x = graph.add_input("x", ty);
        let element = unsigned(bits);
        let scales = (0..blocks * columns).map(|_| 0.01 + 0.01 * dice.below(10) as f32).collect();
        let middle = 1 << (bits - 1);
        let zeros = if shifted {
            (0..blocks * columns).map(|_| dice.below(2) as i32 + middle - 1).collect()
        } else {
            vec![middle]
        };
        let quant = Quant::new(Granularity::Block { axis: 0, size }, scales, zeros).expect("positive scales");
        let values: Vec<i32> = (0..depth * columns).map(|_| dice.below((1 << bits) - 1) as i32).collect();
        let w_ty = Type::new(Element::F32, [depth, columns]).quantized(element, quant);
        let w = graph.add_typed_constant("w", w_ty, Tensor::from_ints(element, &[depth, columns], &values).expect("fits"));
        let ty = activation(&mut dice, &[rows, columns], 8);
        let ty = if real { Type::new(Element::F32, [rows, columns]) } else { ty };
        let y = node(&mut graph, ops::MatMul {}, &[x, w], ty);
        graph.mark_output(y);
        let dump = check(&graph, seed)?;
        prop_assert!(dump.contains("groups of"), "{}", dump);
    }
}

/// Two 3×3 convolutions over 32 channels with weights and activations of these bits.
fn pair(weight_bits: u8, bits: u8) -> Graph {
    let mut dice = Dice(7);
    let mut graph = Graph::new("pair");
    let ty = || {
        let quant = Quant::per_tensor(0.5, 0).expect("a positive scale");
        Type::new(Element::F32, [1usize, 32, 6, 6]).quantized(unsigned(bits), quant)
    };
    let mut x = graph.add_input("x", ty());
    for _ in 0..2 {
        let w = weights(&mut graph, &mut dice, &[32, 32, 3, 3], weight_bits, true);
        x = node(&mut graph, ops::Conv { pads: vec![1; 4], ..ops::Conv::default() }, &[x, w], ty());
    }
    graph.mark_output(x);
    graph
}

#[test]
fn values_stay_planes_between_layers_of_few_bits() {
    for (weight_bits, bits) in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)] {
        let dump = check(&pair(weight_bits, bits), 3).expect("equal");
        let kernel = format!("[conv w{weight_bits}a{bits} bits 3x3 scalar");
        assert_eq!(dump.matches(&kernel).count(), 2, "{dump}");
        assert!(dump.contains("scalar, to planes]") && dump.contains("scalar, from planes]"), "{dump}");
        let between = format!("+{}", 4 * usize::from(bits) * 36);
        assert!(dump.contains(&between), "a value of {bits} planes takes {between}:\n{dump}");
    }
}

#[test]
fn values_that_something_else_reads_are_bytes() {
    let mut graph = pair(1, 1);
    let middle = graph.nodes[0].outputs[0];
    graph.mark_output(middle);
    let dump = check(&graph, 3).expect("equal");
    assert!(dump.contains("w1a1 bits") && !dump.contains("planes"), "{dump}");
}

#[test]
fn narrow_weights_stay_narrow_beside_bytes() {
    for (weight_bits, name, per_weight) in [(1, "ternary", 0.2), (2, "ternary", 0.2), (4, "4-bit", 0.5)] {
        let graph = pair(weight_bits, 8);
        let dump = check(&graph, 3).expect("equal");
        assert_eq!(dump.matches(&format!("[conv {name} u8 3x3 scalar]")).count(), 2, "{dump}");
        let mut session = Session::new(Arc::new(Plan::new(&graph, &Options::default()).expect("a legal graph")));
        let layer = session.profile().expect("runs").into_iter().find(|t| t.macs > 0).expect("a layer");
        let weights = layer.bytes as f64 - 2.0 * 32.0 * 36.0;
        let each = weights / (32.0 * 32.0 * 9.0);
        // Lines of five steps do not always end with the depth.
        assert!((per_weight..per_weight * 1.05).contains(&each), "{name}: {each} bytes a weight");
    }
}

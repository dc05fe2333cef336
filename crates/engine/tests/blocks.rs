//! Chains of layers that run as one step: found where they pay, left alone where something else reads what lies between.

use std::sync::Arc;

use qing_engine::{Isa, Options, Plan, Session};
use qing_graph::{Element, Graph, Op, Tensor, Type, ValueId, interpret::interpret, ops};

fn node(graph: &mut Graph, op: impl Op, name: &str, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    graph.add_node(Arc::new(op), name, &inputs, 1).expect("a legal node")[0]
}

fn conv(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    out: usize,
    kernel: usize,
    stride: usize,
    depthwise: bool,
) -> ValueId {
    let channels = graph.ty(x).shape.as_ref().and_then(|s| s[1].known()).expect("known channels");
    let (inputs, groups) = if depthwise { (1, channels) } else { (channels, 1) };
    let mut tensor = |name: String, shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|i: usize| (i * 5 % 17) as f32 * 0.02 - 0.15);
        graph.add_constant(&name, Tensor::new(shape, values.collect::<Vec<f32>>()).expect("fits"))
    };
    let w = tensor(format!("{name}.w"), &[out, inputs, kernel, kernel]);
    let b = tensor(format!("{name}.b"), &[out]);
    let pads = vec![(kernel / 2) as i64; 4];
    let op = ops::Conv { pads, strides: vec![stride as i64; 2], group: groups as i64, ..ops::Conv::default() };
    node(graph, op, name, &[x, w, b])
}

/// An inverted residual block of 32×32 pixels with a residual; the values between are outputs as well where `open` says so.
fn block(open: [bool; 2], depthwise_kernel: usize) -> Graph {
    let mut graph = Graph::new("block");
    let x = graph.add_input("x", Type::new(Element::F32, [1usize, 16, 32, 32]));
    let wide = conv(&mut graph, "widen", x, 72, 1, 1, false);
    let wide = node(&mut graph, ops::Relu {}, "widen.relu", &[wide]);
    let middle = conv(&mut graph, "depthwise", wide, 72, depthwise_kernel, 1, true);
    let middle = node(&mut graph, ops::Relu {}, "depthwise.relu", &[middle]);
    let narrow = conv(&mut graph, "narrow", middle, 16, 1, 1, false);
    let y = node(&mut graph, ops::Add {}, "sum", &[x, narrow]);
    graph.mark_output(y);
    for (value, open) in [wide, middle].into_iter().zip(open) {
        if open {
            graph.mark_output(value);
        }
    }
    graph
}

fn check(graph: &Graph, steps: &str, fused: bool) {
    let x: Vec<f32> = (0..16 * 32 * 32).map(|i| (i * 7 % 23) as f32 * 0.1 - 1.0).collect();
    let x = Tensor::new(&[1, 16, 32, 32], x).expect("fits");
    let want = interpret(graph, std::slice::from_ref(&x)).expect("runs");
    let mut first: Vec<Option<Vec<Tensor>>> = vec![None; Isa::available().len()];
    for (isa, first) in Isa::available().into_iter().zip(&mut first) {
        for threads in [1, 2, 3, 8] {
            let plan = Plan::new(graph, &Options { threads, isa: Some(isa), ..Options::default() }).expect("legal");
            assert_eq!(plan.dump().contains(steps), fused && isa != Isa::Scalar, "{}", plan.dump());
            let got = Session::new(Arc::new(plan)).run(std::slice::from_ref(&x)).expect("runs");
            for (got, want) in got.iter().zip(&want) {
                for (g, w) in got.to_f64s().iter().zip(want.to_f64s()) {
                    assert!((g - w).abs() < 1e-4, "{g} for {w} on {}", isa.name());
                }
            }
            assert_eq!(first.get_or_insert_with(|| got.clone()), &got, "{threads} threads on {}", isa.name());
        }
    }
}

#[test]
fn an_inverted_residual_block_is_one_step() {
    check(&block([false, false], 3), "Conv+Relu+Conv+Relu+Conv+Add widen [block f32 3x3", true);
    check(&block([false, false], 5), "Conv+Relu+Conv+Relu+Conv+Add widen [block f32 5x5", true);
}

#[test]
fn what_is_read_elsewhere_keeps_its_layer() {
    // Where only the wide image is read, the last two layers are still one step.
    check(&block([true, false], 3), "Conv+Relu+Conv+Add depthwise [block f32 3x3", true);
    for open in [[false, true], [true, true]] {
        check(&block(open, 3), "block f32", false);
    }
    // There is no loop for windows of seven.
    check(&block([false, false], 7), "block f32", false);
}

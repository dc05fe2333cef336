//! Models of ten thousand nodes: chains, fans and patterns that rewrites join, planned and run on the small stack of a test's
//! thread. What is quadratic, or recurses along a chain, shows here.

use std::sync::Arc;

use qing_engine::{Options, Plan, Session};
use qing_graph::{Element, Graph, Op, Tensor, Type, ValueId, ops};

const NODES: usize = 10_000;

fn node(graph: &mut Graph, op: impl Op, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    let name = format!("n{}", graph.nodes.len());
    graph.add_node(Arc::new(op), &name, &inputs, 1).expect("a legal node")[0]
}

/// A graph of one input `[1, 4, 4, 4]`, built by `layer` from the value before and the index until it is large enough.
fn grow(mut layer: impl FnMut(&mut Graph, ValueId, usize) -> ValueId) -> Graph {
    let mut graph = Graph::new("large");
    let mut x = graph.add_input("x", Type::new(Element::F32, [1usize, 4, 4, 4]));
    let mut i = 0;
    while graph.nodes.len() < NODES {
        x = layer(&mut graph, x, i);
        i += 1;
    }
    graph.mark_output(x);
    graph
}

/// Plans and runs; every input is 0.5.
fn run(graph: &Graph) -> Vec<f32> {
    let start = std::time::Instant::now();
    let plan = Plan::new(graph, &Options::default()).expect("a legal graph");
    println!("{} nodes planned in {:.2?}", graph.nodes.len(), start.elapsed());
    assert!(plan.dump().len() > 10);
    let input = Tensor::new(&[1, 4, 4, 4], vec![0.5f32; 64]).expect("fits");
    Session::new(Arc::new(plan)).run(&[input]).expect("runs").remove(0).to_f32s()
}

#[test]
fn chain_of_unary_ops() {
    assert_eq!(run(&grow(|g, x, _| node(g, ops::Neg {}, &[x]))), [0.5; 64]);
}

#[test]
fn chain_of_identities_disappears() {
    assert_eq!(
        run(&grow(|g, x, i| if i == 0 { node(g, ops::Neg {}, &[x]) } else { node(g, ops::Identity {}, &[x]) })),
        [-0.5; 64]
    );
}

#[test]
fn chain_of_products_with_constants() {
    let graph = grow(|g, x, i| {
        let c = g.add_constant("c", Tensor::scalar(if i % 2 == 0 { 2.0f32 } else { 0.5 }));
        node(g, ops::Mul {}, &[x, c])
    });
    assert_eq!(run(&graph), [0.5; 64]);
}

#[test]
fn chain_of_sums_with_a_value_of_long_ago() {
    let mut first = None;
    let graph = grow(|g, x, i| {
        let first = *first.get_or_insert(x);
        if i % 2 == 0 { node(g, ops::Add {}, &[x, first]) } else { node(g, ops::Sub {}, &[x, first]) }
    });
    assert_eq!(run(&graph), [0.5; 64]);
}

#[test]
fn chain_of_transposes_cancels() {
    let graph = grow(|g, x, i| {
        if i % 3 == 2 {
            return node(g, ops::Neg {}, &[x]);
        }
        node(g, ops::Transpose { perm: if i % 3 == 0 { vec![0, 2, 3, 1] } else { vec![0, 3, 1, 2] } }, &[x])
    });
    assert_eq!(run(&graph), [if (NODES / 3).is_multiple_of(2) { 0.5 } else { -0.5 }; 64]);
}

#[test]
fn chain_of_convolutions_with_spelled_out_activations() {
    let graph = grow(|g, x, _| {
        let weights: Vec<f32> = (0..16).map(|i| if i % 5 == 0 { -1.0 } else { 0.0 }).collect();
        let w = g.add_constant("w", Tensor::new(&[4, 4, 1, 1], weights).expect("fits"));
        let y = node(g, ops::Conv::default(), &[x, w]);
        let shift = g.add_constant("shift", Tensor::new(&[1, 4, 1, 1], vec![0.25f32; 4]).expect("fits"));
        let y = node(g, ops::Add {}, &[y, shift]);
        let gate = node(g, ops::Sigmoid {}, &[y]);
        let y = node(g, ops::Mul {}, &[y, gate]);
        node(g, ops::Add {}, &[y, x])
    });
    let y = run(&graph);
    assert!(y.iter().all(|v| v.is_finite() && *v == y[0]), "{y:?}");
}

#[test]
fn fan_of_branches() {
    let mut graph = Graph::new("fan");
    let x = graph.add_input("x", Type::new(Element::F32, [1usize, 4, 4, 4]));
    let mut sums: Vec<ValueId> = (0..NODES / 2).map(|_| node(&mut graph, ops::Abs {}, &[x])).collect();
    while sums.len() > 1 {
        sums = sums
            .chunks(2)
            .map(|pair| if let [a, b] = *pair { node(&mut graph, ops::Max {}, &[a, b]) } else { pair[0] })
            .collect();
    }
    graph.mark_output(sums[0]);
    assert_eq!(run(&graph), [0.5; 64]);
}

#[test]
fn thousands_of_constants_fold() {
    let mut graph = Graph::new("constants");
    let x = graph.add_input("x", Type::new(Element::F32, [1usize, 4, 4, 4]));
    let mut c = graph.add_constant("c", Tensor::new(&[1, 4, 4, 4], vec![1.0f32; 64]).expect("fits"));
    let big = graph.add_constant("big", Tensor::new(&[16_384], vec![1.0f32; 16_384]).expect("fits"));
    let mut sum = node(&mut graph, ops::Neg {}, &[big]);
    while graph.nodes.len() < NODES {
        c = node(&mut graph, ops::Neg {}, &[c]);
        if graph.nodes.len().is_multiple_of(100) {
            sum = node(&mut graph, ops::Neg {}, &[sum]);
        }
    }
    let y = node(&mut graph, ops::Mul {}, &[x, c]);
    graph.mark_output(y);
    graph.mark_output(sum);
    assert_eq!(run(&graph).iter().map(|v| v.abs()).collect::<Vec<_>>(), [0.5; 64]);
}

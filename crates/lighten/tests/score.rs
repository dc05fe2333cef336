//! Counting by hand what `score` counts.

use std::sync::Arc;

use qing_graph::{Element, Graph, Quant, Tensor, Type, ops};
use qing_lighten::score::{Baseline, Rules, Sums, score};

/// A 1×1 convolution of 4-bit values [1, 3, 2, 2] with two channels of 4-bit weights, one scale for both; sums come out.
fn quantized(scale: f32, weights: &[i32], bias: Option<&[i32]>) -> Graph {
    let mut graph = Graph::new("two channels");
    let four = |signed| Element::integer(4, signed).expect("a width");
    let q = |s| Quant::per_tensor(s, 0).expect("a scale");
    let x = graph.add_input("x", Type::new(Element::F32, [1usize, 3, 2, 2]).quantized(four(false), q(1.0)));
    let w = Tensor::from_ints(four(true), &[2, 3, 1, 1], weights).expect("fits");
    let w =
        graph.add_typed_constant("w", Type::new(Element::F32, [2usize, 3, 1, 1]).quantized(four(true), q(scale)), w);
    let bias = bias.map(|b| graph.add_constant("b", Tensor::vector(b.to_vec())));
    let conv = Arc::new(ops::Conv::default());
    let y = graph.add_node(conv, "conv", &[Some(x), Some(w), bias], 1).expect("a layer");
    graph.value_mut(y[0]).ty = Type::new(Element::F32, [1usize, 2, 2, 2]);
    graph.mark_output(y[0]);
    graph
}

fn bits(graph: &Graph, rules: &Rules) -> [f64; 5] {
    let t = score(graph, rules).expect("counts").total;
    [t.values, t.masks, t.scales, t.multiplications, t.additions]
}

#[test]
fn a_layer_by_hand() {
    // Channel 0 has three weights, channel 1 one; −8 … 7 needs four bits, sparse: 4 · 4 + 6 < 6 · 4.
    let graph = quantized(1.0, &[7, -8, 3, 0, 1, 0], None);
    let tree = 4.0 * (8.0 + 9.0);
    assert_eq!(bits(&graph, &Rules::default()), [16.0, 6.0, 0.0, 4.0 * 4.0 * 4.0, tree]);
    // ⌊log2(15 · 7 · 3)⌋ + 1 bits and a sign.
    let rules = Rules { sums: Sums::Fixed, ..Rules::default() };
    assert_eq!(bits(&graph, &rules)[4], 4.0 * 2.0 * 10.0);
    let rules = Rules { sums: Sums::Bits(32), ..Rules::default() };
    assert_eq!(bits(&graph, &rules)[4], 4.0 * 2.0 * 32.0);
}

#[test]
fn scales_and_biases_count() {
    // A factor of 3 for each of eight sums of 10 bits, stored in two bits; the mask does not pay for no zeros.
    let graph = quantized(3.0, &[7, -8, 3, 1, 1, 1], None);
    assert_eq!(bits(&graph, &Rules::default())[..4], [24.0, 0.0, 2.0, 6.0 * 4.0 * 4.0 + 8.0 * 10.0]);
    // A power of two moves the point.
    let graph = quantized(0.25, &[7, -8, 3, 1, 1, 1], None);
    assert_eq!(bits(&graph, &Rules::default())[2..4], [0.0, 6.0 * 4.0 * 4.0]);
    // A bias is one more addition, at the width of the sum or its own.
    let graph = quantized(1.0, &[7, -8, 3, 1, 1, 1], Some(&[-2000, 0]));
    let sums = 2.0 * 4.0 * (8.0 + 9.0);
    assert_eq!(bits(&graph, &Rules::default())[2..], [24.0, 96.0, sums + 8.0 * 12.0]);
}

#[test]
fn reals_count_at_their_width_and_biases_as_asked() {
    let mut graph = Graph::new("affine");
    let x = graph.add_input("x", Type::new(Element::F32, [1usize, 4]));
    let a = graph.add_constant("a", Tensor::new(&[1, 4], vec![0.1f32, 0.2, 0.3, 0.7]).expect("fits"));
    let b = graph.add_constant("b", Tensor::new(&[1, 4], vec![0.5f32, 1.0, 2.0, 4.0]).expect("fits"));
    let y = graph.add_node(Arc::new(ops::Mul {}), "scale", &[Some(x), Some(a)], 1).expect("types")[0];
    let z = graph.add_node(Arc::new(ops::Add {}), "shift", &[Some(y), Some(b)], 1).expect("types")[0];
    graph.mark_output(z);
    assert_eq!(bits(&graph, &Rules::default()), [0.0, 0.0, 4.0 * 32.0 + 4.0 * 8.0, 128.0, 128.0]);
    let rules = Rules { real_sums: Some(16), as_released: true, ..Rules::default() };
    assert_eq!(bits(&graph, &rules), [0.0, 0.0, 32.0 + 8.0, 128.0, 64.0]);
    let scored = score(&graph, &Rules { baseline: Baseline::imagenet(), ..Rules::default() }).expect("counts");
    assert!((scored.score - (5.0 / 6.9e6 + 8.0 / 1170e6)).abs() < 1e-15);
}

#[test]
fn bad_input_is_explained() {
    let mut graph = Graph::new("open");
    let x = graph.add_input("x", Type::maybe(Element::F32, None));
    graph.mark_output(x);
    let error = score(&graph, &Rules::default()).expect_err("no shape").to_string();
    assert!(error.contains("input `x`") && error.contains("shape must be known"), "{error}");
    let graph = quantized(1.0, &[1, 1, 1, 1, 1, 1], None);
    let error = score(&graph, &Rules { sums: Sums::Bits(0), ..Rules::default() }).expect_err("no bits").to_string();
    assert!(error.contains("0 bits"), "{error}");
}

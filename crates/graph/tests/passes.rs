//! The passes on small graphs, held against the reference evaluator.

use std::sync::Arc;

use qing_graph::{Element, Graph, Quant, Tensor, Type, ValueId, interpret::interpret, ops, passes, verify::verify};

fn noise(shape: &[usize], seed: usize, size: f32) -> Tensor {
    let value = |i: usize| {
        let h = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((h >> 40) as f32 / 16_777_216.0 - 0.5) * 2.0 * size
    };
    Tensor::new(shape, (0..shape.iter().product()).map(value).collect()).unwrap()
}

fn positive(n: usize, seed: usize) -> Tensor {
    Tensor::vector(noise(&[n], seed, 0.5).to_f32s().into_iter().map(|v| v + 1.0).collect())
}

fn ints(element: Element, shape: &[usize], seed: usize) -> Tensor {
    let (lo, hi) = element.range().unwrap();
    let (lo, hi) = if element == Element::Bipolar { (0, 1) } else { (lo as i32, hi as i32) };
    let values: Vec<i32> = noise(shape, seed, 0.5)
        .to_f32s()
        .into_iter()
        .map(|v| lo + ((v + 0.5) * (hi - lo + 1) as f32) as i32)
        .map(|v| v.clamp(lo, hi))
        .collect();
    Tensor::from_ints(element, shape, &values).unwrap()
}

fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.shape(), b.shape());
    for (x, y) in a.to_f64s().into_iter().zip(b.to_f64s()) {
        assert!((x - y).abs() <= tolerance * y.abs().max(1.0), "{x} {y}");
    }
}

fn add(g: &mut Graph, op: impl qing_graph::Op, name: &str, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    g.add_node(Arc::new(op), name, &inputs, 1).unwrap()[0]
}

fn batch_norm(g: &mut Graph, x: ValueId, channels: usize, seed: usize) -> ValueId {
    let gamma = g.add_constant("gamma", noise(&[channels], seed, 2.0));
    let beta = g.add_constant("beta", noise(&[channels], seed + 1, 1.0));
    let mean = g.add_constant("mean", noise(&[channels], seed + 2, 1.0));
    let var = g.add_constant("var", positive(channels, seed + 3));
    add(g, ops::BatchNormalization::default(), "bn", &[x, gamma, beta, mean, var])
}

/// What remains of a graph after folding, by op name, and that it computes the same.
fn folds_to(graph: &Graph, input: &Tensor, expected: &[&str]) {
    let mut folded = graph.clone();
    passes::normalize(&mut folded).unwrap();
    verify(&folded).unwrap();
    assert_eq!(folded.nodes.iter().map(|n| n.op.name()).collect::<Vec<_>>(), expected);
    let (a, b) = (
        interpret(graph, std::slice::from_ref(input)).unwrap(),
        interpret(&folded, std::slice::from_ref(input)).unwrap(),
    );
    close(&b[0], &a[0], 1e-5);
    let name = |g: &Graph| g.value(g.outputs[0]).name.clone();
    assert_eq!(name(graph), name(&folded));
}

#[test]
fn batch_norm_folds_into_convolutions() {
    for (group, w, bias) in [(1i64, [6usize, 4, 3, 3], true), (2, [6, 2, 1, 1], false), (4, [8, 1, 3, 3], true)] {
        let mut g = Graph::new("t");
        let x = g.add_input("x", Type::new(Element::F32, [2usize, 4, 5, 5]));
        let mut inputs = vec![x, g.add_constant("w", noise(&w, 1, 1.0))];
        if bias {
            inputs.push(g.add_constant("b", noise(&[w[0]], 2, 1.0)));
        }
        let c = add(&mut g, ops::Conv { group, ..ops::Conv::default() }, "conv", &inputs);
        let y = batch_norm(&mut g, c, w[0], 10);
        g.mark_output(y);
        folds_to(&g, &noise(&[2, 4, 5, 5], 7, 1.0), &["Conv"]);
    }
}

#[test]
fn what_a_batch_norm_cannot_fold_into_becomes_a_depthwise_convolution() {
    let mut g = Graph::new("t");
    let x = g.add_input("x", Type::new(Element::F32, [1usize, 3, 4, 4]));
    let y = batch_norm(&mut g, x, 3, 1);
    let y = add(&mut g, ops::Relu {}, "relu", &[y]);
    g.mark_output(y);
    folds_to(&g, &noise(&[1, 3, 4, 4], 7, 1.0), &["Conv", "Relu"]);
}

#[test]
fn a_value_that_others_read_is_not_folded() {
    let mut g = Graph::new("t");
    let x = g.add_input("x", Type::new(Element::F32, [1usize, 3, 4, 4]));
    let w = g.add_constant("w", noise(&[3, 3, 1, 1], 1, 1.0));
    let c = add(&mut g, ops::Conv::default(), "conv", &[x, w]);
    let y = batch_norm(&mut g, c, 3, 2);
    let z = add(&mut g, ops::Add {}, "sum", &[y, c]);
    g.mark_output(z);
    folds_to(&g, &noise(&[1, 3, 4, 4], 7, 1.0), &["Conv", "Conv", "Add"]);
}

#[test]
fn scaling_and_shifting_fold_into_products() {
    for trans_b in [false, true] {
        let mut g = Graph::new("t");
        let x = g.add_input("x", Type::new(Element::F32, [2usize, 3]));
        let w = g.add_constant("w", noise(if trans_b { &[4, 3] } else { &[3, 4] }, 1, 1.0));
        let b = g.add_constant("b", noise(&[4], 2, 1.0));
        let gemm = ops::Gemm { transB: trans_b, alpha: 0.5, beta: 2.0, ..ops::Gemm::default() };
        let y = add(&mut g, gemm, "fc", &[x, w, b]);
        let m = g.add_constant("m", noise(&[1, 4], 3, 1.0));
        let y = add(&mut g, ops::Mul {}, "mul", &[m, y]);
        let s = g.add_constant("s", noise(&[4], 4, 1.0));
        let y = add(&mut g, ops::Sub {}, "sub", &[y, s]);
        g.mark_output(y);
        folds_to(&g, &noise(&[2, 3], 7, 1.0), &["Gemm"]);
    }
    let mut g = Graph::new("t");
    let x = g.add_input("x", Type::new(Element::F32, [2usize, 3]));
    let w = g.add_constant("w", noise(&[3, 4], 1, 1.0));
    let y = add(&mut g, ops::MatMul {}, "fc", &[x, w]);
    let b = g.add_constant("b", noise(&[4], 2, 1.0));
    let y = add(&mut g, ops::Add {}, "add", &[y, b]);
    g.mark_output(y);
    folds_to(&g, &noise(&[2, 3], 7, 1.0), &["Gemm"]);
}

#[test]
fn what_does_nothing_goes_and_what_was_split_is_joined() {
    let mut g = Graph::new("t");
    let x = g.add_input("x", Type::new(Element::F32, [1usize, 2, 4, 4]));
    let y = add(&mut g, ops::Identity {}, "id", &[x]);
    let y = add(&mut g, ops::Transpose { perm: vec![0, 2, 3, 1] }, "t1", &[y]);
    let y = add(&mut g, ops::Transpose { perm: vec![0, 3, 1, 2] }, "t2", &[y]);
    let pads = g.add_constant("pads", Tensor::vector(vec![0i64, 0, 1, 0, 0, 0, 0, 1]));
    let y = add(&mut g, ops::Pad::default(), "pad", &[y, pads]);
    let w = g.add_constant("w", noise(&[3, 2, 3, 3], 1, 1.0));
    let y = add(&mut g, ops::Conv { pads: vec![0, 1, 1, 0], ..ops::Conv::default() }, "conv", &[y, w]);
    let axes = g.add_constant("axes", Tensor::vector(vec![-1i64, 2]));
    let y = add(&mut g, ops::ReduceMean::default(), "mean", &[y, axes]);
    let s1 = g.add_constant("s1", Tensor::vector(vec![3i64, 1]));
    let y = add(&mut g, ops::Reshape::default(), "r1", &[y, s1]);
    let s2 = g.add_constant("s2", Tensor::vector(vec![1i64, -1]));
    let y = add(&mut g, ops::Reshape::default(), "r2", &[y, s2]);
    g.mark_output(y);
    folds_to(&g, &noise(&[1, 2, 4, 4], 7, 1.0), &["Conv", "GlobalAveragePool", "Reshape"]);
}

/// A typed network: quantize, convolution with ReLU, depthwise convolution, residual sum, pool, product with a real result.
fn typed(weights: Element, activations: Element) -> Graph {
    let mut g = Graph::new("typed");
    let (lo, hi) = activations.range().unwrap();
    let middle = ((lo + hi + 1) / 2) as i32;
    let levels = (hi - lo) as f32;
    let act = |shape: &[usize], reach: f32, zero: i32| {
        Type::new(activations, shape.iter().copied())
            .quantized(activations, Quant::per_tensor(reach / levels, zero).unwrap())
    };
    let x = g.add_input("x", Type::new(Element::F32, [1usize, 3, 6, 6]));
    let q = |g: &mut Graph, op: Arc<dyn qing_graph::Op>, name: &str, inputs: &[ValueId], ty: Type| {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        g.add_typed_node(op, name, &inputs, vec![ty]).unwrap()[0]
    };
    let weight = |g: &mut Graph, name: &str, shape: &[usize], seed: usize| {
        let scales = positive(shape[0], seed + 50).to_f32s().into_iter().map(|s| s * 0.02).collect();
        let ty = Type::new(weights, shape.iter().copied()).quantized(weights, Quant::per_axis(0, scales).unwrap());
        g.add_typed_constant(name, ty, ints(weights, shape, seed))
    };
    let bias = |g: &mut Graph, name: &str, n: usize| {
        g.add_constant(name, Tensor::vector((0..n as i32).map(|i| i * 7 - 11).collect::<Vec<_>>()))
    };
    let xq = q(&mut g, Arc::new(ops::Quantize {}), "xq", &[x], act(&[1, 3, 6, 6], 4.0, middle));
    let (w, b) = (weight(&mut g, "w1", &[4, 3, 3, 3], 1), bias(&mut g, "b1", 4));
    let conv = Arc::new(ops::Conv { pads: vec![1; 4], ..ops::Conv::default() });
    let relu_ty = act(&[1, 4, 6, 6], 3.0, lo as i32);
    let c1 = q(&mut g, conv, "c1", &[xq, w, b], relu_ty.clone());
    let r1 = q(&mut g, Arc::new(ops::Relu {}), "r1", &[c1], relu_ty);
    let (w, b) = (weight(&mut g, "w2", &[4, 1, 3, 3], 2), bias(&mut g, "b2", 4));
    let depthwise = Arc::new(ops::Conv { pads: vec![1; 4], group: 4, ..ops::Conv::default() });
    let c2 = q(&mut g, depthwise, "c2", &[r1, w, b], act(&[1, 4, 6, 6], 5.0, middle));
    let sum = q(&mut g, Arc::new(ops::Add {}), "sum", &[c2, r1], act(&[1, 4, 6, 6], 6.0, middle));
    let pool = Arc::new(ops::MaxPool { kernel_shape: vec![2, 2], strides: vec![2, 2], ..ops::MaxPool::default() });
    let p = q(&mut g, pool, "p", &[sum], act(&[1, 4, 3, 3], 6.0, middle));
    let shape = g.add_constant("shape", Tensor::vector(vec![1i64, 36]));
    let flat = q(&mut g, Arc::new(ops::Reshape::default()), "flat", &[p, shape], act(&[1, 36], 6.0, middle));
    let (w, b) = (weight(&mut g, "w3", &[5, 36], 3), bias(&mut g, "b3", 5));
    let y = add(&mut g, ops::Gemm { transB: true, ..ops::Gemm::default() }, "y", &[flat, w, b]);
    g.mark_output(y);
    verify(&g).unwrap();
    g
}

#[test]
fn typed_graphs_survive_the_way_through_qdq() {
    let element = |w, s| Element::integer(w, s).unwrap();
    for (weights, activations) in [
        (Element::I8, Element::U8),
        (element(4, true), Element::U8),
        (element(4, true), Element::I8),
        (element(3, true), element(4, false)),
        (element(6, true), element(5, false)),
        (element(2, true), element(3, true)),
        (Element::Bipolar, element(7, false)),
    ] {
        let graph = typed(weights, activations);
        let qdq = passes::to_qdq(&graph).unwrap();
        verify(&qdq).unwrap();
        assert!(qdq.values().all(|(_, v)| v.ty.quant.is_none()));
        let back = passes::from_qdq(&qdq).unwrap();
        let names = |g: &Graph| g.nodes.iter().map(|n| n.op.name()).filter(|n| *n != "Relu").collect::<Vec<_>>();
        assert_eq!(names(&back), names(&graph), "{weights} {activations}");
        let typed_values = |g: &Graph| {
            g.nodes.iter().filter(|n| n.op.name() != "Relu").map(|n| g.ty(n.outputs[0]).to_string()).collect::<Vec<_>>()
        };
        assert_eq!(typed_values(&back), typed_values(&graph), "{weights} {activations}");
        for seed in 0..3 {
            let input = [noise(&[1, 3, 6, 6], 70 + seed, 2.0)];
            let (a, b, c) = (
                interpret(&graph, &input).unwrap(),
                interpret(&back, &input).unwrap(),
                interpret(&qdq, &input).unwrap(),
            );
            assert_eq!(a, b, "{weights} {activations}");
            // In floating point a tie may fall to the other side.
            close(&c[0], &a[0], 0.5);
        }
    }
}

#[test]
fn what_has_no_integer_rule_stays_an_island() {
    let mut g = Graph::new("t");
    let x = g.add_input("x", Type::new(Element::F32, [1usize, 4]));
    let scale = g.add_constant("s", Tensor::scalar(0.1f32));
    let zero = g.add_constant("z", Tensor::scalar(100u8));
    let q = add(&mut g, ops::QuantizeLinear::default(), "q", &[x, scale, zero]);
    let d = add(&mut g, ops::DequantizeLinear::default(), "d", &[q, scale, zero]);
    let s = add(&mut g, ops::Softmax::default(), "softmax", &[d]);
    let q2 = add(&mut g, ops::QuantizeLinear::default(), "q2", &[s, scale, zero]);
    let y = add(&mut g, ops::DequantizeLinear::default(), "y", &[q2, scale, zero]);
    g.mark_output(y);
    let typed = passes::from_qdq(&g).unwrap();
    let names: Vec<&str> = typed.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["Quantize", "Dequantize", "Softmax", "Quantize", "Dequantize"]);
    let input = [noise(&[1, 4], 3, 2.0)];
    assert_eq!(interpret(&g, &input).unwrap(), interpret(&typed, &input).unwrap());
}

#[test]
fn spelled_out_functions_become_one_op() {
    type Spell = fn(&mut Graph, ValueId) -> ValueId;
    fn c(g: &mut Graph, v: f32) -> ValueId {
        g.add_constant("c", Tensor::scalar(v))
    }
    let spells: [(&str, Spell); 7] = [
        ("Swish", |g, x| {
            let s = add(g, ops::Sigmoid {}, "s", &[x]);
            add(g, ops::Mul {}, "y", &[x, s])
        }),
        ("HardSwish", |g, x| {
            let s = add(g, ops::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, "s", &[x]);
            add(g, ops::Mul {}, "y", &[s, x])
        }),
        ("HardSwish", |g, x| {
            let (three, zero, six) = (c(g, 3.0), c(g, 0.0), c(g, 6.0));
            let s = add(g, ops::Add {}, "s", &[x, three]);
            let s = add(g, ops::Clip {}, "clip", &[s, zero, six]);
            let s = add(g, ops::Mul {}, "m", &[x, s]);
            add(g, ops::Div {}, "y", &[s, six])
        }),
        ("Gelu", |g, x| {
            let (root, one, half) = (c(g, std::f32::consts::SQRT_2), c(g, 1.0), c(g, 0.5));
            let e = add(g, ops::Div {}, "d", &[x, root]);
            let e = add(g, ops::Erf {}, "e", &[e]);
            let e = add(g, ops::Add {}, "p", &[e, one]);
            let e = add(g, ops::Mul {}, "m", &[x, e]);
            add(g, ops::Mul {}, "y", &[e, half])
        }),
        ("Gelu", |g, x| {
            let (three, a, b, one, half) = (c(g, 3.0), c(g, 0.044_715), c(g, 0.797_884_6), c(g, 1.0), c(g, 0.5));
            let t = add(g, ops::Pow {}, "pow", &[x, three]);
            let t = add(g, ops::Mul {}, "m1", &[t, a]);
            let t = add(g, ops::Add {}, "a1", &[x, t]);
            let t = add(g, ops::Mul {}, "m2", &[t, b]);
            let t = add(g, ops::Tanh {}, "t", &[t]);
            let t = add(g, ops::Add {}, "a2", &[t, one]);
            let h = add(g, ops::Mul {}, "m3", &[x, half]);
            add(g, ops::Mul {}, "y", &[h, t])
        }),
        ("LayerNormalization", |g, x| {
            let axes = g.add_constant("axes", Tensor::vector(vec![-1i64]));
            let (two, epsilon) = (c(g, 2.0), c(g, 1e-5));
            let (scale, shift) =
                (g.add_constant("scale", noise(&[4], 5, 1.0)), g.add_constant("shift", noise(&[4], 6, 1.0)));
            let m = add(g, ops::ReduceMean::default(), "mean", &[x, axes]);
            let d = add(g, ops::Sub {}, "d", &[x, m]);
            let s = add(g, ops::Pow {}, "pow", &[d, two]);
            let s = add(g, ops::ReduceMean::default(), "var", &[s, axes]);
            let s = add(g, ops::Add {}, "plus", &[s, epsilon]);
            let s = add(g, ops::Sqrt {}, "sqrt", &[s]);
            let n = add(g, ops::Div {}, "n", &[d, s]);
            let n = add(g, ops::Mul {}, "scaled", &[n, scale]);
            add(g, ops::Add {}, "y", &[n, shift])
        }),
        // Not one of them: the gate is of another value.
        ("Mul", |g, x| {
            let t = add(g, ops::Tanh {}, "t", &[x]);
            let s = add(g, ops::Sigmoid {}, "s", &[t]);
            add(g, ops::Mul {}, "y", &[x, s])
        }),
    ];
    for (expected, spell) in spells {
        let mut g = Graph::new("t");
        let x = g.add_input("x", Type::new(Element::F32, [2usize, 3, 4]));
        let y = spell(&mut g, x);
        g.mark_output(y);
        let mut folded = g.clone();
        passes::normalize(&mut folded).unwrap();
        assert_eq!(folded.nodes.last().unwrap().op.name(), expected);
        assert!(expected == "Mul" || folded.nodes.len() == 1, "{expected}");
        let input = [noise(&[2, 3, 4], 9, 3.0)];
        close(&interpret(&folded, &input).unwrap()[0], &interpret(&g, &input).unwrap()[0], 1e-5);
    }
}

/// QONNX: weights through `Quant` with one scale a channel, or through `BipolarQuant`; activations through `Quant`.
#[test]
fn qonnx_becomes_typed_layers() {
    for bipolar in [false, true] {
        let mut g = Graph::new("t");
        let x = g.add_input("x", Type::new(Element::F32, [1usize, 2, 4, 4]));
        let scalar = |g: &mut Graph, name: &str, v: f32| g.add_constant(name, Tensor::scalar(v));
        let (zero, bits) = (scalar(&mut g, "zero", 0.0), scalar(&mut g, "bits", 4.0));
        let s = scalar(&mut g, "xs", 0.25);
        let q = add(&mut g, ops::Quant::default(), "xq", &[x, s, zero, bits]);
        let w = g.add_constant("w", noise(&[3, 2, 1, 1], 1, 1.0));
        let w = if bipolar {
            let s = scalar(&mut g, "ws", 0.5);
            add(&mut g, ops::BipolarQuant {}, "wq", &[w, s])
        } else {
            let s = g.add_constant("ws", Tensor::new(&[3, 1, 1, 1], vec![0.125f32, 0.25, 0.5]).unwrap());
            add(&mut g, ops::Quant { narrow: true, ..ops::Quant::default() }, "wq", &[w, s, zero, bits])
        };
        let y = add(&mut g, ops::Conv::default(), "conv", &[q, w]);
        let y = add(&mut g, ops::Relu {}, "relu", &[y]);
        let s = scalar(&mut g, "ys", 0.5);
        let y = add(&mut g, ops::Quant { signed: false, ..ops::Quant::default() }, "yq", &[y, s, zero, bits]);
        g.mark_output(y);
        let typed = passes::from_qdq(&g).unwrap();
        let names: Vec<&str> = typed.nodes.iter().map(|n| n.op.name()).collect();
        assert_eq!(names, ["Quantize", "Conv", "Relu", "Dequantize"]);
        let conv = &typed.nodes[1];
        let element = typed.ty(conv.inputs[1].unwrap()).element;
        assert_eq!(element == Element::Bipolar, bipolar);
        assert_eq!(typed.ty(conv.outputs[0]).element, Element::Bits { width: 4, signed: false });
        let input = [noise(&[1, 2, 4, 4], 3, 3.0)];
        // Powers of two: floating point is exact, so there are no ties to lose.
        assert_eq!(interpret(&g, &input).unwrap()[0].to_f32s(), interpret(&typed, &input).unwrap()[0].to_f32s());
    }
}

/// ONNX Runtime's operators with parameters as inputs become the same typed layers.
#[test]
fn the_operator_form_becomes_typed_layers() {
    let mut g = Graph::new("t");
    let x = g.add_input("x", Type::new(Element::U8, [1usize, 2, 4, 4]));
    let scale = |g: &mut Graph, v: f32| g.add_constant("s", Tensor::scalar(v));
    let (xs, ws, ys) = (scale(&mut g, 0.1), scale(&mut g, 0.02), scale(&mut g, 0.05));
    let zero = g.add_constant("z", Tensor::scalar(120u8));
    let wz = g.add_constant("wz", Tensor::scalar(0i8));
    let w = g.add_constant("w", ints(Element::I8, &[2, 2, 1, 1], 1));
    let c = add(&mut g, ops::QLinearConv::default(), "c", &[x, xs, zero, w, ws, wz, ys, zero]);
    let a = add(&mut g, ops::QLinearAdd {}, "a", &[c, ys, zero, x, xs, zero, ys, zero]);
    let p = add(&mut g, ops::QLinearGlobalAveragePool::default(), "p", &[a, ys, zero, ys, zero]);
    let y = add(&mut g, ops::DequantizeLinear::default(), "y", &[p, ys, zero]);
    g.mark_output(y);
    let typed = passes::from_qdq(&g).unwrap();
    let names: Vec<&str> = typed.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["Conv", "Add", "GlobalAveragePool", "Dequantize"]);
    let input = [ints(Element::U8, &[1, 2, 4, 4], 5)];
    assert_eq!(interpret(&g, &input).unwrap(), interpret(&typed, &input).unwrap());
}

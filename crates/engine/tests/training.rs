//! Training graphs, by hand: what the engine fuses against the reference evaluator, on every instruction set and any number of threads.

use std::sync::Arc;

use qing_engine::{Isa, Options, Plan, Session};
use qing_graph::{Element, Graph, Op, Tensor, Type, ValueId, interpret::interpret, ops};
use qing_kernels::cpu::has_bf16;

/// Deterministic values in −1..1.
fn noise(seed: u32, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let values = (0..shape.iter().product()).map(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    });
    Tensor::new(shape, values.collect::<Vec<f32>>()).unwrap()
}

/// A graph and a tensor for each of its inputs.
struct Network {
    graph: Graph,
    inputs: Vec<Tensor>,
}

impl Network {
    fn input(&mut self, shape: &[usize]) -> ValueId {
        let seed = self.inputs.len() as u32 + 1;
        self.inputs.push(noise(seed, shape));
        self.graph.add_input(&format!("input{seed}"), Type::new(Element::F32, shape.iter().copied()))
    }

    fn nodes<O: Op + 'static>(&mut self, op: O, inputs: &[ValueId], count: usize) -> Vec<ValueId> {
        let name = format!("node{}", self.graph.nodes.len());
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.graph.add_node(Arc::new(op), &name, &inputs, count).unwrap()
    }

    fn node<O: Op + 'static>(&mut self, op: O, inputs: &[ValueId]) -> ValueId {
        self.nodes(op, inputs, 1)[0]
    }

    fn output(&mut self, ids: &[ValueId]) {
        ids.iter().for_each(|id| self.graph.mark_output(*id));
    }

    /// Runs everywhere and compares; gives the plan's text.
    fn check(&self, exact: bool) -> String {
        let want = interpret(&self.graph, &self.inputs).unwrap();
        let mut dump = String::new();
        for isa in Isa::available() {
            let mut first: Option<Vec<Tensor>> = None;
            for threads in [1, 2, 3] {
                let options = Options { threads, isa: Some(isa), exact, ..Options::default() };
                let plan = Plan::new(&self.graph, &options).unwrap();
                assert_eq!(plan.reference_nodes(), [], "{}", plan.dump());
                dump = plan.dump();
                let mut session = Session::new(Arc::new(plan));
                let got = session.run(&self.inputs).unwrap();
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert_eq!(got.shape(), want.shape());
                    let scale = want.to_f64s().iter().fold(1.0, |most: f64, v| most.max(v.abs()));
                    for (a, b) in got.to_f64s().iter().zip(want.to_f64s()) {
                        assert!((a - b).abs() <= 2e-5 * scale, "{} output {i}: {a}, not {b}\n{dump}", isa.name());
                    }
                }
                assert_eq!(first.get_or_insert_with(|| got.clone()), &got, "{} threads", threads);
            }
        }
        dump
    }
}

fn square(kernel: i64, stride: i64) -> ops::Conv {
    ops::Conv { pads: vec![kernel / 2; 4], strides: vec![stride; 2], ..ops::Conv::default() }
}

fn to_input(kernel: i64, stride: i64, rest: i64) -> ops::ConvTranspose {
    ops::ConvTranspose {
        pads: vec![kernel / 2; 4],
        strides: vec![stride; 2],
        output_padding: vec![rest; 2],
        ..ops::ConvTranspose::default()
    }
}

fn to_weights(kernel: i64, stride: i64) -> ops::ConvWeightGrad {
    ops::ConvWeightGrad {
        kernel_shape: vec![kernel; 2],
        pads: vec![kernel / 2; 4],
        strides: vec![stride; 2],
        ..ops::ConvWeightGrad::default()
    }
}

/// A residual block whose shortcut is a strided convolution, forward and backward.
fn block(channels: [usize; 2], size: usize) -> Network {
    let [c, d] = channels;
    let mut n = Network { graph: Graph::new("block"), inputs: vec![] };
    let x = n.input(&[3, c, size, size]);
    let (w1, w2, w3) = (n.input(&[d, c, 3, 3]), n.input(&[d, d, 3, 3]), n.input(&[d, c, 1, 1]));
    let vectors: Vec<ValueId> = (0..6).map(|_| n.input(&[d])).collect();
    let epsilon = 1e-3;
    let norm = ops::BatchNormTraining { epsilon };
    let half = size.div_ceil(2);
    let dy = n.input(&[3, d, half, half]);

    let z1 = n.node(square(3, 2), &[x, w1]);
    let bn1 = n.nodes(norm.clone(), &[z1, vectors[0], vectors[1]], 3);
    let y1 = n.node(ops::Relu {}, &[bn1[0]]);
    let z2 = n.node(square(3, 1), &[y1, w2]);
    let bn2 = n.nodes(norm.clone(), &[z2, vectors[2], vectors[3]], 3);
    let z3 = n.node(square(1, 2), &[x, w3]);
    let bn3 = n.nodes(norm, &[z3, vectors[4], vectors[5]], 3);
    let sum = n.node(ops::Add {}, &[bn2[0], bn3[0]]);
    let y = n.node(ops::Relu {}, &[sum]);

    let back = ops::BatchNormGrad { epsilon };
    let kept = n.node(ops::ReluGrad {}, &[y, dy]);
    let g2 = n.nodes(back.clone(), &[z2, vectors[2], bn2[1], bn2[2], kept], 3);
    let dw2 = n.node(to_weights(3, 1), &[y1, g2[0]]);
    let dy1 = n.node(to_input(3, 1, 0), &[g2[0], w2]);
    let k1 = n.node(ops::ReluGrad {}, &[y1, dy1]);
    let g1 = n.nodes(back.clone(), &[z1, vectors[0], bn1[1], bn1[2], k1], 3);
    let dw1 = n.node(to_weights(3, 2), &[x, g1[0]]);
    let rest = 1 - (size % 2) as i64;
    let dx1 = n.node(to_input(3, 2, rest), &[g1[0], w1]);
    let g3 = n.nodes(back, &[z3, vectors[4], bn3[1], bn3[2], kept], 3);
    let dw3 = n.node(to_weights(1, 2), &[x, g3[0]]);
    let dx3 = n.node(to_input(1, 2, rest), &[g3[0], w3]);
    let dx = n.node(ops::Add {}, &[dx1, dx3]);
    n.output(&[y, bn1[1], bn1[2], dw1, dw2, dw3, dx]);
    for g in [g1, g2, g3] {
        n.output(&g[1..]);
    }
    n
}

#[test]
fn a_residual_block_trains() {
    for (channels, size) in [([5, 7], 9), ([16, 32], 8), ([16, 32], 16)] {
        for exact in [false, true] {
            let dump = block(channels, size).check(exact);
            for fused in ["BatchNormTraining+Relu", "+Add+Relu", "ReluGrad+BatchNormGrad", "ConvTranspose+Add"] {
                assert!(dump.contains(fused), "{fused} is not in\n{dump}");
            }
            // The last set is scalar or has vectors; transforms pay with these. Only results are held to exactness.
            if channels == [16, 32] && Isa::detect() != Isa::Scalar {
                let transformed = |kernel: &str| dump.lines().any(|line| line.contains(&format!("[{kernel}")));
                assert_eq!(transformed("winograd f32 3x3"), !exact && size == 16, "{dump}");
                assert_eq!(transformed("transposed winograd f32 3x3"), size == 16, "{dump}");
            }
        }
    }
}

#[test]
fn depthwise_layers_train() {
    for stride in [1, 2] {
        let mut n = Network { graph: Graph::new("depthwise"), inputs: vec![] };
        let (x, w, dy) = (n.input(&[3, 20, 8, 8]), n.input(&[20, 1, 3, 3]), n.input(&[3, 20, 8 / stride, 8 / stride]));
        let stride = stride as i64;
        let y = n.node(ops::Conv { group: 20, ..square(3, stride) }, &[x, w]);
        let y = n.node(ops::Relu {}, &[y]);
        let dw = n.node(ops::ConvWeightGrad { group: 20, ..to_weights(3, stride) }, &[x, dy]);
        let dx = n.node(ops::ConvTranspose { group: 20, ..to_input(3, stride, stride - 1) }, &[dy, w]);
        n.output(&[y, dw, dx]);
        let dump = n.check(false);
        for kernel in ["depthwise f32 3x3", "transposed depthwise f32", "Conv+Relu"] {
            assert!(dump.contains(kernel), "{kernel} is not in\n{dump}");
        }
    }
}

#[test]
fn pooling_and_products_train() {
    let mut n = Network { graph: Graph::new("head"), inputs: vec![] };
    let (x, b) = (n.input(&[4, 6, 8, 8]), n.input(&[5]));
    let (w, targets) = (n.input(&[5, 6]), n.input(&[4, 5]));
    let (two, strides) = (vec![2, 2], vec![2, 2]);
    let pooled =
        n.node(ops::MaxPool { kernel_shape: two.clone(), strides: strides.clone(), ..ops::MaxPool::default() }, &[x]);
    let mean = n.node(
        ops::AveragePool { kernel_shape: vec![4, 4], strides: vec![4, 4], ..ops::AveragePool::default() },
        &[pooled],
    );
    let flat = n.node(ops::Flatten { axis: 1 }, &[mean]);
    let logits = n.node(ops::Gemm { transB: true, ..ops::Gemm::default() }, &[flat, w, b]);
    let logs = n.node(ops::LogSoftmax { axis: 1, ..ops::LogSoftmax::default() }, &[logits]);
    let loss = n.node(ops::Mul {}, &[logs, targets]);
    let dw = n.node(ops::Gemm { transA: true, ..ops::Gemm::default() }, &[targets, flat]);
    let dflat = n.node(ops::Gemm { alpha: 0.5, ..ops::Gemm::default() }, &[targets, w]);
    let shape = n.graph.add_constant("shape", Tensor::vector(vec![4i64, 6, 1, 1]));
    let dmean = n.node(ops::Reshape::default(), &[dflat, shape]);
    let dpooled = n.node(
        ops::AveragePoolGrad {
            kernel_shape: vec![4, 4],
            strides: vec![4, 4],
            input_shape: vec![4, 4],
            ..ops::AveragePoolGrad::default()
        },
        &[dmean],
    );
    let dx = n.node(ops::MaxPoolGrad { kernel_shape: two, strides, ..ops::MaxPoolGrad::default() }, &[x, dpooled]);
    // The gradient of a bias of channels, of a value in the order of the graph.
    let axes = n.graph.add_constant("axes", Tensor::vector(vec![0i64, 2, 3]));
    let dbias = n.node(ops::ReduceSum { keepdims: false, ..ops::ReduceSum::default() }, &[x, axes]);
    n.output(&[loss, dw, dflat, dx, dbias]);
    n.check(false);
}

#[test]
fn exact_convolutions_of_integers_are_exact() {
    let mut n = Network { graph: Graph::new("integers"), inputs: vec![] };
    let (x, w) = (n.input(&[2, 32, 8, 8]), n.input(&[32, 32, 3, 3]));
    for (tensor, scale) in n.inputs.iter_mut().zip([255.0, 7.0]) {
        let whole: Vec<f32> = tensor.to_f32s().iter().map(|v| (v * scale).round()).collect();
        *tensor = Tensor::new(tensor.shape(), whole).unwrap();
    }
    let y = n.node(square(3, 1), &[x, w]);
    let dw = n.node(to_weights(3, 1), &[x, y]);
    n.output(&[y, dw]);
    let want = interpret(&n.graph, &n.inputs).unwrap();
    for (isa, bf16) in Isa::available().into_iter().flat_map(|isa| [(isa, false), (isa, true)]) {
        let options = Options { isa: Some(isa), exact: true, bf16, ..Options::default() };
        let plan = Plan::new(&n.graph, &options).unwrap();
        let rounds = bf16 && isa == Isa::Avx512 && has_bf16();
        for kernel in ["conv bf16", "weight gradient bf16"] {
            assert_eq!(plan.dump().contains(kernel), rounds, "{}", plan.dump());
        }
        let mut session = Session::new(Arc::new(plan));
        assert_eq!(session.run(&n.inputs).unwrap()[0], want[0], "{} {bf16}", isa.name());
    }
}

#[test]
fn gradients_in_bfloat16_are_close() {
    let n = block([16, 32], 8);
    let run = |bf16: bool, threads: usize| {
        let plan = Plan::new(&n.graph, &Options { bf16, threads, ..Options::default() }).unwrap();
        Session::new(Arc::new(plan)).run(&n.inputs).unwrap()
    };
    let (want, got) = (run(false, 1), run(true, 1));
    for (i, (want, got)) in want.iter().zip(&got).enumerate() {
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
        let (want, got) = (want.to_f64s(), got.to_f64s());
        let off = norm(&mut want.iter().zip(&got).map(|(a, b)| a - b)) / norm(&mut want.iter().copied());
        // Activations near zero fall to the other side of a ReLU.
        assert!(off < 5e-2, "output {i} is {off:.1e} off");
    }
    assert_eq!(want != got, has_bf16() && Isa::detect() == Isa::Avx512);
    assert_eq!(got, run(true, 2));
}

#[test]
fn parameters_are_updated_in_place() {
    let mut n = Network { graph: Graph::new("step"), inputs: vec![] };
    let (x, w) = (n.input(&[2, 3]), n.input(&[2, 3]));
    let y = n.node(ops::Mul {}, &[x, w]);
    n.output(&[y, x]);
    let mut session = Session::new(Arc::new(Plan::new(&n.graph, &Options::default()).unwrap()));
    let first = session.run(&n.inputs).unwrap();
    let (weights, product) = session.update(1, 0).unwrap();
    assert_eq!((weights.len(), product), (24, &first[0].bytes()[..]));
    weights.copy_from_slice(&1.0f32.to_le_bytes().repeat(6));
    session.run_into().unwrap();
    assert_eq!(session.output_tensor(0).unwrap(), n.inputs[0]);
    assert!(session.update(0, 1).unwrap_err().to_string().contains("apart from its input"));
    assert!(session.update(2, 0).is_err() && session.update(0, 2).is_err());
}

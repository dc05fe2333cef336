//! Quantization-aware training against the integer network it ends in.

use std::sync::Arc;

use qing_engine::{Options, Plan, Session};
use qing_graph::{Element, Graph, Tensor, Type, ValueId, interpret::interpret, ops, verify::verify};
use qing_train::{
    TrainError, differentiate,
    parameters::{Model, Role, Values},
    quantize::{Bits, Config, Estimator, prepare, renormalize, shortcuts},
};

/// Deterministic values in −1 … 1.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

struct Net {
    graph: Graph,
    seed: u64,
}

impl Net {
    fn values(&mut self, name: &str, shape: &[usize], f: impl Fn(f32) -> f32) -> ValueId {
        self.seed += 1;
        let values = noise(self.seed, shape.iter().product()).into_iter().map(f).collect();
        self.graph.add_constant(name, Tensor::new::<f32>(shape, values).unwrap())
    }

    fn node(&mut self, op: impl qing_graph::Op, name: &str, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<_> = inputs.iter().map(|i| Some(*i)).collect();
        self.graph.add_node(Arc::new(op), name, &inputs, 1).unwrap()[0]
    }

    fn conv(&mut self, name: &str, x: ValueId, [out, input]: [usize; 2], stride: i64) -> ValueId {
        let w = self.values(&format!("{name}.weight"), &[out, input, 3, 3], |v| v * 0.4);
        let op = ops::Conv { pads: vec![1; 4], strides: vec![stride; 2], ..ops::Conv::default() };
        let y = self.node(op, name, &[x, w]);
        // Some channels are turned around, one is switched off.
        let gamma = self.values(&format!("{name}.gamma"), &[out], |v| if v > 0.9 { 0.0 } else { v + 0.3 });
        let beta = self.values(&format!("{name}.beta"), &[out], |v| v * 0.5);
        let mean = self.values(&format!("{name}.mean"), &[out], |v| v * 0.2);
        let var = self.values(&format!("{name}.var"), &[out], |v| 0.6 + 0.4 * v);
        self.node(ops::BatchNormalization::default(), &format!("{name}.norm"), &[y, gamma, beta, mean, var])
    }
}

/// Two residual blocks, the second with a shortcut by slice and pad, pooling and a classifier: what ResNet-20 is made of.
fn network() -> Graph {
    let mut net = Net { graph: Graph::new("small"), seed: 5 };
    let x = net.graph.add_input(
        "input",
        Type::new(Element::F32, [qing_graph::Dim::Symbol("N".into()), 3.into(), 8.into(), 8.into()]),
    );
    let y = net.conv("stem", x, [8, 3], 1);
    let a = net.node(ops::Relu {}, "stem.relu", &[y]);
    let y = net.conv("a1", a, [8, 8], 1);
    let y = net.node(ops::Relu {}, "a1.relu", &[y]);
    let y = net.conv("a2", y, [8, 8], 1);
    let y = net.node(ops::Add {}, "a.add", &[y, a]);
    let b = net.node(ops::Relu {}, "a.relu", &[y]);
    let y = net.conv("b1", b, [16, 8], 2);
    let y = net.node(ops::Relu {}, "b1.relu", &[y]);
    let y = net.conv("b2", y, [16, 16], 1);
    let ints = |net: &mut Net, name: &str, v: &[i64]| net.graph.add_constant(name, Tensor::vector(v.to_vec()));
    let places = [[0, 0], [i64::MAX; 2], [2, 3], [2, 2]];
    let [s, e, axes, steps] = [0, 1, 2, 3].map(|i| ints(&mut net, "slice", &places[i]));
    let short = net.node(ops::Slice {}, "b.slice", &[b, s, e, axes, steps]);
    let pads = ints(&mut net, "pads", &[0, 4, 0, 0, 0, 4, 0, 0]);
    let short = net.node(ops::Pad { mode: "constant".into() }, "b.pad", &[short, pads]);
    let y = net.node(ops::Add {}, "b.add", &[y, short]);
    let y = net.node(ops::Relu {}, "b.relu", &[y]);
    let y = net.node(ops::GlobalAveragePool {}, "pool", &[y]);
    let y = net.node(ops::Flatten::default(), "flat", &[y]);
    let w = net.values("fc.weight", &[10, 16], |v| v);
    let c = net.values("fc.bias", &[10], |v| v);
    let y = net.node(ops::Gemm { transB: true, ..ops::Gemm::default() }, "fc", &[y, w, c]);
    net.graph.mark_output(y);
    net.graph
}

fn images(seed: u64, n: usize) -> Tensor {
    Tensor::new::<f32>(&[n, 3, 8, 8], noise(seed, n * 192).into_iter().map(|v| v * 1.7 + 0.2).collect()).unwrap()
}

fn config(bits: &str) -> Config {
    Config::with_bits(bits.parse().unwrap())
}

const WIDTHS: [&str; 7] = ["w8a8", "w4a4", "w3a3", "w2a2", "w2a8", "w1a1", "w1a4"];

/// Values a training might have come to: all a little off, scales positive.
fn trained(model: &Model) -> Values {
    let mut values = model.values();
    for (i, parameter) in model.parameters.iter().enumerate() {
        let weights = model.export.limited_by(i).map_or(vec![], |of| values.parameters[of].clone());
        let value = &mut values.parameters[i];
        let noise = noise(77 + i as u64, value.len());
        value.iter_mut().zip(noise).for_each(|(v, n)| *v *= 1.0 + 0.3 * n);
        model.export.constrain(i, value, &weights);
        assert_eq!(value.len(), parameter.shape.iter().product::<usize>());
    }
    values
}

fn run(graph: &Graph, inputs: &[Tensor], threads: usize) -> Vec<Tensor> {
    run_with(graph, inputs, Options::threads(threads))
}

fn run_with(graph: &Graph, inputs: &[Tensor], options: Options) -> Vec<Tensor> {
    let shapes = inputs.iter().map(|t| t.shape().to_vec()).collect();
    let options = Options { input_shapes: Some(shapes), exact: true, ..options };
    Session::new(Plan::new(graph, &options).unwrap().into()).run(inputs).unwrap()
}

fn with_parameters(x: &Tensor, model: &Model, values: &Values) -> Vec<Tensor> {
    let parameters = model.parameters.iter().zip(&values.parameters);
    [x.clone()].into_iter().chain(parameters.map(|(p, v)| Tensor::new(&p.shape, v.clone()).unwrap())).collect()
}

#[test]
fn training_in_its_last_form_computes_what_the_integer_engine_does() {
    let (n, graph) = (6, network());
    for bits in WIDTHS {
        let model = prepare(&graph, n, &config(bits), &[vec![images(1, 8)], vec![images(2, 8)]]).unwrap();
        let values = trained(&model);
        let typed = model.exported(&values).unwrap();
        verify(&typed).unwrap();
        let settled = model.export.settled(n, &values).unwrap().unwrap();
        verify(&settled.graph).unwrap();
        // As it was folded, and after it was trained further.
        for values in [settled.values(), trained(&settled)] {
            let typed = settled.exported(&values).unwrap();
            for seed in 3..6 {
                let x = images(seed, n);
                let expected = run(&typed, std::slice::from_ref(&x), 2);
                let inputs = with_parameters(&x, &settled, &values);
                let reference = interpret(&settled.graph, &inputs).unwrap();
                assert_eq!(reference[0].to_f32s(), expected[0].to_f32s(), "{bits}");
                for bf16 in [false, true] {
                    let got = run_with(&settled.graph, &inputs, Options { bf16, ..Options::threads(2) });
                    assert_eq!(got[0].to_f32s(), expected[0].to_f32s(), "{bits} by the engine, bf16: {bf16}");
                }
                assert_eq!(interpret(&typed, &[x]).unwrap()[0].to_f32s(), expected[0].to_f32s(), "{bits} by reference");
            }
        }
        // Folding changed nothing.
        let x = images(9, n);
        let again = settled.exported(&settled.values()).unwrap();
        assert_eq!(run(&again, std::slice::from_ref(&x), 1)[0].to_f32s(), run(&typed, &[x], 1)[0].to_f32s(), "{bits}");
    }
}

/// The normalized form, by the statistics of the batch it sees, is the folded one but for the rounding of biases: with eight
/// bits that is little.
#[test]
fn folding_keeps_what_was_trained() {
    let (n, graph) = (16, network());
    let x = images(4, n);
    let mut model = prepare(&graph, n, &config("w8a8"), &[vec![x.clone()]]).unwrap();
    let mut values = trained(&model);
    let inputs = with_parameters(&x, &model, &values);
    model.graph.outputs.extend(model.statistics.iter().map(|s| s.batch));
    let found = interpret(&model.graph, &inputs).unwrap();
    values.statistics = found[1..].iter().map(Tensor::to_f32s).collect();
    let folded = run(&model.exported(&values).unwrap(), &[x], 1);
    let (a, b) = (found[0].to_f32s(), folded[0].to_f32s());
    let size = a.iter().fold(0f32, |m, v| m.max(v.abs()));
    let far = a.iter().zip(&b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(far < 0.05 * size, "{far} of {size}");
}

#[test]
fn widths_are_those_asked_for() {
    let graph = network();
    for bits in WIDTHS {
        let Bits { weights, activations } = bits.parse().unwrap();
        let model = prepare(&graph, 2, &config(bits), &[vec![images(1, 4)]]).unwrap();
        let typed = model.exported(&model.values()).unwrap();
        let mut layers = 0;
        for node in typed.nodes.iter().filter(|n| n.op.is::<ops::Conv>() || n.op.is::<ops::Gemm>()) {
            let edge = ["stem", "fc"].contains(&node.name.as_str());
            let (x, w) = (typed.ty(node.input(0).unwrap()), typed.ty(node.input(1).unwrap()));
            let want = if edge { (8, 8) } else { (weights.into(), activations.into()) };
            assert_eq!((w.element.bits(), x.element.bits()), want, "{bits} {}", node.name);
            layers += 1;
        }
        assert_eq!(layers, 6);
        // Nothing but the ends is in floating point.
        let floats = typed.nodes.iter().flat_map(|n| &n.outputs).filter(|id| typed.ty(**id).quant.is_none());
        assert_eq!(floats.count(), 1, "{bits}");
    }
}

#[test]
fn every_parameter_has_a_gradient_in_both_forms() {
    let (n, graph) = (4, network());
    for (bits, rounding) in
        [("w4a4", Estimator::Lsq), ("w2a2", Estimator::Pact), ("w1a1", Estimator::Lsq), ("w3a3", Estimator::Ewgs(0.1))]
    {
        let config = Config { rounding, ..config(bits) };
        let first = prepare(&graph, n, &config, &[vec![images(1, 8)]]).unwrap();
        let second = first.export.settled(n, &first.values()).unwrap().unwrap();
        for mut model in [first, second] {
            let logits = model.graph.outputs[0];
            let seed = model.graph.add_constant("target", Tensor::new::<f32>(&[n, 10], noise(3, n * 10)).unwrap());
            let loss = model.graph.add_node(Arc::new(ops::Mul {}), "m", &[Some(logits), Some(seed)], 1).unwrap()[0];
            let op = ops::ReduceSum { keepdims: false, ..ops::ReduceSum::default() };
            let loss = model.graph.add_node(Arc::new(op), "loss", &[Some(loss)], 1).unwrap()[0];
            let wrt: Vec<ValueId> = model.parameters.iter().map(|p| p.input).collect();
            let mut graph = differentiate(&model.graph, loss, &wrt).unwrap();
            graph.graph.outputs = graph.gradients;
            let inputs = with_parameters(&images(2, n), &model, &model.values());
            let found = run(&graph.graph, &inputs, 2);
            let reference = interpret(&graph.graph, &inputs).unwrap();
            for ((parameter, a), b) in model.parameters.iter().zip(&found).zip(&reference) {
                let (a, b) = (a.to_f32s(), b.to_f32s());
                let size = b.iter().fold(0f32, |m, v| m.max(v.abs()));
                // What PACT clips not, it does not learn from.
                let learns = size > 0.0 || rounding == Estimator::Pact && parameter.role == Role::Scale;
                assert!(learns && size.is_finite(), "{bits} {}", parameter.name);
                let far = a.iter().zip(&b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                // Gradients of scales that a normalization takes away are differences of large numbers.
                assert!(far <= 1e-3 * size + 1e-6, "{bits} {}: {far} of {size}", parameter.name);
            }
        }
    }
}

#[test]
fn what_cannot_be_quantized_is_named() {
    let calibration = [vec![images(1, 2)]];
    let mut graph = network();
    let refused = |graph: &Graph, config: &Config| match prepare(graph, 2, config, &calibration) {
        Err(TrainError::Invalid(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(prepare(&graph, 2, &config("w4a4"), &[]).unwrap_err().to_string().contains("calibrate"));
    let wide = Config { stream_bits: 9, ..config("w4a4") };
    assert!(refused(&graph, &wide).contains("9 bits"));
    // A normalization that stands alone.
    let norm = graph.nodes.iter().find(|n| n.op.is::<ops::BatchNormalization>()).unwrap().clone();
    let inputs: Vec<_> = [Some(graph.inputs[0])].into_iter().chain(norm.inputs[1..].iter().copied()).collect();
    let three = [graph.add_constant("three", Tensor::vector(vec![1f32; 3]))];
    let inputs = [inputs[0], Some(three[0]), Some(three[0]), Some(three[0]), Some(three[0])];
    let alone = graph.add_node(norm.op.clone(), "alone", &inputs, 1).unwrap()[0];
    graph.mark_output(alone);
    assert!(refused(&graph, &config("w4a4")).contains("`alone`"));
    let mut empty = Graph::new("empty");
    let x = empty.add_input("x", Type::new(Element::F32, [2usize, 3, 8, 8]));
    empty.mark_output(x);
    assert!(refused(&empty, &config("w4a4")).contains("no convolution"));
}

#[test]
fn every_convolution_gets_a_shortcut() {
    let adds = |graph: &Graph| graph.nodes.iter().filter(|n| n.op.is::<ops::Add>()).count();
    for signs in [false, true] {
        let mut graph = network();
        let relus = |graph: &Graph| graph.nodes.iter().filter(|n| n.op.is::<ops::Relu>()).count();
        let before = relus(&graph);
        assert_eq!(shortcuts(&mut graph, signs).unwrap(), 2);
        verify(&graph).unwrap();
        assert_eq!(adds(&graph), 4);
        // Once is enough.
        assert_eq!(shortcuts(&mut graph, signs).unwrap(), 0);
        let producers = graph.producers();
        let node = |id: ValueId| &graph.nodes[producers[id.0 as usize].unwrap()];
        let last = graph.nodes.iter().find(|n| n.name == "b.add").unwrap();
        let middle = node(last.inputs[1].unwrap());
        let inner = if signs {
            // norm(conv(x)) + s, then norm(conv(y)) + y: what both blocks read, and what is between, may be negative.
            assert_eq!(relus(&graph), before - 4);
            middle
        } else {
            // relu(norm(conv(x)) + s), then relu(norm(conv(y)) + y).
            assert_eq!(middle.name, "b1.relu");
            node(middle.input(0).unwrap())
        };
        assert_eq!(node(inner.inputs[0].unwrap()).name, "b1.norm");
        assert_eq!(node(inner.inputs[1].unwrap()).name, "b.pad");
        let model = prepare(&graph, 2, &config("w1a1"), &[vec![images(1, 4)]]).unwrap();
        let (values, x) = (trained(&model), images(3, 2));
        let settled = model.export.settled(2, &values).unwrap().unwrap();
        let found = interpret(&settled.graph, &with_parameters(&x, &settled, &settled.values())).unwrap();
        assert_eq!(found[0].to_f32s(), run(&model.exported(&values).unwrap(), &[x], 1)[0].to_f32s());
    }
}

#[test]
fn statistics_of_a_rewired_network_are_taken_anew() {
    let mut graph = network();
    shortcuts(&mut graph, true).unwrap();
    let batch = images(1, 16);
    assert!(renormalize(&mut graph, &[]).is_err());
    renormalize(&mut graph, &[vec![batch.clone()]]).unwrap();
    verify(&graph).unwrap();
    // On the same batch every normalization now gives each channel its shift as mean and its scale as deviation.
    let norms: Vec<_> = graph.nodes.iter().filter(|n| n.op.is::<ops::BatchNormalization>()).cloned().collect();
    assert_eq!(norms.len(), 5);
    graph.outputs = norms.iter().map(|n| n.outputs[0]).collect();
    for (node, found) in norms.iter().zip(run(&graph, &[batch], 1)) {
        let [scale, shift] = [1, 2].map(|i| graph.constant(node.input(i).unwrap()).unwrap().to_f32s());
        let (channels, values) = (scale.len(), found.to_f32s());
        let area = found.shape()[2] * found.shape()[3];
        for c in 0..channels {
            let own = values.chunks(area).skip(c).step_by(channels).flatten().map(|v| f64::from(*v));
            let (count, sum, squares) = own.fold((0.0, 0.0, 0.0), |(n, s, q), v| (n + 1.0, s + v, q + v * v));
            let (mean, deviation) = (sum / count, (squares / count - (sum / count).powi(2)).max(0.0).sqrt());
            assert!((mean - f64::from(shift[c])).abs() < 1e-3, "{}: {mean} for {}", node.name, shift[c]);
            assert!(
                (deviation - f64::from(scale[c].abs())).abs() < 1e-2,
                "{}: {deviation} for {}",
                node.name,
                scale[c]
            );
        }
    }
}

#[test]
fn one_bit_of_what_has_both_signs_is_the_sign() {
    let mut graph = network();
    shortcuts(&mut graph, true).unwrap();
    renormalize(&mut graph, &[vec![images(1, 4)]]).unwrap();
    let model = prepare(&graph, 2, &config("w1a1"), &[vec![images(1, 4)]]).unwrap();
    let typed = model.exported(&model.values()).unwrap();
    // Half the scale of one bit is less than the step of what it is rescaled from: every code above zero is a one.
    let mut checked = 0;
    for node in typed.nodes.iter().filter(|n| n.op.is::<ops::Quantize>()) {
        let (from, to) = (typed.ty(node.input(0).unwrap()), typed.ty(node.outputs[0]));
        let (Some(from), true) = (&from.quant, to.element.bits() == 1) else { continue };
        assert_eq!((from.zero(0), to.quant.as_ref().unwrap().zero(0)), (0, 0));
        let (step, one) = (from.scale(0), to.quant.as_ref().unwrap().scale(0));
        assert!(one < 2.0 * step, "a one stands for {one}, a step for {step}");
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn a_lightened_network_is_trained_further() {
    let (n, graph) = (6, network());
    let x = images(4, n);
    let calibration = [vec![images(1, 32)]];
    // What it stores in as many bits keeps scale and zero point, so few bits are no further away than many; sums of other data would give others.
    let other = [vec![images(9, 8)]];
    for bits in ["w8a8", "w4a4", "w2a3"] {
        let first = prepare(&graph, n, &config(bits), &calibration).unwrap();
        let typed = first.exported(&first.values()).unwrap();
        let again = prepare(&typed, n, &config(bits), &other).unwrap();
        // Normalizations are folded; what is left are weights, biases and scales.
        assert!(again.statistics.is_empty());
        let found = run(&again.exported(&again.values()).unwrap(), std::slice::from_ref(&x), 1)[0].to_f32s();
        let want = run(&typed, std::slice::from_ref(&x), 1)[0].to_f32s();
        let size = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let far = found.iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(far < 1e-5 * size, "{bits}: {far} of {size}");
    }
}

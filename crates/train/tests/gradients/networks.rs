//! Whole networks: the parts above, put together.

use std::sync::Arc;

use qing_graph::{Element, Graph, Op, Tensor, Type, ValueId, interpret::interpret, ops};
use qing_train::{TrainError, differentiate};

use crate::random::Random;

struct Net {
    graph: Graph,
    random: Random,
    values: Vec<Tensor>,
}

impl Net {
    fn new(name: &str) -> Net {
        Net { graph: Graph::new(name), random: Random::new(name), values: vec![] }
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.values.push(self.random.tensor(shape, -1.0, 1.0));
        self.graph.add_input(name, Type::new(Element::F64, shape.iter().copied()))
    }

    fn node(&mut self, op: impl Op, name: &str, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.graph.add_node(Arc::new(op), name, &inputs, 1).expect("a legal node")[0]
    }

    fn mean(&mut self, x: ValueId) -> ValueId {
        self.node(ops::ReduceMean { keepdims: false, ..ops::ReduceMean::default() }, "loss", &[x])
    }
}

fn padded() -> ops::Conv {
    ops::Conv { pads: vec![1; 4], ..ops::Conv::default() }
}

/// A residual block between a convolution and a classifier, with cross entropy.
fn residual() -> (Net, ValueId, Vec<ValueId>) {
    let mut net = Net::new("residual");
    let x = net.input("x", &[3, 2, 6, 6]);
    let targets = net.input("targets", &[3, 4]);
    let mut parameters = vec![];
    let mut block = |net: &mut Net, name: &str, x: ValueId, shape: &[usize], strides: i64| {
        let w = net.input(&format!("{name}.w"), shape);
        let scale = net.input(&format!("{name}.scale"), &shape[..1]);
        let bias = net.input(&format!("{name}.bias"), &shape[..1]);
        parameters.extend([w, scale, bias]);
        let y = net.node(ops::Conv { strides: vec![strides; 2], ..padded() }, name, &[x, w]);
        net.node(ops::BatchNormTraining::default(), &format!("{name}.bn"), &[y, scale, bias])
    };
    let first = block(&mut net, "first", x, &[4, 2, 3, 3], 2);
    let first = net.node(ops::Relu {}, "first.relu", &[first]);
    let second = block(&mut net, "second", first, &[4, 4, 3, 3], 1);
    let sum = net.node(ops::Add {}, "sum", &[second, first]);
    let sum = net.node(ops::Relu {}, "sum.relu", &[sum]);
    let pool = net.node(ops::GlobalAveragePool {}, "pool", &[sum]);
    let flat = net.node(ops::Flatten::default(), "flat", &[pool]);
    let (w, b) = (net.input("head.w", &[4, 4]), net.input("head.b", &[4]));
    parameters.extend([w, b]);
    let logits = net.node(ops::Gemm { transB: true, ..ops::Gemm::default() }, "head", &[flat, w, b]);
    let log = net.node(ops::LogSoftmax::default(), "log", &[logits]);
    let product = net.node(ops::Mul {}, "product", &[log, targets]);
    let loss = net.mean(product);
    net.graph.mark_output(loss);
    (net, loss, parameters)
}

#[test]
fn gradients_of_a_residual_network_agree_with_differences() {
    let (net, loss, parameters) = residual();
    let with = differentiate(&net.graph, loss, &parameters).unwrap();
    assert_eq!(with.graph.outputs[0], loss);
    assert_eq!(with.graph.outputs[1..], with.gradients);
    let results = interpret(&with.graph, &net.values).unwrap();
    let mut random = Random::new("probes");
    for (parameter, gradient) in parameters.iter().zip(&results[1..]) {
        let k = net.graph.inputs.iter().position(|id| id == parameter).unwrap();
        for _ in 0..4 {
            let at = random.below(gradient.len());
            let moved = |by: f64| {
                let mut values = net.values.clone();
                let mut numbers = values[k].to_f64s();
                numbers[at] += by;
                values[k] = Tensor::new(values[k].shape(), numbers).unwrap();
                interpret(&net.graph, &values).unwrap()[0].to_f64s()[0]
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let rule = gradient.to_f64s()[at];
            let name = &net.graph.value(*parameter).name;
            assert!((rule - difference).abs() < 1e-7, "{name}[{at}]: {rule} and {difference}");
        }
    }
}

#[test]
fn what_is_frozen_costs_nothing() {
    let (net, loss, parameters) = residual();
    let all = differentiate(&net.graph, loss, &parameters).unwrap();
    let head = differentiate(&net.graph, loss, &parameters[6..]).unwrap();
    let backward = |g: &Graph| {
        g.nodes[net.graph.nodes.len()..].iter().map(|n| n.op.name()).filter(|n| *n != "Identity").collect::<Vec<_>>()
    };
    assert!(backward(&all.graph).contains(&"ConvWeightGrad"));
    let names = backward(&head.graph);
    let heavy = ["ConvWeightGrad", "ConvTranspose", "BatchNormGrad", "ReluGrad"];
    assert!(!names.iter().any(|n| heavy.contains(n)), "{names:?}");
}

#[test]
fn a_weight_gradient_comes_before_that_of_the_input() {
    let (net, loss, parameters) = residual();
    let with = differentiate(&net.graph, loss, &parameters).unwrap();
    let at = |op: &str| with.graph.nodes.iter().position(|n| n.op.name() == op && n.name.starts_with("second"));
    assert!(at("ConvWeightGrad").unwrap() < at("ConvTranspose").unwrap());
}

#[test]
fn a_value_that_is_used_twice_collects_both() {
    let mut net = Net::new("twice");
    let x = net.input("x", &[3]);
    let square = net.node(ops::Mul {}, "square", &[x, x]);
    let sum = net.node(ops::Add {}, "sum", &[square, x]);
    let loss = net.node(ops::ReduceSum { keepdims: false, ..ops::ReduceSum::default() }, "loss", &[sum]);
    let with = differentiate(&net.graph, loss, &[x]).unwrap();
    let gradient = interpret(&with.graph, &net.values).unwrap().pop().unwrap().to_f64s();
    for (g, x) in gradient.iter().zip(net.values[0].to_f64s()) {
        assert!((g - (2.0 * x + 1.0)).abs() < 1e-12);
    }
}

#[test]
fn errors_say_where_the_way_ends() {
    let mut net = Net::new("errors");
    let (x, other) = (net.input("x", &[3]), net.input("other", &[3]));
    let floor = net.node(ops::Floor {}, "floor", &[x]);
    let sum = net.node(ops::Add {}, "sum", &[floor, other]);
    let loss = net.mean(sum);
    let e = differentiate(&net.graph, loss, &[x]).unwrap_err();
    assert!(matches!(&e, TrainError::Unused { name, .. } if name == "x"), "{e}");
    let e = differentiate(&net.graph, sum, &[x]).unwrap_err();
    assert!(matches!(&e, TrainError::Loss { .. }) && e.to_string().contains("ReduceMean"), "{e}");

    let hard = net.node(ops::BipolarQuant {}, "hard", &[other, x]);
    let loss = net.mean(hard);
    let e = differentiate(&net.graph, loss, &[other]).unwrap_err().to_string();
    assert!(e.contains("hard") && e.contains("straight-through"), "{e}");
}

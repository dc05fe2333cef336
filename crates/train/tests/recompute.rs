//! Computing cheap values again needs less memory and gives the same gradients.

use std::sync::Arc;

use qing_engine::{Options, Plan, Session};
use qing_graph::{Element, Graph, Op, Tensor, Type, ValueId, ops};
use qing_train::{BackwardOptions, differentiate_with};

struct Net {
    graph: Graph,
    parameters: Vec<ValueId>,
    values: Vec<Tensor>,
}

impl Net {
    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        // Neither random nor regular.
        let seed = self.values.len() as f32;
        let values =
            (0..shape.iter().product::<usize>()).map(|i| ((i as f32 * 1.7 + seed).sin() * 91.3).fract()).collect();
        self.values.push(Tensor::new::<f32>(shape, values).unwrap());
        self.graph.add_input(name, Type::new(Element::F32, shape.iter().copied()))
    }

    fn node(&mut self, op: impl Op, name: &str, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.graph.add_node(Arc::new(op), name, &inputs, 1).expect("a legal node")[0]
    }

    /// Convolution and normalization.
    fn layer(&mut self, name: &str, x: ValueId, shape: [usize; 4]) -> ValueId {
        let w = self.input(&format!("{name}.w"), &shape);
        let (scale, bias) =
            (self.input(&format!("{name}.s"), &shape[..1]), self.input(&format!("{name}.b"), &shape[..1]));
        self.parameters.extend([w, scale, bias]);
        let y = self.node(ops::Conv { pads: vec![1; 4], ..ops::Conv::default() }, name, &[x, w]);
        let inputs = [y, scale, bias].map(Some);
        let op = Arc::new(ops::BatchNormTraining::default());
        self.graph.add_node(op, &format!("{name}.bn"), &inputs, 3).expect("a legal node")[0]
    }
}

/// Residual blocks of two layers each, and the mean of what comes out.
fn residual(blocks: usize) -> (Net, ValueId) {
    let mut net = Net { graph: Graph::new("residual"), parameters: vec![], values: vec![] };
    let x = net.input("x", &[4, 3, 16, 16]);
    let y = net.layer("first", x, [8, 3, 3, 3]);
    let mut y = net.node(ops::Relu {}, "first.relu", &[y]);
    for i in 0..blocks {
        let a = net.layer(&format!("{i}.a"), y, [8, 8, 3, 3]);
        let a = net.node(ops::Relu {}, &format!("{i}.a.relu"), &[a]);
        let b = net.layer(&format!("{i}.b"), a, [8, 8, 3, 3]);
        let sum = net.node(ops::Add {}, &format!("{i}.sum"), &[b, y]);
        y = net.node(ops::Relu {}, &format!("{i}.relu"), &[sum]);
    }
    let square = net.node(ops::Mul {}, "square", &[y, y]);
    let loss = net.node(ops::ReduceMean { keepdims: false, ..ops::ReduceMean::default() }, "loss", &[square]);
    (net, loss)
}

#[test]
fn less_memory_and_the_same_gradients() {
    let (net, loss) = residual(6);
    let run = |recompute: bool| {
        let with = differentiate_with(&net.graph, loss, &net.parameters, BackwardOptions { recompute }).unwrap();
        let plan = Plan::new(&with.graph, &Options { threads: 1, ..Options::default() }).unwrap();
        let peak = plan.peak_memory();
        (peak, Session::new(plan.into()).run(&net.values).unwrap())
    };
    let ((kept, expected), (again, actual)) = (run(false), run(true));
    println!("kept {kept} bytes, computed again {again}");
    assert!(again * 4 < kept * 3, "{again} bytes where keeping everything takes {kept}");
    for (e, a) in expected.iter().zip(&actual) {
        let largest = e.to_f64s().iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (e, a) in e.to_f64s().iter().zip(a.to_f64s()) {
            assert!((e - a).abs() <= 1e-3 * largest.max(1e-3), "{e} and {a}");
        }
    }
}

#[test]
fn a_trainer_computes_again_what_does_not_fit() {
    use qing_engine::Pool;
    use qing_train::{
        architectures, loss, optimize,
        parameters::{Exposure, expose},
        trainer::{Objective, Settings, Trainer},
    };
    const BATCH: usize = 4;
    let known = architectures::find("resnet8").unwrap();
    let settings = architectures::Settings { input: known.input.to_vec(), classes: known.classes, seed: 1 };
    let network = architectures::build("resnet8", &settings).unwrap();
    let pool = Arc::new(Pool::new(1));
    let trainer = |limit: Option<usize>| {
        let mut model = expose(&network, &Exposure::all(BATCH)).unwrap();
        let logits = model.graph.outputs[0];
        let targets = model.graph.add_input("targets", Type::new(Element::F32, [BATCH, known.classes]));
        let loss = loss::cross_entropy(&mut model.graph, logits, targets).unwrap();
        let mut plan = Options::threads(1);
        plan.memory_limit = limit.unwrap_or(plan.memory_limit);
        let settings = Settings { optimizer: optimize::Settings::default(), average: None, plan };
        Trainer::new(model, &Objective { loss, inputs: vec![targets] }, &settings, &pool)
    };
    let mut free = trainer(None).unwrap();
    let limit = free.plan().peak_memory() * 85 / 100;
    let mut tight = trainer(Some(limit)).unwrap();
    assert!(tight.plan().peak_memory() <= limit);
    assert!(trainer(Some(limit / 4)).unwrap_err().to_string().contains("bytes"));

    let shape = [&[BATCH], &known.input[..]].concat();
    let count: usize = shape.iter().product();
    let images = Tensor::new::<f32>(&shape, (0..count).map(|i| (i as f32 * 0.37).sin()).collect()).unwrap();
    let mut shares = vec![0.0f32; BATCH * known.classes];
    (0..BATCH).for_each(|i| shares[i * known.classes + i % known.classes] = 1.0);
    let shares = Tensor::new::<f32>(&[BATCH, known.classes], shares).unwrap();
    for step in 0..3 {
        let a = free.step(&[&images, &shares], 0.01).unwrap();
        let b = tight.step(&[&images, &shares], 0.01).unwrap();
        assert!((a - b).abs() < 1e-3 * a.abs().max(1.0), "step {step}: {a} and {b}");
    }
}

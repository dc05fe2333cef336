//! Where the time of a training step goes: ResNet-20 (or with 8 as depth ResNet-8) on images of 32×32, loss and all gradients, without data and
//! without update.
//!
//! `cargo run --release -p qing-train --example profile_step [BATCH] [THREADS] [DEPTH] [exact] [dump] [recompute]`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use qing_engine::{LayerTime, Options, Plan, Session};
use qing_graph::{Element, Graph, Op, Tensor, Type, ValueId, ops};
use qing_train::{BackwardOptions, differentiate_with};

/// Profiled runs of which each step's fastest counts.
const RUNS: usize = 10;

/// A network while it is built.
struct Builder {
    graph: Graph,
    parameters: Vec<ValueId>,
}

impl Builder {
    fn nodes(&mut self, op: impl Op + 'static, inputs: &[ValueId], outputs: usize) -> Vec<ValueId> {
        let name = format!("{}", self.graph.nodes.len());
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.graph.add_node(Arc::new(op), &name, &inputs, outputs).expect("a valid node")
    }

    fn node(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> ValueId {
        self.nodes(op, inputs, 1)[0]
    }

    fn parameter(&mut self, shape: &[usize]) -> ValueId {
        let name = format!("p{}", self.parameters.len());
        let id = self.graph.add_input(&name, Type::new(Element::F32, shape.iter().copied()));
        self.parameters.push(id);
        id
    }

    /// Convolution and batch normalization; the statistics are outputs.
    fn layer(&mut self, x: ValueId, [from, to]: [usize; 2], kernel: usize, stride: i64) -> ValueId {
        let weights = self.parameter(&[to, from, kernel, kernel]);
        let pads = vec![(kernel / 2) as i64; 4];
        let y = self.node(ops::Conv { pads, strides: vec![stride; 2], ..ops::Conv::default() }, &[x, weights]);
        let (scale, bias) = (self.parameter(&[to]), self.parameter(&[to]));
        let normal = self.nodes(ops::BatchNormTraining { epsilon: 1e-5 }, &[y, scale, bias], 3);
        normal[1..].iter().for_each(|id| self.graph.mark_output(*id));
        normal[0]
    }

    fn relu(&mut self, x: ValueId) -> ValueId {
        self.node(ops::Relu {}, &[x])
    }
}

/// The graph, its loss and the parameters.
fn network(batch: usize, depth: usize) -> (Graph, ValueId, Vec<ValueId>) {
    let mut b = Builder { graph: Graph::new("resnet"), parameters: vec![] };
    let x = b.graph.add_input("x", Type::new(Element::F32, [batch, 3, 32, 32]));
    let targets = b.graph.add_input("targets", Type::new(Element::F32, [batch, 10]));
    let mut y = b.layer(x, [3, 16], 3, 1);
    y = b.relu(y);
    let mut channels = 16;
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..(depth - 2) / 6 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let mut inner = b.layer(y, [channels, width], 3, stride);
            inner = b.relu(inner);
            inner = b.layer(inner, [width, width], 3, 1);
            let shortcut = if stride == 2 { b.layer(y, [channels, width], 1, 2) } else { y };
            let sum = b.node(ops::Add {}, &[inner, shortcut]);
            y = b.relu(sum);
            channels = width;
        }
    }
    y = b.node(ops::GlobalAveragePool {}, &[y]);
    y = b.node(ops::Flatten { axis: 1 }, &[y]);
    let (weights, bias) = (b.parameter(&[10, 64]), b.parameter(&[10]));
    y = b.node(ops::Gemm { transB: true, ..ops::Gemm::default() }, &[y, weights, bias]);
    y = b.node(ops::LogSoftmax { axis: 1, ..ops::LogSoftmax::default() }, &[y]);
    y = b.node(ops::Mul {}, &[y, targets]);
    let axes = b.graph.add_constant("axes", Tensor::vector(vec![0i64, 1]));
    y = b.node(ops::ReduceSum { keepdims: false, ..ops::ReduceSum::default() }, &[y, axes]);
    let factor = b.graph.add_constant("factor", Tensor::scalar(-1.0 / batch as f32));
    let loss = b.node(ops::Mul {}, &[y, factor]);
    b.graph.mark_output(loss);
    (b.graph, loss, b.parameters)
}

/// Fills the inputs with values of a scale that keeps the scale of what is computed from them.
fn fill(session: &mut Session, shapes: &[Vec<usize>]) -> Result<(), qing_engine::EngineError> {
    for (i, shape) in shapes.iter().enumerate() {
        let depth = shape[1..].iter().product::<usize>().max(1) as f32;
        let mut state = i as u32 + 1;
        for bytes in session.input_mut(i)?.chunks_exact_mut(4) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let value = match shape.len() {
                1 => 1.0 + 0.1 * noise,
                _ if i == 0 => noise,
                _ => noise * 2.5 / depth.sqrt(),
            };
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |i: usize, default: usize| std::env::args().nth(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let has = |word: &str| std::env::args().any(|a| a == word);
    let (batch, threads, depth) = (argument(1, 128), argument(2, 1), argument(3, 20));
    let (graph, loss, parameters) = network(batch, depth);
    let options = BackwardOptions { recompute: has("recompute") };
    let graph = differentiate_with(&graph, loss, &parameters, options)?.graph;
    let plan = Arc::new(Plan::new(&graph, &Options { threads, exact: has("exact"), ..Options::default() })?);
    if has("dump") {
        print!("{}", plan.dump());
    }
    let mut session = Session::new(Arc::clone(&plan));
    let shapes: Vec<Vec<usize>> =
        plan.graph().inputs.iter().map(|id| plan.graph().ty(*id).known_shape().unwrap_or_default()).collect();
    fill(&mut session, &shapes)?;
    let mut best: Vec<LayerTime> = session.profile()?;
    for _ in 0..RUNS {
        for (best, now) in best.iter_mut().zip(session.profile()?) {
            best.nanos = best.nanos.min(now.nanos);
        }
    }
    let total: u64 = best.iter().map(|l| l.nanos).sum();
    let mut kinds = BTreeMap::<&str, (u64, usize, u64, u64)>::new();
    for layer in &best {
        println!(
            "{:9.1} µs {:5.1} % {:7.1} GOP/s {:6.1} GB/s  {:40} {:32} {}",
            layer.nanos as f64 / 1e3,
            100.0 * layer.nanos as f64 / total as f64,
            2.0 * layer.macs as f64 / layer.nanos.max(1) as f64,
            layer.bytes as f64 / layer.nanos.max(1) as f64,
            layer.kernel,
            layer.op,
            layer.node
        );
        let kind = kinds.entry(&layer.op).or_default();
        *kind = (kind.0 + layer.nanos, kind.1 + 1, kind.2 + layer.macs, kind.3 + layer.bytes);
    }
    println!();
    for (kind, (nanos, count, macs, bytes)) in kinds {
        let (rate, flow) = (2.0 * macs as f64 / nanos as f64, bytes as f64 / nanos as f64);
        println!("{:9.1} µs {count:3} × {kind:40} {rate:7.1} GOP/s {flow:6.1} GB/s", nanos as f64 / 1e3);
    }
    let mut fastest = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 3.0 {
        let start = Instant::now();
        session.run_into()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    println!(
        "{} on {threads} thread(s): sum of steps {:.1} ms, fastest run {:.1} ms, {:.0} images/s, {:.1} MB",
        plan.isa().name(),
        total as f64 / 1e6,
        fastest * 1e3,
        batch as f64 / fastest,
        plan.peak_memory() as f64 / 1e6
    );
    Ok(())
}

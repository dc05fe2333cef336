use std::sync::Arc;

use qing_graph::{Element, Graph, Op, Quant, Tensor, Type, ValueId, interpret::interpret, ops, passes};

use super::{depend::Dependencies, remove::remove, *};

fn noise(shape: &[usize], seed: usize, size: f32) -> Tensor {
    let value = |i: usize| {
        let h = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((h >> 40) as f32 / 16_777_216.0 - 0.5) * 2.0 * size
    };
    Tensor::new(shape, (0..shape.iter().product()).map(value).collect()).unwrap()
}

/// A graph as it grows; every constant gets a seed of its own.
struct Build {
    g: Graph,
    seed: usize,
}

impl Build {
    fn new(channels: usize) -> (Build, ValueId) {
        let mut g = Graph::new("t");
        let x = g.add_input("x", Type::new(Element::F32, [2usize, channels, 6, 6]));
        (Build { g, seed: 0 }, x)
    }

    fn constant(&mut self, shape: &[usize], size: f32) -> ValueId {
        self.seed += 1;
        self.g.add_constant(&format!("c{}", self.seed), noise(shape, self.seed, size))
    }

    fn node(&mut self, op: impl Op, inputs: &[ValueId]) -> ValueId {
        self.seed += 1;
        let inputs: Vec<Option<ValueId>> = inputs.iter().map(|i| Some(*i)).collect();
        self.g.add_node(Arc::new(op), &format!("n{}", self.seed), &inputs, 1).unwrap()[0]
    }

    fn conv(&mut self, x: ValueId, out: usize, kernel: usize, group: usize) -> ValueId {
        let channels = self.g.ty(x).known_shape().unwrap()[1];
        let fan = channels / group * kernel * kernel;
        let w = self.constant(&[out, channels / group, kernel, kernel], (3.0 / fan as f32).sqrt());
        let b = self.constant(&[out], 0.3);
        let pads = vec![(kernel / 2) as i64; 4];
        self.node(ops::Conv { group: group as i64, pads, ..ops::Conv::default() }, &[x, w, b])
    }

    fn normalized(&mut self, x: ValueId) -> ValueId {
        let channels = self.g.ty(x).known_shape().unwrap()[1];
        let scale = self.constant(&[channels], 1.0);
        let shift = self.constant(&[channels], 0.3);
        let mean = self.constant(&[channels], 0.2);
        let var = noise(&[channels], self.seed + 900, 0.4).to_f32s().iter().map(|v| v + 0.8).collect();
        let var = self.g.add_constant("var", Tensor::new(&[channels], var).unwrap());
        self.node(ops::BatchNormalization::default(), &[x, scale, shift, mean, var])
    }

    fn relu(&mut self, x: ValueId) -> ValueId {
        self.node(ops::Relu {}, &[x])
    }

    fn block(&mut self, x: ValueId, inner: usize) -> ValueId {
        let channels = self.g.ty(x).known_shape().unwrap()[1];
        let a = self.conv(x, inner, 3, 1);
        let a = self.normalized(a);
        let a = self.relu(a);
        let b = self.conv(a, channels, 3, 1);
        let b = self.normalized(b);
        let sum = self.node(ops::Add {}, &[b, x]);
        self.relu(sum)
    }

    fn head(&mut self, x: ValueId) -> Graph {
        let flat = self.node(ops::Flatten { axis: 1 }, &[x]);
        let width = self.g.ty(flat).known_shape().unwrap()[1];
        let w = self.constant(&[5, width], (3.0 / width as f32).sqrt());
        let b = self.constant(&[5], 0.1);
        let y = self.node(ops::Gemm { transB: true, ..ops::Gemm::default() }, &[flat, w, b]);
        self.g.mark_output(y);
        self.g.clone()
    }
}

/// Everything that ties channels: residual sums, a shortcut padded with channels of zeros, concatenation, depthwise (two outputs
/// a channel) and grouped convolution, slopes, pooling, a reshape, a matrix of the flattened image.
fn tangled() -> Graph {
    let (mut b, x) = Build::new(3);
    let stem = b.conv(x, 8, 3, 1);
    let stem = b.normalized(stem);
    let stem = b.relu(stem);
    let one = b.block(stem, 8);
    let two = b.conv(one, 12, 1, 1);
    let pads = b.g.add_constant("pads", Tensor::new(&[8], vec![0i64, 2, 0, 0, 0, 2, 0, 0]).unwrap());
    let padded = b.node(ops::Pad { mode: "constant".into() }, &[one, pads]);
    let sum = b.node(ops::Add {}, &[two, padded]);
    let deep = b.conv(sum, 24, 3, 12);
    let slope = b.constant(&[24, 1, 1], 0.3);
    let deep = b.node(ops::PRelu {}, &[deep, slope]);
    let grouped = b.conv(deep, 16, 3, 4);
    let joined = b.node(ops::Concat { axis: 1 }, &[grouped, sum]);
    let pool = ops::MaxPool { kernel_shape: vec![2, 2], strides: vec![2, 2], ..ops::MaxPool::default() };
    let joined = b.node(pool, &[joined]);
    let last = b.conv(joined, 6, 1, 1);
    let factor = b.constant(&[6, 1, 1], 1.0);
    let last = b.node(ops::Mul {}, &[last, factor]);
    let shape = b.g.add_constant("shape", Tensor::new(&[2], vec![2i64, 54]).unwrap());
    let rows = b.node(ops::Reshape::default(), &[last, shape]);
    b.head(rows)
}

/// The same graph with everything that belongs to the units set to zero: what is left must compute this.
fn silenced(graph: &Graph, d: &Dependencies, gone: &[bool]) -> Graph {
    let mut made = graph.clone();
    for slice in &d.slices {
        let value = made.value_mut(slice.constant);
        let tensor = value.constant.clone().unwrap();
        let inner: usize = tensor.shape()[slice.axis + 1..].iter().product();
        let keep = |i: usize| d.stays(slice.atoms[i / inner % slice.atoms.len()], gone);
        let values = tensor.to_f32s().into_iter().enumerate().map(|(i, v)| if keep(i) { v } else { 0.0 }).collect();
        value.constant = Some(Tensor::new(tensor.shape(), values).unwrap());
    }
    made
}

fn close(a: &Graph, b: &Graph, channels: usize) {
    let x = noise(&[2, channels, 6, 6], 77, 1.5);
    let (a, b) = (interpret(a, std::slice::from_ref(&x)).unwrap(), interpret(b, &[x]).unwrap());
    for (a, b) in a[0].to_f64s().iter().zip(b[0].to_f64s()) {
        assert!((a - b).abs() < 1e-4 * (1.0 + a.abs()), "{a} {b}");
    }
}

#[test]
fn what_is_left_computes_what_the_network_did_with_the_rest_silent() {
    let graph = tangled();
    let d = Dependencies::of(&graph);
    assert!(d.groups.len() >= 4, "{:?}", d.groups);
    for (g, group) in d.groups.iter().enumerate() {
        for take in [1, group.units.len() / 2] {
            let mut gone = vec![false; d.units];
            group.units.iter().skip(1).step_by(2).take(take).for_each(|u| gone[*u] = true);
            let made = remove(&graph, &d, &gone).unwrap();
            close(&silenced(&graph, &d, &gone), &made, 3);
            let count = |g: &Graph| report::totals(g, None).parameters;
            assert!(count(&made) < count(&graph), "group {g}");
        }
    }
    // All at once.
    let mut gone = vec![false; d.units];
    d.groups.iter().for_each(|g| g.units.iter().step_by(3).for_each(|u| gone[*u] = true));
    close(&silenced(&graph, &d, &gone), &remove(&graph, &d, &gone).unwrap(), 3);
}

#[test]
fn ties_are_those_of_the_network() {
    let graph = tangled();
    let d = Dependencies::of(&graph);
    let mut sizes: Vec<usize> = d.groups.iter().map(|g| g.units.len()).collect();
    sizes.sort_unstable();
    // Inside the block 8; the stream 8, the channels around it 2 + 2; of the grouped convolution 16 outputs in 4 groups are 4
    // units, and its 24 inputs in 4 groups of 6 tie the 12 channels of the stream together; the last layer 6.
    assert!(sizes.contains(&6) && sizes.contains(&8) && sizes.contains(&4), "{sizes:?}");
    // No group reaches the answer or the input.
    let last = graph.nodes.len() - 1;
    assert!(d.groups.iter().all(|g| !g.producers.contains(&last)));
}

#[test]
fn an_op_without_a_rule_holds_its_channels() {
    let (mut b, x) = Build::new(3);
    let y = b.conv(x, 8, 1, 1);
    let y = b.node(ops::Softmax { axis: 1, ..ops::Softmax::default() }, &[y]);
    let z = b.conv(y, 8, 1, 1);
    let graph = b.head(z);
    let d = Dependencies::of(&graph);
    assert_eq!(d.groups.len(), 1, "{:?}", d.groups);
}

fn residual() -> Graph {
    let (mut b, x) = Build::new(3);
    let y = b.conv(x, 16, 3, 1);
    let mut y = b.relu(y);
    for _ in 0..3 {
        y = b.block(y, 16);
    }
    let y = b.node(ops::GlobalAveragePool {}, &[y]);
    b.head(y)
}

fn batches(count: usize) -> Vec<Vec<Tensor>> {
    (0..count).map(|i| vec![noise(&[2, 3, 6, 6], 500 + i, 1.5)]).collect()
}

fn options(importance: Importance) -> PruneOptions {
    PruneOptions { importance, multiple: 4, ..PruneOptions::default() }
}

#[test]
fn budgets_are_kept_and_channels_come_in_multiples() {
    let (graph, data) = (residual(), batches(12));
    for (budget, how) in [
        ("macs<=0.5x", Importance::Taylor),
        ("macs<=0.7x", Importance::Magnitude),
        ("params<=0.4x", Importance::Scale),
        ("macs<=0.1x", Importance::Taylor),
    ] {
        let budget: Budget = budget.parse().unwrap();
        let made = prune(&graph, &data, &budget, &options(how), None, &mut |_| {}).unwrap();
        let Limit::Share(share) = budget.limit else { panic!() };
        assert!(made.report.cost_after <= share * made.report.cost_before, "{:?}", made.report);
        assert!(made.report.cost_after > 0.4 * share * made.report.cost_before, "{:?}", made.report);
        for layer in &made.report.layers {
            assert!(layer.channels[1].is_multiple_of(4) || layer.channels[1] == layer.channels[0], "{layer:?}");
        }
        let x = noise(&[2, 3, 6, 6], 9, 1.0);
        assert_eq!(interpret(&made.graph, &[x]).unwrap()[0].shape(), [2, 5]);
    }
}

#[test]
fn a_branch_that_is_judged_useless_goes_entirely() {
    let mut graph = residual();
    // The second block adds nothing: the scale of its last normalization is zero.
    let norm = graph.nodes.iter().filter(|n| n.op.name() == "BatchNormalization").nth(3).unwrap().clone();
    for input in [1, 2] {
        let id = norm.input(input).unwrap();
        graph.value_mut(id).constant = Some(Tensor::new(&[16], vec![0f32; 16]).unwrap());
    }
    let budget = "macs<=0.7x".parse().unwrap();
    let made = prune(&graph, &batches(8), &budget, &options(Importance::Taylor), None, &mut |_| {}).unwrap();
    assert_eq!(made.graph.nodes.iter().filter(|n| n.op.name() == "Add").count(), 2);
    assert!(made.report.output_sqnr_db.unwrap() > 60.0, "{:?}", made.report.output_sqnr_db);
    let kept = PruneOptions { whole: false, ..options(Importance::Taylor) };
    let made = prune(&graph, &batches(8), &budget, &kept, None, &mut |_| {}).unwrap();
    assert_eq!(made.graph.nodes.iter().filter(|n| n.op.name() == "Add").count(), 3);
}

/// Each step helps: judging by gradients over judging by size, fitting what is left over leaving it.
#[test]
fn gradients_and_fitting_leave_more_of_the_answer() {
    let (graph, data) = (residual(), batches(40));
    let budget = "macs<=0.6x".parse().unwrap();
    let clarity = |how, reconstruct, rounds| {
        let options = PruneOptions { reconstruct, rounds, ..options(how) };
        prune(&graph, &data, &budget, &options, None, &mut |_| {}).unwrap().report.output_sqnr_db.unwrap()
    };
    let size = clarity(Importance::Magnitude, false, 1);
    let gradients = clarity(Importance::Taylor, false, 1);
    let fitted = clarity(Importance::Taylor, true, 1);
    assert!(gradients > size + 1.0, "{size} {gradients}");
    assert!(fitted > gradients + 3.0, "{gradients} {fitted}");
}

#[test]
fn a_cost_that_is_measured_is_kept() {
    let (graph, data) = (residual(), batches(6));
    let mut cost = |g: &Graph| Ok(report::totals(g, None).parameters as f64);
    let budget = "chip<=6000".parse().unwrap();
    let options = options(Importance::Taylor);
    let made = prune(&graph, &data, &budget, &options, Some(&mut cost), &mut |_| {}).unwrap();
    assert!(report::totals(&made.graph, None).parameters <= 6000);
    let error = prune(&graph, &data, &"chip<=1".parse().unwrap(), &options, Some(&mut cost), &mut |_| {});
    let error = error.unwrap_err().to_string();
    assert!(error.contains("cannot be reached; the closest is"), "{error}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (graph, data) = (residual(), batches(2));
    let run = |graph: &Graph, data: &[Vec<Tensor>], budget: &str, options: &PruneOptions| {
        prune(graph, data, &budget.parse().unwrap(), options, None, &mut |_| {}).unwrap_err().to_string()
    };
    let taylor = options(Importance::Taylor);
    assert!(run(&graph, &[], "macs<=0.5x", &taylor).contains("needs samples"));
    assert!(run(&graph, &data, "size<=1kB", &taylor).contains("macs, params or latency"));
    assert!(run(&graph, &data, "macs<=0.001x", &taylor).contains("at most"));
    assert!(run(&graph, &data, "macs<=0.5x", &PruneOptions { multiple: 0, ..taylor.clone() }).contains("multiples"));
    let mut folded = graph.clone();
    passes::normalize(&mut folded).unwrap();
    assert!(run(&folded, &data, "macs<=0.5x", &options(Importance::Scale)).contains("no batch normalization"));
    let mut broken = graph.clone();
    let w = broken.find("c1").unwrap();
    broken.value_mut(w).constant = Some(Tensor::new(&[16, 3, 3, 3], vec![f32::NAN; 432]).unwrap());
    assert!(run(&broken, &data, "macs<=0.5x", &taylor).contains("NaN"));
    let mut typed = graph.clone();
    let ty = typed.ty(w).clone().quantized(Element::I8, Quant::per_tensor(0.1, 0).unwrap());
    typed.value_mut(w).ty = ty;
    assert!(run(&typed, &data, "macs<=0.5x", &taylor).contains("is quantized"));
}

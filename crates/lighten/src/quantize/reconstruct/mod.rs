//! Reconstruction: block by block, roundings of weights, scales and biases are learned so that the block gives on few bits what it
//! gives in floating point, on data without labels.
//!
//! Which way a weight is rounded is learned as in AdaRound (arXiv:2004.10568), but decided step by step: those nearest to whole
//! steps first, so that the others make up for them (incremental quantization, arXiv:1702.03044). What a weight moves changes the
//! mean of its channel; the bias follows that at once, by the mean of the weight's input, rather than learning it. A block is what a
//! residual goes around (BRECQ, arXiv:2102.05426; [`blocks`]); scales are learned as in LSQ (arXiv:1902.08153); what a block reads
//! is, value by value, from the network that is quantized so far or from the float network (QDrop, arXiv:2203.05740). Of large maps
//! windows are learned on ([`windows`]). A block keeps its old numbers where the learned ones are no better.

mod batches;
mod blocks;
mod build;
mod cache;
mod checkpoint;
mod learn;
mod rounding;
mod windows;

use std::{path::Path, sync::Arc, time::Instant};

use qing_engine::Pool;
use qing_graph::{Graph, Tensor};
use serde::Serialize;

use self::{
    batches::Batches,
    build::{Form, Network, build},
    cache::{Cache, Runner},
    checkpoint::Checkpoint,
    windows::Windows,
};
use super::{assign::Chosen, decide::Decision, options::Reconstruction};
use crate::{LightenError, Progress};

/// What became of a block.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reconstructed {
    /// Names of its layers with weights.
    pub layers: Vec<String>,
    /// Mean squared error of its result over the mean square of the result in floating point, before it was learned, on what the
    /// blocks before it give.
    pub before: f64,
    /// … and after.
    pub after: f64,
    /// Seconds that took.
    pub seconds: f64,
}

/// Learns the numbers of all blocks. Finished ones are noted in the file `checkpoint`, and not learned again if it is there already.
///
/// # Errors
/// If there is no data, the checkpoint cannot be written or read, the network has more than one input or output, or an op on the way has no gradient.
pub(super) fn reconstruct(
    graph: &Graph,
    decision: &Decision,
    batches: &[Vec<Tensor>],
    how: &Reconstruction,
    checkpoint: Option<&Path>,
    threads: usize,
    chosen: &mut Chosen,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Reconstructed>, LightenError> {
    let dots = super::dots(graph, decision);
    let blocks = blocks::blocks(graph, &dots, how.granularity)?;
    let pool = Arc::new(Pool::new(threads));
    let mut float = Cache::of(batches)?;
    let mut light = float.clone();
    let samples = how.samples(float.count, float.width());
    let checkpoint = checkpoint.map(|path| Checkpoint::new(path, how, &float, chosen));
    let finished = checkpoint.as_ref().map_or(Ok(0), |c| c.read(chosen))?;
    let total = blocks.len() * how.iterations;
    let mut report = vec![];
    for (i, block) in blocks.iter().enumerate() {
        let mut at = |step| progress(Progress { stage: "reconstruct", done: i * how.iterations + step, total });
        at(0);
        let begun = Instant::now();
        let network = Network { graph, decision, chosen };
        let run = |network: Network<'_>, form: Form, inputs: &Cache| -> Result<Cache, LightenError> {
            let shape = inputs.batch_shape(inputs.batch_that_fits());
            Runner::new(&build(network, block, &shape, form)?.graph, &shape, &pool)?.run(inputs)
        };
        let target = run(network, Form::Float, &float)?;
        let mut result = run(network, Form::Rounded, &light)?;
        let before = result.error(&target);
        if i >= finished && before > 0.0 && block.nodes.clone().any(|i| dots.contains(&i)) {
            let mut candidate = chosen.clone();
            let windows = Windows::of(graph, block, &float.shape, &target.shape, how.window);
            let data = Batches { float: &float, light: &light, target: &target, windows, how, index: i, samples };
            learn::learn(network, block, &data, how, before, &pool, &mut candidate, &mut at)?;
            let other = run(Network { chosen: &candidate, ..network }, Form::Rounded, &light)?;
            if other.error(&target) < before {
                *chosen = candidate;
                result = other;
            }
        }
        let layers = dots.iter().filter(|i| block.nodes.contains(i)).map(|i| graph.nodes[*i].name.clone());
        let power = target.power().max(f64::MIN_POSITIVE);
        let (before, after) = (before / power, result.error(&target) / power);
        report.push(Reconstructed { layers: layers.collect(), before, after, seconds: begun.elapsed().as_secs_f64() });
        (float, light) = (target, result);
        if let Some(checkpoint) = checkpoint.as_ref().filter(|_| i >= finished) {
            checkpoint.write(i + 1, chosen)?;
        }
    }
    progress(Progress { stage: "reconstruct", done: total, total });
    Ok(report)
}

#[cfg(test)]
mod tests {
    use qing_graph::{Element, NodeId, Type, ValueId, ops};

    use super::*;
    use crate::{
        Granularity, QuantizeOptions, Rounding,
        quantize::{assign::assign, choose as choose_plainly, decide::Decision},
        run::Observer,
    };

    fn noise(shape: &[usize], seed: usize, size: f32) -> Tensor {
        let value = |i: usize| {
            let h = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            ((h >> 40) as f32 / 16_777_216.0 - 0.5) * 2.0 * size
        };
        Tensor::new(shape, (0..shape.iter().product()).map(value).collect()).unwrap()
    }

    /// A stem, a residual around a depthwise convolution, the mean over places, and a matrix product.
    fn network() -> Graph {
        let mut g = Graph::new("small");
        let x = g.add_input("x", Type::new(Element::F32, [1usize, 3, 8, 8]));
        let conv = |g: &mut Graph, name: &str, x: ValueId, shape: [usize; 4], seed: usize| {
            let fan: usize = shape[1..].iter().product();
            let w = g.add_constant(&format!("{name}.w"), noise(&shape, seed, (3.0 / fan as f32).sqrt()));
            let b = g.add_constant(&format!("{name}.b"), noise(&[shape[0]], seed + 1, 0.2));
            let pad = (shape[2] / 2) as i64;
            let group = if shape[1] == 1 { shape[0] as i64 } else { 1 };
            let op = ops::Conv { group, pads: vec![pad; 4], ..ops::Conv::default() };
            g.add_node(Arc::new(op), name, &[Some(x), Some(w), Some(b)], 1).unwrap()[0]
        };
        let relu = |g: &mut Graph, x: ValueId| g.add_node(Arc::new(ops::Relu {}), "relu", &[Some(x)], 1).unwrap()[0];
        let stem = conv(&mut g, "stem", x, [8, 3, 3, 3], 1);
        let stem = relu(&mut g, stem);
        let a = conv(&mut g, "a", stem, [8, 1, 3, 3], 3);
        let a = relu(&mut g, a);
        let b = conv(&mut g, "b", a, [8, 8, 1, 1], 5);
        let sum = g.add_node(Arc::new(ops::Add {}), "sum", &[Some(b), Some(stem)], 1).unwrap()[0];
        let sum = relu(&mut g, sum);
        let mean = g.add_node(Arc::new(ops::GlobalAveragePool {}), "mean", &[Some(sum)], 1).unwrap()[0];
        let flat = g.add_node(Arc::new(ops::Flatten::default()), "flat", &[Some(mean)], 1).unwrap()[0];
        let w = g.add_constant("head.w", noise(&[8, 5], 9, 0.5));
        let b = g.add_constant("head.b", noise(&[5], 10, 0.5));
        let y = g.add_node(Arc::new(ops::Gemm::default()), "head", &[Some(flat), Some(w), Some(b)], 1).unwrap()[0];
        g.mark_output(y);
        g
    }

    fn data() -> Vec<Vec<Tensor>> {
        (0..24).map(|i| vec![noise(&[1, 3, 8, 8], 100 + i, 1.5)]).collect()
    }

    /// All numbers, those that are learned as well.
    fn choose(
        graph: &Graph,
        data: &[Vec<Tensor>],
        options: &QuantizeOptions,
        threads: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Decision, Chosen), LightenError> {
        let (decision, mut chosen) = choose_plainly(graph, data, options, threads, progress)?;
        let how = options.reconstruct.as_ref().unwrap();
        let checkpoint = options.checkpoint.as_deref();
        let blocks = reconstruct(graph, &decision, data, how, checkpoint, threads, &mut chosen, progress)?;
        assert!(blocks.iter().all(|b| b.after <= b.before));
        Ok((decision, chosen))
    }

    fn options(bits: &str) -> QuantizeOptions {
        let how = Reconstruction { iterations: 40, batch: Some(8), ..Reconstruction::default() };
        Rounding::Reconstruct(how)
            .apply(QuantizeOptions { edge_bits: None, ..QuantizeOptions::with_bits(bits.parse().unwrap()) })
    }

    /// What is learned on is what the integers compute.
    #[test]
    fn blocks_of_rounded_numbers_give_what_the_typed_graph_gives() {
        let (graph, data) = (network(), data());
        for bits in ["w4a8", "w4a4", "w2a3", "w1a8", "w8a8"] {
            let (decision, chosen) = choose(&graph, &data, &options(bits), 1, &mut |_| {}).unwrap();
            let typed = assign(&graph, &decision, &chosen).unwrap().graph;
            let dots: Vec<NodeId> = super::super::dots(&graph, &decision);
            let pool = Arc::new(Pool::new(1));
            let mut light = Cache::of(&data).unwrap();
            for block in blocks::blocks(&graph, &dots, Granularity::Block).unwrap() {
                let shape = light.batch_shape(8);
                let network = Network { graph: &graph, decision: &decision, chosen: &chosen };
                let built = build(network, &block, &shape, Form::Rounded).unwrap();
                light = Runner::new(&built.graph, &shape, &pool).unwrap().run(&light).unwrap();
            }
            let mut observer = Observer::new(&typed, &typed.outputs, 1);
            let mut float = Observer::new(&graph, &graph.outputs, 1);
            let power = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            let (mut apart, mut error) = (0.0, 0.0);
            for (i, batch) in data.iter().enumerate() {
                let want = observer.run(batch).unwrap()[0].to_f32s();
                apart += power(light.sample(i), &want);
                error += power(&float.run(batch).unwrap()[0].to_f32s(), &want);
            }
            // Sums of floats and of 14-bit multipliers round a few values to the neighbouring step.
            assert!(apart < 0.05 * error, "{bits}: {apart} of {error}");
        }
    }

    #[test]
    fn a_killed_run_goes_on_behind_its_last_block() {
        let (graph, data) = (network(), data());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.blocks.npz");
        let plain = options("w3a4");
        let noted = QuantizeOptions { checkpoint: Some(path.clone()), ..plain.clone() };
        let numbers = |chosen: &Chosen| format!("{chosen:?}");
        let whole = numbers(&choose(&graph, &data, &plain, 1, &mut |_| {}).unwrap().1);
        // The run ends when the second block begins.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            choose(&graph, &data, &noted, 1, &mut |p| assert!((p.stage, p.done) != ("reconstruct", 40))).map(|_| ())
        }));
        assert!(killed.is_err() && path.exists());
        assert_eq!(numbers(&choose(&graph, &data, &noted, 1, &mut |_| {}).unwrap().1), whole);
        // A finished one is read, not learned again; of other data it is not taken.
        assert_eq!(numbers(&choose(&graph, &data, &noted, 1, &mut |_| {}).unwrap().1), whole);
        let other = choose(&graph, &data[1..], &plain, 1, &mut |_| {}).unwrap().1;
        assert_eq!(numbers(&choose(&graph, &data[1..], &noted, 1, &mut |_| {}).unwrap().1), numbers(&other));
        std::fs::write(&path, b"broken").unwrap();
        let error = choose(&graph, &data, &noted, 1, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("n.blocks.npz") && error.contains("delete it"), "{error}");
    }

    #[test]
    fn without_data_it_says_so() {
        let error = choose(&network(), &[], &options("w4a4"), 1, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("there is none"), "{error}");
    }
}

//! Quantization after training: lighter types for the values of a float network, chosen by what calibration data shows.
//!
//! The stages, each a file: which nodes compute on integers ([`decide`]), evener
//! channels of convolutions ([`equalize`]) and of what matrix products read ([`smooth`], [`rotate`]), ranges of activations ([`range`]), scales and
//! integers of weights ([`weights`], [`feedback`], [`bitsplit`], [`codebook`], [`factors`]), what is learned of both block by block ([`reconstruct`]), and the
//! typed graph ([`assign`]). None of them looks at labels.

mod assign;
mod bitsplit;
mod codebook;
mod decide;
mod dense;
mod equalize;
mod factors;
mod feedback;
mod hadamard;
mod layer;
mod matrix;
mod options;
mod probe;
mod range;
mod reconstruct;
mod rotate;
mod smooth;
mod trial;
mod weights;
mod widths;

use std::collections::BTreeMap;

use qing_graph::{Graph, NodeId, QuantRule, Tensor, ValueId};

pub(crate) use assign::Assigned;
use assign::Chosen;
pub use codebook::Codebook;
pub(crate) use decide::Mode;
pub(crate) use equalize::equalize;
pub use factors::Factors;
pub(crate) use feedback::inverse_factor;
pub use options::{
    Bits, Encoding, Granularity, Override, QuantizeOptions, RangeMethod, Reconstruction, Rounding, Smoothing, matches,
};
pub use reconstruct::Reconstructed;
pub use rotate::Rotated;
pub(crate) use rotate::rotate;
pub use smooth::Smoothed;
pub(crate) use smooth::smooth;
pub(crate) use trial::{Rounded, Trial};

use crate::{
    LightenError, Progress,
    calibrate::{Moments, calibrate},
};
use decide::{Decision, activations, decide};
use widths::Widths;

/// A quantized network and what a report needs to know of how it was made.
#[derive(Debug)]
pub(crate) struct Quantized {
    /// The typed graph and how it relates to the float graph.
    pub assigned: Assigned,
    /// What became of every block, if they were reconstructed.
    pub blocks: Vec<Reconstructed>,
    decision: Decision,
    chosen: Chosen,
    /// For values of the float graph, the value whose quantization they use.
    pub leaders: BTreeMap<ValueId, ValueId>,
}

/// Quantizes a float graph whose constants are folded, with ranges from `batches` of inputs.
///
/// # Errors
/// If an option is out of range, the batches do not fit the network, or an op fails.
pub(crate) fn quantize(
    graph: &Graph,
    batches: &[Vec<Tensor>],
    options: &QuantizeOptions,
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Quantized, LightenError> {
    let (decision, chosen) = choose(graph, batches, options, threads, progress)?;
    let assigned = assign::assign(graph, &decision, &chosen)?;
    let leaders = quantized_values(graph, &decision);
    let made = Quantized { assigned, blocks: vec![], decision, chosen, leaders };
    reconstructed(graph, made, batches, options, threads, progress)
}

/// The same network with what is learned block by block, if the options want that.
///
/// # Errors
/// As [`quantize`].
pub(crate) fn reconstructed(
    graph: &Graph,
    made: Quantized,
    batches: &[Vec<Tensor>],
    options: &QuantizeOptions,
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Quantized, LightenError> {
    let Some(how) = &options.reconstruct else { return Ok(made) };
    let Quantized { decision, mut chosen, leaders, .. } = made;
    let checkpoint = options.checkpoint.as_deref();
    let blocks = reconstruct::reconstruct(graph, &decision, batches, how, checkpoint, threads, &mut chosen, progress)?;
    let assigned = assign::assign(graph, &decision, &chosen)?;
    Ok(Quantized { assigned, blocks, decision, chosen, leaders })
}

impl Quantized {
    /// How each node of the float graph computes now.
    pub(crate) fn modes(&self) -> &[Mode] {
        &self.decision.modes
    }
}

/// Decides how every node computes, and chooses all numbers but those that are learned.
fn choose(
    graph: &Graph,
    batches: &[Vec<Tensor>],
    options: &QuantizeOptions,
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Decision, Chosen), LightenError> {
    options.validate()?;
    let decision = decide(graph, options);
    let dots = dots(graph, &decision);
    let bits = Widths::new(graph, &decision, &dots, options);
    let leaders = quantized_values(graph, &decision);
    let mut values: Vec<ValueId> = leaders.values().copied().collect();
    values.sort_unstable();
    values.dedup();
    let samples = batches.iter().map(|b| b.first().and_then(|t| t.shape().first().copied()).unwrap_or(1)).sum();
    let wants_moments = options.bias_correction || options.error_feedback;
    let layers: Vec<(NodeId, Moments)> = dots
        .iter()
        .filter(|_| wants_moments)
        .filter_map(|i| Some((*i, Moments::of(graph, &graph.nodes[*i], options.error_feedback, samples)?)))
        .collect();
    let statistics = calibrate(graph, batches, &values, &layers, threads, progress)?;
    let mut chosen = Chosen::default();
    for id in &values {
        chosen.types.insert(*id, range::activation(&statistics.histograms[id], bits.activation(*id), options.range)?);
    }
    for (i, width) in &bits.narrow {
        if let Some(histogram) = graph.nodes[*i].input(0).and_then(|x| statistics.histograms.get(&decision.leader(x))) {
            chosen.narrow.insert(*i, range::activation(histogram, *width, options.range)?);
        }
    }
    let layer = |i: &NodeId| {
        let node = &graph.nodes[*i];
        let x_scale = chosen.read(graph, &decision, *i).map_or(1.0, |(_, quant)| quant.scale(0));
        // A sum after a matrix product is in floating point.
        let correct = layer::takes_bias(node) || decision.modes[*i] == Mode::RealDot;
        // The first and the last layer are spared where widths spare them.
        let edge = options.edge_bits.is_some() && (dots.first() == Some(i) || dots.last() == Some(i));
        let encoding = options.encoding.filter(|_| !edge);
        layer::quantize(graph, node, bits.weights[i], x_scale, statistics.moments.get(i), correct, encoding, options)
    };
    let mut parameters = BTreeMap::new();
    // Layers do not depend on each other: as many at a time as there are threads.
    for (done, some) in dots.chunks(threads.max(1)).enumerate() {
        progress(Progress { stage: "quantize weights", done: done * threads.max(1), total: dots.len() });
        let made: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|i| scope.spawn(|| layer(i))).collect();
            running.into_iter().map(|t| t.join()).collect()
        });
        for (i, result) in some.iter().zip(made) {
            let result = result.map_err(|_| LightenError::Option("a thread that quantized weights panicked".into()))?;
            parameters.insert(*i, result?);
        }
    }
    progress(Progress { stage: "quantize weights", done: dots.len(), total: dots.len() });
    chosen.layers = parameters;
    Ok((decision, chosen))
}

/// The layers with weights that compute on integers, in order.
fn dots(graph: &Graph, decision: &Decision) -> Vec<NodeId> {
    (0..graph.nodes.len())
        .filter(|i| decision.is_integer(*i) && matches!(graph.nodes[*i].op.quantization(), QuantRule::Dot { .. }))
        .collect()
}

/// Every value that exists quantized, with the value whose quantization it uses.
fn quantized_values(graph: &Graph, decision: &Decision) -> BTreeMap<ValueId, ValueId> {
    let mut leaders = BTreeMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let given: &[ValueId] = if decision.modes[i] == Mode::Integer { &node.outputs } else { &[] };
        let read = if decision.is_integer(i) { activations(graph, node) } else { vec![] };
        for id in given.iter().copied().chain(read) {
            leaders.insert(id, decision.leader(id));
        }
    }
    leaders
}

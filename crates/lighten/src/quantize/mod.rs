//! Quantization after training: lighter types for the values of a float network, chosen by what calibration data shows.
//!
//! The stages, each a file: which nodes compute on integers ([`decide`]), evener
//! channels ([`equalize`]), ranges of activations ([`range`]), scales and
//! integers of weights ([`weights`], [`feedback`]), and the typed graph ([`assign`]). None of them looks at labels.

mod assign;
mod decide;
mod equalize;
mod feedback;
mod layer;
mod matrix;
mod options;
mod range;
mod trial;
mod weights;

use std::collections::BTreeMap;

use qing_graph::{Element, Graph, NodeId, Quant, QuantRule, Tensor, ValueId};

pub(crate) use assign::Assigned;
pub(crate) use decide::Mode;
pub(crate) use equalize::equalize;
pub use options::{Bits, Override, QuantizeOptions, RangeMethod, matches};
pub(crate) use trial::{Rounded, Trial};

use crate::{
    LightenError, Progress,
    calibrate::{Moments, calibrate},
};
use decide::{Decision, activations, decide};

/// A quantized network and what a report needs to know of how it was made.
#[derive(Debug)]
pub(crate) struct Quantized {
    /// The typed graph and how it relates to the float graph.
    pub assigned: Assigned,
    /// How each node of the float graph computes now.
    pub modes: Vec<Mode>,
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
    let mut types: BTreeMap<ValueId, (Element, Quant)> = BTreeMap::new();
    for id in &values {
        types.insert(*id, range::activation(&statistics.histograms[id], bits.activation(*id), options.range)?);
    }
    let layer = |i: &NodeId| {
        let node = &graph.nodes[*i];
        let x = node.input(0).map(|x| decision.leader(x)).and_then(|x| types.get(&x));
        let x_scale = x.map_or(1.0, |(_, quant)| quant.scale(0));
        layer::quantize(graph, node, bits.weights[i], x_scale, statistics.moments.get(i), options)
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
    let assigned = assign::assign(graph, &decision, &types, &parameters)?;
    Ok(Quantized { assigned, modes: decision.modes.clone(), leaders })
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

/// Widths of all weights and activations.
struct Widths {
    weights: BTreeMap<NodeId, u8>,
    activations: BTreeMap<ValueId, u8>,
    default: u8,
}

impl Widths {
    fn new(graph: &Graph, decision: &Decision, dots: &[NodeId], options: &QuantizeOptions) -> Widths {
        let mut widths =
            Widths { weights: BTreeMap::new(), activations: BTreeMap::new(), default: options.bits.activations };
        for i in dots {
            let node = &graph.nodes[*i];
            let (mut bits, named) = options.bits_of(&node.name);
            let edge = dots.first() == Some(i) || dots.last() == Some(i);
            let x = node.input(0).map(|x| decision.leader(x));
            if let Some(least) = options.edge_bits
                && !named
            {
                if edge {
                    bits.weights = bits.weights.max(least);
                }
                if x.is_some_and(|x| graph.inputs.contains(&x)) {
                    bits.activations = bits.activations.max(least);
                }
            }
            widths.weights.insert(*i, bits.weights);
            if let Some(x) = x {
                // A value that several layers read has the width of the most demanding.
                let width = widths.activations.entry(x).or_insert(bits.activations);
                *width = (*width).max(bits.activations);
            }
        }
        widths
    }

    fn activation(&self, leader: ValueId) -> u8 {
        self.activations.get(&leader).copied().unwrap_or(self.default)
    }
}

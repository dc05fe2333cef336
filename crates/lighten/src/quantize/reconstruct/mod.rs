//! Reconstruction: block by block, roundings of weights, scales and biases are learned so that the block gives on few bits what it
//! gives in floating point, on data without labels.
//!
//! Which way a weight is rounded is learned as in AdaRound (arXiv:2004.10568), drawn to whole steps more and more; a block is what a
//! residual goes around (BRECQ, arXiv:2102.05426; [`blocks`]); scales are learned as in LSQ (arXiv:1902.08153); and what a block
//! reads is, value by value, from the network that is quantized so far or from the float network (QDrop, arXiv:2203.05740). A block
//! keeps its old numbers where the learned ones are no better.

mod blocks;
mod build;
mod cache;
mod learn;
mod rounding;

use std::sync::Arc;

use qing_engine::Pool;
use qing_graph::{Graph, NodeId, QuantRule, Tensor};

use self::{
    build::{Form, Network, build},
    cache::{Cache, Runner},
};
use super::{assign::Chosen, decide::Decision, options::Reconstruction};
use crate::{LightenError, Progress};

/// Learns the numbers of all blocks.
///
/// # Errors
/// If there is no data, the network has more than one input or output, or an op on the way has no gradient.
pub(super) fn reconstruct(
    graph: &Graph,
    decision: &Decision,
    batches: &[Vec<Tensor>],
    how: &Reconstruction,
    threads: usize,
    chosen: &mut Chosen,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), LightenError> {
    let dots: Vec<NodeId> = (0..graph.nodes.len())
        .filter(|i| decision.is_integer(*i) && matches!(graph.nodes[*i].op.quantization(), QuantRule::Dot { .. }))
        .collect();
    let blocks = blocks::blocks(graph, &dots, how.granularity)?;
    let pool = Arc::new(Pool::new(threads));
    let mut float = Cache::of(batches)?;
    let mut light = float.clone();
    let batch = how.batch.min(float.count);
    for (i, block) in blocks.iter().enumerate() {
        progress(Progress { stage: "reconstruct", done: i, total: blocks.len() });
        let shape = float.batch_shape(batch);
        let network = Network { graph, decision, chosen };
        let plain = build(network, block, &shape, Form::Float)?;
        let target = Runner::new(&plain.graph, &shape, &pool)?.run(&float)?;
        let rounded = |network: Network<'_>| -> Result<Cache, LightenError> {
            let built = build(network, block, &shape, Form::Rounded)?;
            Runner::new(&built.graph, &shape, &pool)?.run(&light)
        };
        let mut result = rounded(network)?;
        let before = result.error(&target);
        if before > 0.0 && block.nodes.clone().any(|i| dots.contains(&i)) {
            let mut candidate = chosen.clone();
            let data = learn::Data { float: &float, light: &light, target: &target };
            learn::learn(network, block, &shape, &data, how, (i, before), &pool, &mut candidate)?;
            let other = rounded(Network { chosen: &candidate, ..network })?;
            if other.error(&target) < before {
                *chosen = candidate;
                result = other;
            }
        }
        (float, light) = (target, result);
    }
    progress(Progress { stage: "reconstruct", done: blocks.len(), total: blocks.len() });
    Ok(())
}

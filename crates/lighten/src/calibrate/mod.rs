//! What the activations of a network look like on data: histograms for ranges, and statistics of the inputs of each layer
//! for rounding and bias correction.

mod histogram;
mod moments;
mod synthetic;

use std::collections::BTreeMap;

use qing_graph::{Graph, NodeId, Tensor, ValueId};

pub(crate) use histogram::Histogram;
pub(crate) use moments::{Moments, position as window_position};
pub use synthetic::synthetic;

use crate::{LightenError, Progress, run::Observer};

/// Statistics of a network over calibration data.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    /// Of every value asked for.
    pub histograms: BTreeMap<ValueId, Histogram>,
    /// Of the inputs of every layer asked for, by position of its node.
    pub moments: BTreeMap<NodeId, Moments>,
    /// How many samples were seen (first dimension of the first input).
    pub samples: usize,
}

/// Runs the network over all batches and gathers statistics of `values`, and of the inputs of `layers`.
///
/// # Errors
/// If a batch does not fit the network, or an op fails.
pub(crate) fn calibrate(
    graph: &Graph,
    batches: &[Vec<Tensor>],
    values: &[ValueId],
    layers: &[(NodeId, Moments)],
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Statistics, LightenError> {
    let mut wanted: Vec<ValueId> = values.to_vec();
    wanted.extend(layers.iter().filter_map(|(node, _)| graph.nodes[*node].input(0)));
    wanted.sort_unstable();
    wanted.dedup();
    let mut observer = Observer::new(graph, &wanted, threads);
    let mut statistics = Statistics {
        histograms: values.iter().map(|id| (*id, Histogram::default())).collect(),
        moments: layers.iter().cloned().collect(),
        samples: 0,
    };
    for (i, batch) in batches.iter().enumerate() {
        progress(Progress { stage: "calibrate", done: i, total: batches.len() });
        let seen = observer.run(batch)?;
        for (id, tensor) in wanted.iter().zip(&seen) {
            if let Some(histogram) = statistics.histograms.get_mut(id) {
                histogram.add(&tensor.to_f32s());
            }
        }
        for (node, moments) in &mut statistics.moments {
            let input = graph.nodes[*node].input(0).and_then(|id| wanted.binary_search(&id).ok());
            if let Some(tensor) = input.map(|at| &seen[at]) {
                moments.add(tensor)?;
            }
        }
        statistics.samples += batch.first().and_then(|t| t.shape().first().copied()).unwrap_or(1);
    }
    statistics.moments.values_mut().for_each(Moments::finish);
    progress(Progress { stage: "calibrate", done: batches.len(), total: batches.len() });
    Ok(statistics)
}

//! Statistics of normalizations anew, for a network that was rewired.

use qing_graph::{Graph, Tensor};

use super::watch::watch;
use crate::{TrainError, parameters::by_batch};

/// Gives every BatchNormalization the mean and the variance of what it reads when all of them normalize by their batch, averaged over
/// `batches`.
///
/// # Errors
/// If there are no batches, they do not fit the network, or statistics are no constants.
pub fn renormalize(graph: &mut Graph, batches: &[Vec<Tensor>]) -> Result<(), TrainError> {
    if batches.is_empty() {
        return Err(TrainError::invalid("statistics of normalizations need at least one batch of data"));
    }
    let mut watched = graph.clone();
    let statistics = by_batch(&mut watched)?;
    if statistics.is_empty() {
        return Ok(());
    }
    watched.outputs = statistics.iter().map(|s| s.batch).collect();
    watched.remove_dead_nodes();
    let mut sums: Vec<Vec<f64>> = statistics.iter().map(|s| vec![0.0; s.running.len()]).collect();
    watch(&watched, batches, |i, found| {
        sums[i].iter_mut().zip(found).for_each(|(sum, v)| *sum += f64::from(*v) / batches.len() as f64);
    })?;
    for (statistic, sum) in statistics.iter().zip(sums) {
        if let Some(id) = graph.find(&statistic.name) {
            graph.value_mut(id).constant =
                Some(Tensor::vector(sum.into_iter().map(|v| v as f32).collect::<Vec<f32>>()));
        }
    }
    Ok(())
}

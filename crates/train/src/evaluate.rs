//! How often a network is right, measured on the engine it will run on.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use qing_data::{Dataset, Feed};
use qing_engine::{Options, Plan, Pool, Session};
use qing_graph::{Graph, Tensor};

use crate::TrainError;

/// Batches prepared ahead.
const AHEAD: usize = 3;

/// What came of showing labelled samples to a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Samples shown.
    pub samples: usize,
    /// Samples whose class got the highest logit.
    pub correct: usize,
    /// Mean cross entropy.
    pub loss: f64,
    /// The class that got the highest logit, for each sample.
    pub classes: Vec<u32>,
}

impl Measured {
    /// Share of samples that were classified correctly.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples.max(1) as f64
    }
}

/// Shows all samples to a network whose first output are logits. Batches are prepared on another thread; the last is filled
/// up with samples that do not count.
///
/// # Errors
/// If a sample has no label or does not fit, or the network's output is not one row of logits for each sample.
pub fn measure(
    graph: &Graph,
    data: &Dataset,
    feed: &Feed,
    batch: usize,
    pool: &Arc<Pool>,
) -> Result<Measured, TrainError> {
    let fixed = graph.inputs.first().and_then(|id| graph.ty(*id).shape.as_ref()?.first()?.known());
    let batch = fixed.unwrap_or(batch.clamp(1, data.len().max(1)));
    let mut out = Measured { samples: 0, correct: 0, loss: 0.0, classes: Vec::with_capacity(data.len()) };
    let mut session: Option<Session> = None;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(AHEAD);
        scope.spawn(move || {
            for from in (0..data.len()).step_by(batch) {
                let prepared = prepare(data, feed, from, batch);
                let failed = prepared.is_err();
                if sender.send(prepared).is_err() || failed {
                    return;
                }
            }
        });
        for prepared in receiver {
            let (input, labels): (Tensor, Vec<usize>) = prepared?;
            if session.is_none() {
                let shapes = Some(vec![input.shape().to_vec()]);
                let options = Options { input_shapes: shapes, ..Options::threads(pool.threads()) };
                session = Some(Session::with_pool(Arc::new(Plan::new(graph, &options)?), pool.clone()));
            }
            let Some(session) = &mut session else { continue };
            let logits = session.run(&[input])?.swap_remove(0);
            if logits.shape().first() != Some(&batch) || logits.is_empty() {
                let shape = logits.shape();
                return Err(TrainError::invalid(format!("the network gives {shape:?} for {batch} samples")));
            }
            let logits_of = logits.to_f32s();
            for (row, label) in logits_of.chunks_exact(logits.len() / batch).zip(labels) {
                let class = best(row);
                let top = f64::from(row[class]);
                let sum: f64 = row.iter().map(|v| (f64::from(*v) - top).exp()).sum();
                out.loss += top + sum.ln() - f64::from(row.get(label).copied().unwrap_or(f32::NEG_INFINITY));
                out.samples += 1;
                out.correct += usize::from(class == label);
                out.classes.push(class as u32);
            }
        }
        Ok(())
    })?;
    out.loss /= out.samples.max(1) as f64;
    Ok(out)
}

/// The first of the greatest values.
pub(crate) fn best(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if *v > row[best] {
            best = i;
        }
    }
    best
}

fn prepare(data: &Dataset, feed: &Feed, from: usize, batch: usize) -> Result<(Tensor, Vec<usize>), TrainError> {
    let count = batch.min(data.len() - from);
    let (mut items, mut labels) = (Vec::with_capacity(batch), Vec::with_capacity(count));
    for i in from..from + count {
        items.push(data.item(i)?);
        let label = data.label(i);
        labels.push(label.ok_or_else(|| TrainError::invalid(format!("{}: sample {i} has no label", data.name())))?);
    }
    while items.len() < batch {
        items.push(items[0].clone());
    }
    Ok((feed.batch(items)?, labels))
}

//! How often a classifier is right.

use std::{sync::mpsc, thread, time::Instant};

use anyhow::{Result, bail};
use qing::{
    Graph, Tensor,
    data::{Dataset, Feed},
};

use crate::{progress::Progress, runner::Runner};

/// Batches prepared ahead of the network.
const AHEAD: usize = 4;

/// What came of showing a data set to a classifier.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Accuracy {
    /// Samples shown.
    pub samples: usize,
    /// Samples whose class was the best guess.
    pub top1: usize,
    /// Samples whose class was among the five best guesses.
    pub top5: usize,
    /// Classes the network tells apart.
    pub classes: usize,
    /// Time taken in all, with reading and preprocessing.
    pub seconds: f64,
}

impl Accuracy {
    /// Share of samples whose class was the best guess.
    pub(crate) fn top1(&self) -> f64 {
        self.top1 as f64 / self.samples.max(1) as f64
    }

    /// Share of samples whose class was among the five best guesses.
    pub(crate) fn top5(&self) -> f64 {
        self.top5 as f64 / self.samples.max(1) as f64
    }
}

/// How often each of some networks is right, on the same samples.
pub(crate) fn top1_of(
    graphs: &[&Graph],
    data: &Dataset,
    feed: &Feed,
    batch: usize,
    threads: usize,
) -> Result<Vec<f64>> {
    let one = |graph: &&Graph| Ok(measure(&mut Runner::new(graph, threads), data, feed, batch, "evaluate")?.top1());
    graphs.iter().map(one).collect()
}

/// Shows all samples to the network, reading and preprocessing on another thread.
pub(crate) fn measure(runner: &mut Runner, data: &Dataset, feed: &Feed, batch: usize, what: &str) -> Result<Accuracy> {
    if data.label(0).is_none() {
        bail!("{}: there are no labels to compare with", data.name());
    }
    let fixed = runner.fixed_batch();
    let batch = fixed.unwrap_or(batch.max(1));
    let start = Instant::now();
    let mut progress = Progress::new(what, data.len());
    let mut out = Accuracy::default();
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(AHEAD);
        scope.spawn(move || {
            for from in (0..data.len()).step_by(batch) {
                let prepared = prepare(data, feed, from, batch, fixed.is_some());
                let failed = prepared.is_err();
                if sender.send(prepared).is_err() || failed {
                    return;
                }
            }
        });
        for prepared in receiver {
            let (input, labels): (Tensor, Vec<Option<usize>>) = prepared?;
            let scores = runner.run(&[input])?.swap_remove(0);
            let rows = scores.shape().first().copied().unwrap_or(0);
            if rows < labels.len() || scores.is_empty() {
                bail!("the network's first output is {:?}; a classifier gives one row for each sample", scores.shape());
            }
            out.classes = scores.len() / rows;
            for (row, label) in scores.to_f32s().chunks(out.classes).zip(labels) {
                let Some(label) = label else { bail!("{}: a sample has no label", data.name()) };
                if label >= out.classes {
                    bail!("{}: class {label}, but the network tells {} classes apart", data.name(), out.classes);
                }
                let rank = rank(row, label);
                out.samples += 1;
                out.top1 += usize::from(rank == 0);
                out.top5 += usize::from(rank < 5);
            }
            progress.set(out.samples);
        }
        Ok(())
    })?;
    out.seconds = start.elapsed().as_secs_f64();
    Ok(out)
}

/// A batch with its labels. `fill`: the last batch is filled up with its last sample.
fn prepare(data: &Dataset, feed: &Feed, from: usize, batch: usize, fill: bool) -> Result<(Tensor, Vec<Option<usize>>)> {
    let to = (from + batch).min(data.len());
    let mut items = (from..to).map(|i| data.item(i)).collect::<Result<Vec<_>, _>>()?;
    while fill && items.len() < batch {
        items.push(data.item(to - 1)?);
    }
    Ok((feed.batch(items)?, (from..to).map(|i| data.label(i)).collect()))
}

/// How many classes the network prefers to `label`; of equal scores the first counts as better.
fn rank(scores: &[f32], label: usize) -> usize {
    let own = scores[label];
    scores.iter().enumerate().filter(|(i, s)| **s > own || (**s == own && *i < label) || s.is_nan()).count()
}

/// Classes from the best to the worst, with their scores.
pub(crate) fn best(scores: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.into_iter().take(count).map(|i| (i, scores[i])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let scores = [0.1, 0.7, 0.7, f32::NAN];
        assert_eq!(rank(&scores[..3], 1), 0);
        assert_eq!(rank(&scores[..3], 2), 1);
        assert_eq!(rank(&scores, 1), 1);
        assert_eq!(best(&scores[..3], 2), [(1, 0.7), (2, 0.7)]);
    }
}

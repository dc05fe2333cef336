//! What became of every layer: how its numbers changed, what it costs and what it loses.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use qing_engine::{Options, Plan, Session};
use qing_graph::{Graph, Node, Quant, QuantRule, Tensor, ValueId, passes};
use serde::Serialize;

use super::{bound, layers};
use crate::{
    LightenError, Progress,
    compare::{Comparison, compare_seen},
    factorize::effective_rank,
};

/// Bins of a histogram.
const BINS: usize = 48;
/// How long the lighter network is timed.
const TIMED: Duration = Duration::from_millis(600);

/// How often values lie where, before and after.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Histogram {
    /// Where the first bin begins.
    pub from: f32,
    /// Where the last bin ends; values outside count in the first or last bin.
    pub to: f32,
    /// Counts of the network as it came.
    pub before: Vec<u64>,
    /// Counts of the lighter network.
    pub after: Vec<u64>,
}

impl Histogram {
    /// An empty one over the range of some values; `None` if they have none.
    fn over(values: &[f32]) -> Option<Histogram> {
        let finite = values.iter().copied().filter(|v| v.is_finite());
        let (from, to) = finite.fold((f32::MAX, f32::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)));
        if from > to {
            return None;
        }
        let margin = ((to - from) * 0.02).max(1e-6);
        let empty = vec![0; BINS];
        Some(Histogram { from: from - margin, to: to + margin, before: empty.clone(), after: empty })
    }

    fn bin(&self, v: f32) -> usize {
        let at = (v - self.from) / (self.to - self.from) * BINS as f32;
        if at.is_nan() { 0 } else { (at.max(0.0) as usize).min(BINS - 1) }
    }

    fn add(&mut self, before: &[f32], after: &[f32]) {
        for v in before {
            let bin = self.bin(*v);
            self.before[bin] += 1;
        }
        for v in after {
            let bin = self.bin(*v);
            self.after[bin] += 1;
        }
    }
}

/// A layer with weights of the lighter network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerStudy {
    /// Name of its node.
    pub name: String,
    /// Name of its op.
    pub op: String,
    /// Bits of its weights and of the activations it reads.
    pub bits: [u8; 2],
    /// Share of its weights that are zero.
    pub sparsity: f64,
    /// Singular values of its weights as they came that hold 99 % of their power, and how many there are; absent for large layers.
    pub rank: Option<[usize; 2]>,
    /// Power of its result over the power of what has been added to it up to here, in decibels; absent if it was not matched.
    pub snr_db: Option<f64>,
    /// Bytes of its parameters.
    pub bytes: f64,
    /// Share of the bytes of all layers.
    pub size_share: f64,
    /// Median time of a run in milliseconds, with what is fused into it.
    pub milliseconds: f64,
    /// Share of the time of a run.
    pub time_share: f64,
    /// What it adds to the relative power of the error, as a share of what all layers add.
    pub error_share: f64,
    /// Its weights; absent if they were not matched.
    pub weights: Option<Histogram>,
    /// Its result, behind its activation function.
    pub activations: Option<Histogram>,
}

/// A network and what was made of it, looked at side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Study {
    /// The layers of the lighter network, in order.
    pub layers: Vec<LayerStudy>,
    /// Milliseconds of one run of the lighter network, all of it, on one sample.
    pub milliseconds: f64,
    /// Milliseconds of nodes that are no layers with weights, by op, the longest first.
    pub other_time: Vec<(String, f64)>,
    /// Value by value.
    pub comparison: Comparison,
}

/// Looks at the network as it came and the lighter one on the same batches; each has one tensor for every input, and both take
/// the same.
///
/// # Errors
/// If there is no batch, or a network cannot be run on them.
pub fn study(
    before: &Graph,
    after: &Graph,
    batches: &[Vec<Tensor>],
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Study, LightenError> {
    let mut before = before.clone();
    passes::normalize(&mut before)?;
    let both: Vec<_> = batches.iter().map(|b| (b.clone(), b.clone())).collect();
    let mut seen: BTreeMap<String, Histogram> = BTreeMap::new();
    let comparison = compare_seen(&before, after, &both, threads, progress, &mut |node, x, y| {
        if !seen.contains_key(node)
            && let Some(histogram) = Histogram::over(x)
        {
            seen.insert(node.into(), histogram);
        }
        if let Some(histogram) = seen.get_mut(node) {
            histogram.add(x, y);
        }
    })?;
    let times = times(after, &batches[0], threads)?;
    let total: f64 = times.values().sum();
    let costs = layers(after, batches.first().map(Vec::as_slice));
    let bytes: f64 = costs.iter().map(|l| l.weight_bytes).sum();
    let added: f64 = comparison.pairs.iter().map(|p| p.added.max(0.0)).filter(|a| a.is_finite()).sum();
    let found: BTreeMap<&str, _> = comparison.pairs.iter().map(|p| (p.b_node.as_str(), p)).collect();
    let node = |graph: &'_ Graph, name: &str| graph.nodes.iter().find(|n| n.name == name).cloned();
    let mut made = vec![];
    for cost in &costs {
        let pair = found.get(cost.name.as_str());
        let new = node(after, &cost.name).and_then(|n| weights(after, &n));
        let old = pair.and_then(|p| node(&before, &p.a_node)).and_then(|n| weights(&before, &n));
        let sparsity =
            new.as_ref().map_or(0.0, |(w, _)| w.iter().filter(|v| **v == 0.0).count() as f64 / w.len().max(1) as f64);
        let rank = old.as_ref().and_then(|(w, rows)| effective_rank(w, *rows));
        let histogram = old.as_ref().zip(new.as_ref()).and_then(|((old, _), (new, _))| {
            let mut histogram = Histogram::over(old)?;
            histogram.add(old, new);
            Some(histogram)
        });
        let milliseconds = times.get(&cost.name).copied().unwrap_or(0.0);
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        made.push(LayerStudy {
            name: cost.name.clone(),
            op: cost.op.clone(),
            bits: [cost.weight_bits, cost.activation_bits],
            sparsity,
            rank,
            snr_db: pair.and_then(|p| p.snr_db),
            bytes: cost.weight_bytes,
            size_share: share(cost.weight_bytes, bytes),
            milliseconds,
            time_share: share(milliseconds, total),
            error_share: pair.map_or(0.0, |p| share(p.added.max(0.0), added)),
            weights: histogram,
            activations: pair.and_then(|p| seen.get(&p.a_node)).cloned(),
        });
    }
    let mut other: BTreeMap<String, f64> = BTreeMap::new();
    for (name, time) in &times {
        if !costs.iter().any(|c| c.name == *name) {
            let op = after.nodes.iter().find(|n| n.name == *name).map_or("layout", |n| n.op.name());
            *other.entry(op.into()).or_default() += time;
        }
    }
    let mut other_time: Vec<(String, f64)> = other.into_iter().collect();
    other_time.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(Study { layers: made, milliseconds: total, other_time, comparison })
}

/// The weights of a layer as reals, and how many rows they have as a matrix.
fn weights(graph: &Graph, node: &Node) -> Option<(Vec<f32>, usize)> {
    let QuantRule::Dot { weight, axis, .. } = node.op.quantization() else { return None };
    let id: ValueId = node.input(weight)?;
    let tensor = graph.constant(id)?;
    let reals: Vec<f32> = match graph.ty(id).quant.as_deref() {
        Some(quant) => dequantized(tensor, quant),
        None => tensor.to_f32s(),
    };
    // Channels of a convolution are rows; a matrix product has them in columns, which changes no singular value.
    let rows = if axis == 0 { tensor.shape().first() } else { tensor.shape().last() };
    let rows = if axis == 0 { rows.copied()? } else { reals.len() / rows.copied()?.max(1) };
    Some((reals, rows.max(1)))
}

fn dequantized(tensor: &Tensor, quant: &Quant) -> Vec<f32> {
    let slice = |i: usize| if quant.scales().len() == 1 { 0 } else { quant.slice_of(tensor.shape(), i) };
    let real = |(i, q): (usize, i32)| (q - quant.zero(slice(i))) as f32 * quant.scale(slice(i));
    tensor.to_ints().into_iter().enumerate().map(real).collect()
}

/// Median milliseconds of every step of a run on one sample, by the name of its node.
fn times(graph: &Graph, batch: &[Tensor], threads: usize) -> Result<BTreeMap<String, f64>, LightenError> {
    let open = |id: &ValueId| graph.ty(*id).shape.as_ref().and_then(|s| s.first()?.known()).is_none();
    let first = |t: &Tensor| -> Option<Tensor> {
        let (rows, shape) = (*t.shape().first()?, [&[1][..], t.shape().get(1..)?].concat());
        t.take(&shape, 0..t.len() / rows.max(1)).ok()
    };
    let sample: Vec<Tensor> = graph
        .inputs
        .iter()
        .zip(batch)
        .map(|(id, t)| if open(id) { first(t).unwrap_or_else(|| t.clone()) } else { t.clone() })
        .collect();
    let shapes = sample.iter().map(|t| t.shape().to_vec()).collect();
    let options = Options { input_shapes: Some(shapes), ..Options::threads(threads) };
    let plan = Arc::new(Plan::new(&bound(graph, Some(&sample)), &options)?);
    let names: Vec<String> = plan.layers().into_iter().map(|l| l.node).collect();
    let mut session = Session::new(plan);
    session.run(&sample)?;
    let mut runs: Vec<Vec<f64>> = vec![vec![]; names.len()];
    let begin = Instant::now();
    let mut done = 0;
    while done < 3 || (done < 60 && begin.elapsed() < TIMED) {
        let mut instants = vec![];
        session.run_watched(&mut |_| instants.push(Instant::now()))?;
        for (run, pair) in runs.iter_mut().zip(instants.windows(2)) {
            run.push((pair[1] - pair[0]).as_secs_f64() * 1e3);
        }
        done += 1;
    }
    let mut times: BTreeMap<String, f64> = BTreeMap::new();
    for (name, mut run) in names.into_iter().zip(runs) {
        run.sort_by(f64::total_cmp);
        *times.entry(name).or_default() += run.get(run.len() / 2).copied().unwrap_or(0.0);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_keep_every_value() {
        let mut h = Histogram::over(&[-1.0, 0.0, 1.0]).expect("a range");
        h.add(&[-1.0, 0.0, 1.0], &[-5.0, 5.0, f32::NAN]);
        assert_eq!((h.before.iter().sum::<u64>(), h.after.iter().sum::<u64>()), (3, 3));
        assert_eq!((h.after[0], h.after[BINS - 1]), (2, 1));
        assert!(Histogram::over(&[f32::NAN]).is_none());
    }
}

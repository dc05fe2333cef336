//! What few bits cost the matrix products that read a value, measured on some of its rows: what smoothing and rotation are
//! judged by, value by value, before the whole network is.

use std::collections::BTreeMap;

use qing_graph::{Graph, NodeId, Tensor, ValueId};

use super::{
    decide::{Decision, decide},
    dense::{Matrix, matrix},
    dots,
    matrix::Rows,
    options::QuantizeOptions,
    range,
    weights::{nearest, scales},
    widths::Widths,
};
use crate::{LightenError, calibrate::Histogram, run::Observer};

/// Rows of a value that errors are measured on, about.
const ROWS: usize = 96;
/// Output channels of a layer that errors are measured on, at most.
const COLUMNS: usize = 48;

/// Some rows of a value, and how large its channels get in all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Row-major.
    rows: Vec<f64>,
    /// Largest magnitude of every channel.
    pub peaks: Vec<f64>,
}

/// Samples of values whose last axis holds their channels.
///
/// # Errors
/// If the network cannot be run on the batches.
pub(super) fn sample(
    graph: &Graph,
    values: &[(ValueId, usize)],
    batches: &[Vec<Tensor>],
    threads: usize,
) -> Result<BTreeMap<ValueId, Sample>, LightenError> {
    let mut samples = BTreeMap::new();
    if values.is_empty() {
        return Ok(samples);
    }
    let ids: Vec<ValueId> = values.iter().map(|v| v.0).collect();
    let mut observer = Observer::new(graph, &ids, threads);
    let per_batch = ROWS.div_ceil(batches.len().max(1));
    for batch in batches {
        for ((id, channels), tensor) in values.iter().zip(observer.run(batch)?) {
            let sample: &mut Sample = samples.entry(*id).or_default();
            sample.peaks.resize(*channels, 0.0);
            let all = tensor.to_f32s();
            let step = (all.len() / channels).div_ceil(per_batch).max(1);
            for (i, row) in all.chunks_exact(*channels).enumerate() {
                for (peak, v) in sample.peaks.iter_mut().zip(row) {
                    *peak = peak.max(f64::from(v.abs()));
                }
                if i % step == 0 {
                    sample.rows.extend(row.iter().map(|v| f64::from(*v)));
                }
            }
        }
    }
    Ok(samples)
}

/// A network whose values are measured at the widths they would have.
pub(super) struct Trials<'a> {
    graph: &'a Graph,
    pub decision: Decision,
    widths: Widths,
    options: &'a QuantizeOptions,
}

impl<'a> Trials<'a> {
    pub(super) fn new(graph: &'a Graph, options: &'a QuantizeOptions) -> Trials<'a> {
        let decision = decide(graph, options);
        let widths = Widths::new(graph, &decision, &dots(graph, &decision), options);
        Trials { graph, decision, widths, options }
    }

    /// A value and those of `layers`, which read it, that compute on integers.
    pub(super) fn probe<'s>(&'s self, value: ValueId, layers: &[NodeId], sample: &'s Sample) -> Probe<'s> {
        let leader = self.decision.leader(value);
        let reader = |node: &NodeId| {
            let weight_bits = *self.widths.weights.get(node)?;
            let activation_bits = self.widths.narrow.get(node).copied().unwrap_or(self.widths.activation(leader));
            let columns = columns(&matrix(self.graph, &self.graph.nodes[*node])?);
            Some(Reader { columns, weight_bits, activation_bits })
        };
        Probe { sample, readers: layers.iter().filter_map(reader).collect(), options: self.options }
    }
}

/// What is gained where an error falls from `before` to `after`.
pub(super) fn decibels(before: f64, after: f64) -> f64 {
    10.0 * (before / after.max(f64::MIN_POSITIVE)).max(f64::MIN_POSITIVE).log10()
}

/// A layer that reads the value.
struct Reader {
    columns: Rows,
    weight_bits: u8,
    activation_bits: u8,
}

/// A value and the layers that read it.
pub(super) struct Probe<'a> {
    sample: &'a Sample,
    readers: Vec<Reader>,
    options: &'a QuantizeOptions,
}

impl Probe<'_> {
    /// Power of the error over that of the result, of all layers together, where `rows` changes what they read and `weights` the
    /// weights of each output channel to make up for that, but for a constant.
    ///
    /// # Errors
    /// If a width is not one of 1–8 bits.
    pub(super) fn error(&self, rows: &dyn Fn(&mut [f64]), weights: &dyn Fn(&mut [f64])) -> Result<f64, LightenError> {
        let channels = self.sample.peaks.len().max(1);
        let mut read = self.sample.rows.clone();
        read.chunks_exact_mut(channels).for_each(rows);
        let mut histogram = Histogram::default();
        histogram.add(&read.iter().map(|v| *v as f32).collect::<Vec<_>>());
        let mut total = 0.0;
        for reader in &self.readers {
            let (_, quant) = range::activation(&histogram, reader.activation_bits, self.options.range)?;
            let (scale, zero) = (f64::from(quant.scale(0)), f64::from(quant.zero(0)));
            let top = f64::from((1u32 << reader.activation_bits) - 1);
            let rounded: Vec<f64> = read
                .iter()
                .map(|v| ((v / scale).round_ties_even() + zero).clamp(0.0, top))
                .map(|q| (q - zero) * scale)
                .collect();
            let mut changed = reader.columns.clone();
            changed.values.chunks_exact_mut(channels).for_each(weights);
            let chosen = scales(&changed, reader.weight_bits, self.options.per_channel, |_| vec![]);
            let ints = nearest(&changed, reader.weight_bits, chosen);
            let (mut signal, mut noise) = (0.0, 0.0);
            for j in 0..changed.count {
                let s = f64::from(ints.scale(j));
                let q: Vec<f64> =
                    ints.ints[j * channels..(j + 1) * channels].iter().map(|q| f64::from(*q) * s).collect();
                let all = self.sample.rows.chunks_exact(channels).zip(read.chunks_exact(channels));
                for ((x, now), light) in all.zip(rounded.chunks_exact(channels)) {
                    let (want, got) = (dot(now, changed.row(j)), dot(light, &q));
                    signal += dot(x, reader.columns.row(j)).powi(2);
                    noise += (want - got) * (want - got);
                }
            }
            if signal > 0.0 {
                total += noise / signal;
            }
        }
        Ok(total)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Some output channels of a layer, evenly spread.
fn columns(matrix: &Matrix) -> Rows {
    let step = matrix.outputs.div_ceil(COLUMNS).max(1);
    let chosen: Vec<usize> = (0..matrix.outputs).step_by(step).collect();
    Rows { count: chosen.len(), values: chosen.iter().flat_map(|j| matrix.column(*j)).collect() }
}

//! How much each layer's widths disturb the network: each layer alone at each width, measured at the network's output.
//!
//! The disturbance is the mean Kullback–Leibler divergence between what both networks say where the first output is a
//! row of class scores (as in ZeroQ, Cai et al., arXiv:2001.00281), else the power of the error over that of the signal.
//! Disturbances of different layers add up, to first order, which is what makes the choice among them a knapsack.

use qing_graph::{Graph, Tensor};

use crate::{
    Bits, LightenError, Progress, QuantizeOptions,
    quantize::{Rounded, Trial},
    run::Observer,
};

/// What one layer's widths do.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensitivity {
    /// Name of the layer's node.
    pub layer: String,
    /// For every pair of widths that was tried, the disturbance of the output; never more for more bits.
    pub errors: Vec<f64>,
}

/// Measures every layer of a float network, whose constants are folded, at every pair of widths. Ranges come from `calibration`,
/// disturbances are measured on `probes`.
///
/// # Errors
/// If the batches do not fit the network, or an op fails.
pub fn sensitivity(
    graph: &Graph,
    calibration: &[Vec<Tensor>],
    probes: &[Vec<Tensor>],
    candidates: &[Bits],
    options: &QuantizeOptions,
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Sensitivity>, LightenError> {
    let trial = Trial::new(graph, calibration, options, threads, progress)?;
    let expected = outputs(graph, probes, threads)?;
    let total = trial.layers().len() * candidates.len();
    let mut found = vec![];
    for (i, at) in trial.layers().iter().enumerate() {
        let mut rounded: Vec<(u8, Rounded)> = vec![];
        let mut errors = vec![];
        for bits in candidates {
            progress(Progress { stage: "sensitivity", done: i * candidates.len() + errors.len(), total });
            if !rounded.iter().any(|(w, _)| *w == bits.weights) {
                rounded.push((bits.weights, trial.round(i, bits.weights)?));
            }
            let weights = rounded.iter().find(|(w, _)| *w == bits.weights).map(|(_, r)| r);
            let Some(weights) = weights else { continue };
            let lighter = trial.with(i, weights, *bits)?;
            errors.push(apart(&expected, &outputs(&lighter, probes, threads)?));
        }
        monotone(candidates, &mut errors);
        found.push(Sensitivity { layer: graph.nodes[*at].name.clone(), errors });
    }
    progress(Progress { stage: "sensitivity", done: total, total });
    Ok(found)
}

/// What more bits lose is noise of the measurement: at most what fewer bits of both lose.
fn monotone(candidates: &[Bits], errors: &mut [f64]) {
    let original = errors.to_vec();
    for (i, a) in candidates.iter().enumerate() {
        for (j, b) in candidates.iter().enumerate() {
            if b.weights <= a.weights && b.activations <= a.activations {
                errors[i] = errors[i].min(original[j]);
            }
        }
    }
}

/// The first output for every batch.
fn outputs(graph: &Graph, batches: &[Vec<Tensor>], threads: usize) -> Result<Vec<Tensor>, LightenError> {
    let Some(first) = graph.outputs.first() else {
        return Err(LightenError::Option("the network has no output".into()));
    };
    let mut observer = Observer::new(graph, &[*first], threads);
    batches.iter().map(|batch| Ok(observer.run(batch)?.swap_remove(0))).collect()
}

/// How far `other` is from `wanted`, both the same batches.
fn apart(wanted: &[Tensor], other: &[Tensor]) -> f64 {
    let classes = wanted.first().map_or(0, |t| if t.rank() == 2 { t.shape()[1] } else { 0 });
    let (mut divergence, mut rows) = (0.0, 0usize);
    let (mut error, mut signal) = (0.0, 0.0);
    for (a, b) in wanted.iter().zip(other) {
        let (a, b) = (a.to_f32s(), b.to_f32s());
        if classes > 1 {
            for (a, b) in a.chunks_exact(classes).zip(b.chunks_exact(classes)) {
                divergence += kullback_leibler(a, b);
                rows += 1;
            }
        } else {
            for (a, b) in a.iter().zip(&b) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                error += (a - b) * (a - b);
                signal += a * a;
            }
        }
    }
    let apart = if classes > 1 { divergence / rows.max(1) as f64 } else { error / f64::max(signal, f64::MIN_POSITIVE) };
    if apart.is_finite() { apart.max(0.0) } else { f64::MAX.sqrt() }
}

/// Divergence of the distributions that two rows of scores stand for: probabilities as they are, else by softmax.
fn kullback_leibler(wanted: &[f32], other: &[f32]) -> f64 {
    let sum: f32 = wanted.iter().sum();
    let probabilities = (sum - 1.0).abs() < 1e-3 && wanted.iter().all(|v| *v >= 0.0);
    let log = |row: &[f32]| -> Vec<f64> {
        if probabilities {
            return row.iter().map(|v| f64::from(*v).max(1e-9).ln()).collect();
        }
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|v| f64::from(*v - top).exp()).sum();
        row.iter().map(|v| f64::from(*v - top) - total.ln()).collect()
    };
    log(wanted).iter().zip(log(other)).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_scores_and_of_probabilities() {
        assert!(kullback_leibler(&[1.0, 2.0, 3.0], &[2.0, 3.0, 4.0]).abs() < 1e-12);
        let d = kullback_leibler(&[0.5, 0.5], &[0.25, 0.75]);
        assert!((d - (0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln())).abs() < 1e-6, "{d}");
        assert!(kullback_leibler(&[0.0, 9.0], &[9.0, 0.0]) > 5.0);
    }

    #[test]
    fn more_bits_never_count_as_worse() {
        let bits = |w, a| Bits { weights: w, activations: a };
        let candidates = [bits(8, 8), bits(4, 8), bits(4, 4)];
        let mut errors = vec![0.2, 0.1, 0.3];
        monotone(&candidates, &mut errors);
        assert_eq!(errors, [0.1, 0.1, 0.3]);
    }

    #[test]
    fn images_are_compared_by_power() {
        let t = |v: [f32; 4]| vec![Tensor::new(&[1, 1, 2, 2], v.to_vec()).unwrap()];
        assert!((apart(&t([1.0, 1.0, 1.0, 1.0]), &t([1.0, 1.0, 1.0, 2.0])) - 0.25).abs() < 1e-9);
        assert!(apart(&t([1.0; 4]), &t([f32::NAN; 4])) > 1e100);
    }
}

//! Scales to begin with: those with the least squared error, for weights from their values, for activations from what the
//! float network computes on some batches.

use qing_graph::{Element, Graph, Tensor};

use super::{outline::Outline, outline::Quantizer, watch::watch};
use crate::TrainError;

/// Values kept of a quantizer's input, at most; more would not move the scale.
const SAMPLES: usize = 20_000;
/// Scales tried between a sixteenth of the one that clips nothing and that one.
const TRIALS: i32 = 64;

/// How far from zero values have a gradient where one bit says their sign, in root mean squares.
const SIGN_REACH: f32 = 0.75;
/// The scale of such values as a share of that: half of it counts as zero.
const SIGN_SCALE: f32 = 1.0 / 64.0;

/// The scale with the least squared error for integers `lo ..= hi`; 1 where all values are zero.
pub(super) fn best(values: &[f32], (lo, hi): (i32, i32)) -> f32 {
    let (lo, hi) = (lo as f32, hi as f32);
    let peak = values.iter().fold(0f32, |m, v| {
        let reach = if *v < 0.0 { if lo < 0.0 { v / lo } else { 0.0 } } else { v / hi };
        if reach.is_finite() { m.max(reach) } else { m }
    });
    if peak < f32::MIN_POSITIVE * 1e6 {
        return 1.0;
    }
    let error = |scale: f32| {
        let one = |v: &f32| f64::from((v / scale).clamp(lo, hi).round_ties_even() * scale - v).powi(2);
        values.iter().map(one).sum::<f64>()
    };
    let mut found = (f64::INFINITY, peak);
    for i in 0..=TRIALS {
        let scale = peak * (-4.0 * i as f32 / TRIALS as f32).exp2();
        let e = error(scale);
        if e < found.0 {
            found = (e, scale);
        }
    }
    found.1
}

/// Gives the quantizers of a network scale, element and zero point, from what it computes on `batches`.
///
/// # Errors
/// If there are no batches or they do not fit the network.
pub(super) fn calibrate(graph: &Graph, outline: &mut Outline, batches: &[Vec<Tensor>]) -> Result<(), TrainError> {
    if batches.is_empty() {
        return Err(TrainError::invalid("quantization needs at least one batch of data to calibrate on"));
    }
    let mut values: Vec<Vec<f32>> = vec![vec![]; outline.quantizers.len()];
    let mut watched = graph.clone();
    watched.outputs = outline.quantizers.iter().map(|q| q.leader).collect();
    watch(&watched, batches, |i, found| {
        let step = (found.len() * batches.len()).div_ceil(SAMPLES) | 1;
        values[i].extend(found.iter().step_by(step));
    })?;
    for (quantizer, values) in outline.quantizers.iter_mut().zip(&values) {
        set(quantizer, values)?;
    }
    Ok(())
}

fn set(quantizer: &mut Quantizer, values: &[f32]) -> Result<(), TrainError> {
    let (least, most) = values.iter().fold((0f32, 0f32), |(a, b), v| (a.min(*v), b.max(*v)));
    let element = |signed| {
        let bits = quantizer.bits;
        Element::integer(bits, signed).ok_or_else(|| TrainError::invalid(format!("{bits} bits; widths go from 1 to 8")))
    };
    if quantizer.input {
        // The network's data: all of its range, which need not lie around zero.
        quantizer.element = element(false)?;
        let levels = ((1u32 << quantizer.bits) - 1) as f32;
        let scale = (most - least) / levels;
        quantizer.scale = if scale > f32::MIN_POSITIVE { scale } else { 1.0 };
        quantizer.zero = (-least / quantizer.scale).round_ties_even() as i32;
        return Ok(());
    }
    // One bit of what lies on both sides of zero is on which, and of anything else whether it is large.
    if least < 0.0 && quantizer.bits == 1 {
        let size = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt() as f32;
        let reach = if size.is_finite() && size > f32::MIN_POSITIVE * 1e6 { SIGN_REACH * size } else { 1.0 };
        (quantizer.element, quantizer.scale, quantizer.signs) = (element(false)?, reach * SIGN_SCALE, Some(reach));
        return Ok(());
    }
    let signed = least < 0.0;
    quantizer.element = element(signed)?;
    quantizer.scale = best(values, quantizer.range());
    Ok(())
}

/// Least and largest integer of weights of a width: symmetric; −1 and 1 for one bit.
pub(super) fn weight_range(bits: u8) -> (i32, i32) {
    let hi = if bits <= 1 { 1 } else { (1 << (bits - 1)) - 1 };
    (-hi, hi)
}

/// A scale for each slice of `axis` of weights of `shape`.
pub(super) fn of_weights(weights: &[f32], shape: &[usize], axis: usize, bits: u8) -> Vec<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let mut slices: Vec<Vec<f32>> = vec![vec![]; shape[axis]];
    for (i, w) in weights.iter().enumerate() {
        slices[i / inner.max(1) % shape[axis]].push(*w);
    }
    slices
        .iter()
        .map(|slice| match bits {
            1 => {
                let mean = slice.iter().map(|w| w.abs()).sum::<f32>() / slice.len().max(1) as f32;
                if mean > f32::MIN_POSITIVE { mean } else { 1.0 }
            }
            _ => best(slice, weight_range(bits)),
        })
        .collect()
}

/// Weights of so many bits and more have the scale that clips none of them: their loss says next to nothing of it, and what is learned from noise
/// drifts until few levels are left.
const UNLEARNED: u8 = 6;
/// The least a scale of fewer bits may become, as a share of the one at which the mean of the magnitudes is the last level. Below, nearly all weights are
/// clipped, and where a normalization follows no gradient leads back.
const LEAST_SHARE: f32 = 0.5;
/// The least a scale may become.
pub(super) const LEAST: f32 = f32::MIN_POSITIVE * 1e9;

/// Brings scales of `weights` of `shape`, one for each slice of `axis`, back to what they may be.
pub(super) fn limit(scales: &mut [f32], weights: &[f32], shape: &[usize], axis: usize, bits: u8) {
    let last = weight_range(bits).1 as f32;
    let inner: usize = shape[axis + 1..].iter().product();
    let count = (weights.len() / scales.len().max(1)).max(1) as f32;
    // The largest magnitude of each slice, and their sum.
    let mut sizes = vec![(0f32, 0f32); scales.len()];
    for (i, w) in weights.iter().enumerate() {
        let (most, sum) = &mut sizes[i / inner.max(1) % shape[axis]];
        *most = most.max(w.abs());
        *sum += w.abs();
    }
    for (scale, (most, sum)) in scales.iter_mut().zip(sizes) {
        *scale = match bits {
            1 => *scale,
            UNLEARNED.. => most / last,
            _ => scale.max(LEAST_SHARE * (sum / count) / last),
        }
        .max(LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_minimize_the_error() {
        // Exactly representable values are found again, up to the grid of trials.
        let values: Vec<f32> = (-7..=7).map(|i| i as f32 * 0.25).collect();
        assert_eq!(best(&values, (-7, 7)), 0.25);
        // One outlier among many is clipped.
        let mut values: Vec<f32> = (0..1000).map(|i| (i % 16) as f32).collect();
        values.push(30.0);
        assert!(best(&values, (0, 15)) < 1.5);
        assert_eq!(best(&[0.0; 5], (0, 15)), 1.0);
        assert_eq!(best(&[-3.0, -1.0], (0, 15)), 1.0);
    }

    #[test]
    fn every_channel_has_its_own() {
        let weights = [1.0, -1.0, 0.5, 4.0, -4.0, 4.0];
        assert_eq!(of_weights(&weights, &[2, 3], 0, 8), [1.0 / 127.0, 4.0 / 127.0]);
        assert_eq!(of_weights(&weights, &[3, 2], 1, 1), [5.5 / 3.0, 9.0 / 3.0]);
        assert_eq!(of_weights(&[0.0; 2], &[1, 2], 0, 1), [1.0]);
    }

    #[test]
    fn scales_of_weights_stay_where_levels_are() {
        // Two channels along the last axis: magnitudes up to 2.54 with a mean of 1.27, and zeros.
        let weights = [2.54, 0.0, -1.27, 0.0, 0.0, 0.0];
        let limited = |scale: f32, bits: u8| {
            let mut scales = [scale; 2];
            limit(&mut scales, &weights, &[3, 2], 1, bits);
            scales
        };
        // Eight bits follow their weights, wherever training took them.
        for scale in [-1.0, 1e-30, 0.02, 0.6] {
            assert_eq!(limited(scale, 8), [0.02, LEAST]);
        }
        // Fewer are learned, down to where nearly everything is clipped.
        assert_eq!(limited(1.5, 2), [1.5; 2]);
        assert_eq!(limited(-0.1, 2), [0.635, LEAST]);
        assert_eq!(limited(0.0, 3), [0.635 / 3.0, LEAST]);
        // Of signs it is their size.
        assert_eq!(limited(0.1, 1), [0.1; 2]);
        assert_eq!(limited(-0.1, 1), [LEAST; 2]);
    }
}

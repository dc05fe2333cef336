//! Bit-split and stitching (Wang et al., ICML 2020: Towards Accurate Post-training Network Quantization via Bit-Split and
//! Stitching): the integers of an output channel are a sum of planes, `q = Σ 2^m·t_m` with every digit of `t_m` −1, 0 or +1, and
//! planes and scale are chosen in turns so that the channel's result changes least. Without gradients: for given planes the best
//! scale is a quotient, and for given other digits the best digit follows from the second moments of the layer's inputs.
//!
//! The paper begins with every weight at its nearest integer; here a row begins with those or with what error feedback
//! ([`super::feedback`]) made of it, and the better of both results is kept.

use super::{
    feedback::damped,
    matrix::{Group, Rows},
    weights::{QuantizedRows, largest},
};

/// Times that planes and scale are chosen in turns, at most.
const ROUNDS: usize = 24;
/// Sweeps over the digits of a plane in a round, at most.
const SWEEPS: usize = 4;
/// Part of the error that a round must take away for another to follow.
const PROGRESS: f64 = 1e-4;

/// Second moments that errors are weighed by.
struct Weigh {
    width: usize,
    moments: Vec<f64>,
}

impl Weigh {
    fn row(&self, i: usize) -> &[f64] {
        &self.moments[i * self.width..(i + 1) * self.width]
    }

    fn times(&self, v: &[f64]) -> Vec<f64> {
        (0..self.width).map(|i| dot(self.row(i), v)).collect()
    }
}

/// A row in planes.
struct Split {
    /// Digits of each plane, the least significant first.
    planes: Vec<Vec<i8>>,
    scale: f64,
}

impl Split {
    /// The planes of integers: the binary digits of their magnitudes, with their sign.
    fn of(ints: &[i32], bits: u8, scale: f64) -> Split {
        let planes = usize::from(bits).max(2) - 1;
        let digit = |q: i32, m: usize| (q.signum() * (q.abs() >> m & 1)) as i8;
        Split { planes: (0..planes).map(|m| ints.iter().map(|q| digit(*q, m)).collect()).collect(), scale }
    }

    /// The integers.
    fn stitch(&self) -> Vec<i32> {
        let mut ints = vec![0; self.planes[0].len()];
        for (m, plane) in self.planes.iter().enumerate() {
            ints.iter_mut().zip(plane).for_each(|(q, t)| *q += i32::from(*t) << m);
        }
        ints
    }

    /// What is left of the weights.
    fn rest(&self, weights: &[f64]) -> Vec<f64> {
        weights.iter().zip(self.stitch()).map(|(w, q)| w - self.scale * f64::from(q)).collect()
    }

    fn error(&self, weights: &[f64], weigh: &Weigh) -> f64 {
        let rest = self.rest(weights);
        dot(&rest, &weigh.times(&rest))
    }

    /// Chooses the digits of all planes, the most significant first, one at a time: each so that the error is least.
    fn choose_digits(&mut self, weights: &[f64], weigh: &Weigh, digits: &[i8]) {
        let mut pull = weigh.times(&self.rest(weights));
        for m in (0..self.planes.len()).rev() {
            let unit = self.scale * f64::from(1u32 << m);
            for _ in 0..SWEEPS {
                let mut changed = false;
                // Weights that were taken out stay out.
                for i in (0..weights.len()).filter(|i| weights[*i] != 0.0) {
                    let old = self.planes[m][i];
                    let curvature = weigh.row(i)[i];
                    let cost = |t: i8| {
                        let step = unit * f64::from(t - old);
                        step * step * curvature - 2.0 * step * pull[i]
                    };
                    let mut best = (0.0, old);
                    for t in digits.iter().filter(|t| **t != old) {
                        let c = cost(*t);
                        if c < best.0 {
                            best = (c, *t);
                        }
                    }
                    if best.1 != old {
                        let step = unit * f64::from(best.1 - old);
                        pull.iter_mut().zip(weigh.row(i)).for_each(|(p, h)| *p -= step * h);
                        self.planes[m][i] = best.1;
                        changed = true;
                    }
                }
                if !changed {
                    break;
                }
            }
        }
    }

    /// The best scale for these planes, if it is at least `least`.
    fn choose_scale(&mut self, weights: &[f64], weigh: &Weigh, least: f64) {
        let q: Vec<f64> = self.stitch().into_iter().map(f64::from).collect();
        let hq = weigh.times(&q);
        let scale = dot(weights, &hq) / dot(&q, &hq);
        if scale.is_finite() && scale > f64::from(f32::MIN_POSITIVE) {
            self.scale = f64::from(scale.max(least) as f32);
        }
    }
}

/// Chooses the integers of a group anew, `bits` wide, and the scales if there is a least one for each row, from those in `quantized` and those
/// in `nearest`. Leaves them as they are if there are no moments, or none that are usable.
pub(super) fn choose_group(
    rows: &Rows,
    group: &Group,
    bits: u8,
    least: Option<&dyn Fn(usize) -> f64>,
    nearest: &QuantizedRows,
    quantized: &mut QuantizedRows,
) {
    let width = rows.width();
    let order: Vec<usize> = (0..width).collect();
    let Some(moments) = group.moments.as_ref().and_then(|h| damped(h, &order)) else { return };
    let weigh = Weigh { width, moments };
    let digits: &[i8] = if bits == 1 { &[-1, 1] } else { &[-1, 0, 1] };
    for row in group.span.clone() {
        let (weights, span) = (rows.row(row), row * width..(row + 1) * width);
        let mut best: Option<(f64, Split)> = None;
        for start in [&*quantized, nearest] {
            let mut split = Split::of(&start.ints[span.clone()], bits, f64::from(start.scale(row)));
            let mut error = split.error(weights, &weigh);
            for _ in 0..ROUNDS {
                if let Some(least) = least {
                    split.choose_scale(weights, &weigh, least(row));
                }
                split.choose_digits(weights, &weigh, digits);
                let now = split.error(weights, &weigh);
                let enough = now >= error * (1.0 - PROGRESS);
                error = now;
                if enough {
                    break;
                }
            }
            if best.as_ref().is_none_or(|b| error < b.0) {
                best = Some((error, split));
            }
        }
        let Some((_, split)) = best else { continue };
        debug_assert!(split.stitch().iter().all(|q| f64::from(q.abs()) <= largest(bits)));
        quantized.ints[span].copy_from_slice(&split.stitch());
        if least.is_some() {
            quantized.scales[row] = split.scale as f32;
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{
        feedback::{
            round_group,
            tests::{error, example, group},
        },
        weights::{nearest, scales},
    };

    #[test]
    fn planes_are_put_together_again() {
        let ints = [7, -7, 5, -2, 0, 1];
        assert_eq!(Split::of(&ints, 4, 1.0).stitch(), ints);
        assert_eq!(Split::of(&[1, -1], 1, 1.0).stitch(), [1, -1]);
    }

    #[test]
    fn planes_chosen_in_turns_lower_the_error_of_feedback() {
        let width = 24;
        let (rows, h) = example(width);
        for bits in 1..=4 {
            let plain = nearest(&rows, bits, scales(&rows, bits, true, |_| vec![]));
            let mut fed = plain.clone();
            let group = group(&rows, h.clone());
            round_group(&rows, &group, bits, &mut fed);
            let mut split = fed.clone();
            choose_group(&rows, &group, bits, Some(&|_| 0.0), &plain, &mut split);
            assert!(split.ints.iter().all(|q| f64::from(q.abs()) <= largest(bits)), "{bits}");
            let (fed, split) = (error(&rows, &h, &fed), error(&rows, &h, &split));
            assert!(split < 0.9 * fed, "{bits}: {fed} {split}");
        }
    }

    #[test]
    fn zeros_stay_and_unusable_moments_change_nothing() {
        let (mut rows, h) = example(8);
        rows.values[3] = 0.0;
        let plain = nearest(&rows, 3, scales(&rows, 3, true, |_| vec![]));
        let mut split = plain.clone();
        choose_group(&rows, &group(&rows, h), 3, Some(&|_| 0.0), &plain, &mut split);
        assert_eq!(split.ints[3], 0);
        let mut same = plain.clone();
        choose_group(&rows, &group(&rows, vec![0.0; 64]), 3, Some(&|_| 0.0), &plain, &mut same);
        assert_eq!((plain.ints, plain.scales), (same.ints, same.scales));
    }
}

//! Weights from a codebook: every few neighbouring weights of a row are one of a layer's code words, so that a compressed file holds
//! a short index for them (vector quantization, "product quantization" where a row is cut into parts: Stock et al., arXiv:1907.05686).
//!
//! Code words are found by weighted k-means; then rows are rounded to them from left to right, and what each choice loses is made up for
//! by the weights still to come (GPTVQ, arXiv:2402.15319: [`feedback`](super::feedback) with vectors instead of numbers). Then, in turns,
//! the words are learned that lose least in the layer's output where rows stay with their choices, and rows choose anew. Code words are
//! integers, and scales stay with the rows: all that computes on the weights sees integers of their width.

use std::str::FromStr;

use super::{
    feedback::{damped, inverse_factor},
    matrix::{Group, Rows},
    weights::{QuantizedRows, largest},
};
use crate::LightenError;

/// How weights become indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codebook {
    /// Weights of a code word: 2 to 16.
    pub length: usize,
    /// Code words of a layer, at most: 16 to 256. Small layers have fewer, so that they are worth their place.
    pub entries: usize,
}

impl FromStr for Codebook {
    type Err = LightenError;

    /// `4x256`: length, then entries.
    fn from_str(s: &str) -> Result<Codebook, LightenError> {
        let parts = s.split_once('x').and_then(|(l, e)| Some((l.parse().ok()?, e.parse().ok()?)));
        match parts {
            Some((length @ 2..=16, entries @ 16..=256)) => Ok(Codebook { length, entries }),
            _ => Err(LightenError::Option(format!(
                "`{s}` is no codebook; write for example 4x256: words of 2 to 16 weights, 16 to 256 of them"
            ))),
        }
    }
}

/// Fewest code words that are worth while.
const FEWEST: usize = 16;
/// Vectors that k-means learns from.
const SEEN: usize = 1 << 15;
/// Rounds of k-means.
const ROUNDS: usize = 15;
/// Times that words are learned for what rows chose, and rows choose anew, at most.
const TURNS: usize = 4;
/// Steps of conjugate gradients in each.
const STEPS: usize = 24;

impl Codebook {
    /// Code words that a layer of so many weights, `width` to a row, gets; nothing if it gets none: its rows cannot be cut into words,
    /// or the words would take more than half of what the indices take.
    fn entries_for(self, weights: usize, width: usize) -> Option<usize> {
        if width == 0 || !width.is_multiple_of(self.length) {
            return None;
        }
        let vectors = weights / self.length;
        let mut entries = self.entries;
        while entries * self.length * 2 > vectors && entries >= FEWEST {
            entries /= 2;
        }
        (entries >= FEWEST).then_some(entries)
    }

    /// Rounds all rows to code words of integers of `bits`, writing into `quantized`, whose scales stay; says whether it did.
    pub(super) fn round(self, rows: &Rows, groups: &[Group], bits: u8, quantized: &mut QuantizedRows) -> bool {
        let width = rows.width();
        let Some(entries) = self.entries_for(rows.values.len(), width) else { return false };
        let top = largest(bits);
        let integers =
            |words: Vec<f64>| -> Vec<f64> { words.into_iter().map(|w| w.round_ties_even().clamp(-top, top)).collect() };
        let choose = |words: &[f64], quantized: &mut QuantizedRows| -> Vec<usize> {
            let mut chosen = vec![0; rows.values.len() / self.length];
            groups.iter().for_each(|group| self.round_group(rows, group, words, quantized, &mut chosen));
            chosen
        };
        let mut words = integers(self.words(rows, groups, quantized, entries));
        let mut chosen = choose(&words, quantized);
        let mut lost = quantized.lost(rows, groups);
        for _ in 0..TURNS {
            let other = integers(self.learned(rows, groups, quantized, &chosen, &words));
            let mut anew = quantized.clone();
            let choices = choose(&other, &mut anew);
            let now = anew.lost(rows, groups);
            if now >= lost {
                break;
            }
            *quantized = anew;
            (words, chosen, lost) = (other, choices, now);
        }
        true
    }

    /// The words that lose least in the output where every part stays with the word it chose: conjugate gradients from `words` on the
    /// normal equations, each unknown in units of its own curvature.
    fn learned(
        self,
        rows: &Rows,
        groups: &[Group],
        quantized: &QuantizedRows,
        chosen: &[usize],
        words: &[f64],
    ) -> Vec<f64> {
        let (length, width) = (self.length, rows.width());
        let place =
            |row: usize, column: usize| chosen[row * (width / length) + column / length] * length + column % length;
        // What rows that are given by `value` make of the inputs, gathered word by word.
        let gathered = |value: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            let mut sums = vec![0.0; words.len()];
            for group in groups {
                for row in group.span.clone() {
                    let power = f64::from(quantized.scale(row)).powi(2);
                    let x: Vec<f64> = (0..width).map(|c| value(row, c)).collect();
                    let seen = group.seen(&x);
                    (0..width).for_each(|c| sums[place(row, c)] += power * seen[c]);
                }
            }
            sums
        };
        let mut curvature = vec![0.0; words.len()];
        for group in groups {
            for row in group.span.clone() {
                let power = f64::from(quantized.scale(row)).powi(2);
                for c in 0..width {
                    let own = group.moments.as_ref().map(|h| h[c * width + c]).or(group.importance.get(c).copied());
                    curvature[place(row, c)] += power * own.unwrap_or(1.0);
                }
            }
        }
        // Words that nothing chose stay.
        let eased = |r: &[f64]| -> Vec<f64> {
            r.iter().zip(&curvature).map(|(r, c)| if *c > 0.0 { r / c } else { 0.0 }).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut at = words.to_vec();
        let mut residual = gathered(&|row, c| rows.row(row)[c] / f64::from(quantized.scale(row)) - at[place(row, c)]);
        let mut direction = eased(&residual);
        let mut size = dot(&residual, &direction);
        let enough = 1e-6 * size;
        for _ in 0..STEPS {
            if size <= enough {
                break;
            }
            let image = gathered(&|row, c| direction[place(row, c)]);
            let curved = dot(&direction, &image);
            if curved <= 0.0 {
                break;
            }
            let step = size / curved;
            at.iter_mut().zip(&direction).for_each(|(v, d)| *v += step * d);
            residual.iter_mut().zip(&image).for_each(|(r, i)| *r -= step * i);
            let next = eased(&residual);
            let new = dot(&residual, &next);
            direction.iter_mut().zip(&next).for_each(|(d, n)| *d = n + new / size * *d);
            size = new;
        }
        at
    }

    /// Code words by weighted k-means over the rows in units of their scales.
    fn words(self, rows: &Rows, groups: &[Group], quantized: &QuantizedRows, entries: usize) -> Vec<f64> {
        let (length, width) = (self.length, rows.width());
        let vectors = rows.values.len() / length;
        let per_row = width / length;
        let step = vectors.div_ceil(SEEN).max(1);
        let (mut values, mut weights) = (vec![], vec![]);
        for group in groups {
            for row in group.span.clone() {
                let scale = f64::from(quantized.scale(row));
                for part in (0..per_row).filter(|part| (row * per_row + part) % step == 0) {
                    for c in part * length..(part + 1) * length {
                        values.push(rows.row(row)[c] / scale);
                        weights.push(group.importance.get(c).copied().unwrap_or(1.0) * scale * scale);
                    }
                }
            }
        }
        let count = values.len() / length;
        // Spread over the vectors by what they weigh: every so much, one is taken.
        let mass = |v: usize| -> f64 {
            (v * length..(v + 1) * length).map(|i| weights[i] * values[i] * values[i]).sum::<f64>() + f64::MIN_POSITIVE
        };
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|a, b| values[a * length].total_cmp(&values[b * length]).then(a.cmp(b)));
        let total: f64 = order.iter().map(|v| mass(*v)).sum();
        let (mut words, mut passed, mut next) =
            (Vec::with_capacity(entries * length), 0.0, 0.5 * total / entries as f64);
        for v in order {
            passed += mass(v);
            if passed > next && words.len() < entries * length {
                words.extend_from_slice(&values[v * length..(v + 1) * length]);
                next += total / entries as f64;
            }
        }
        words.resize(entries * length, 0.0);
        for _ in 0..ROUNDS {
            let (mut sums, mut masses) = (vec![0.0; words.len()], vec![0.0; words.len()]);
            let (mut worst, mut far) = (0, -1.0);
            for v in 0..count {
                let at = v * length..(v + 1) * length;
                let (word, error) = nearest(&words, &values[at.clone()], &weights[at.clone()]);
                if error > far {
                    (worst, far) = (v, error);
                }
                for (k, i) in at.enumerate() {
                    sums[word * length + k] += weights[i] * values[i];
                    masses[word * length + k] += weights[i];
                }
            }
            for ((word, sum), mass) in words.iter_mut().zip(sums).zip(&masses) {
                if *mass > 0.0 {
                    *word = sum / mass;
                }
            }
            // A word that nothing takes goes where one is missed most.
            if let Some(idle) = (0..entries).find(|w| masses[w * length..(w + 1) * length].iter().all(|m| *m == 0.0)) {
                words[idle * length..(idle + 1) * length]
                    .copy_from_slice(&values[worst * length..(worst + 1) * length]);
            }
        }
        words
    }

    /// Rounds the rows of a group, each choice made up for by the columns after it, and says in `chosen` which words they took.
    fn round_group(
        self,
        rows: &Rows,
        group: &Group,
        words: &[f64],
        quantized: &mut QuantizedRows,
        chosen: &mut [usize],
    ) {
        let (length, width) = (self.length, rows.width());
        // Parts that matter most first: they have the most others to make up for them.
        let weight = |part: usize| -> f64 {
            group.importance.get(part * length..(part + 1) * length).map_or(0.0, |w| w.iter().sum())
        };
        let mut parts: Vec<usize> = (0..width / length).collect();
        parts.sort_by(|a, b| weight(*b).total_cmp(&weight(*a)).then(a.cmp(b)));
        let order: Vec<usize> = parts.iter().flat_map(|p| p * length..(p + 1) * length).collect();
        let factor = group.moments.as_ref().and_then(|h| damped(h, &order)).and_then(|h| inverse_factor(h, width));
        for row in group.span.clone() {
            let scale = f64::from(quantized.scale(row));
            let mut open: Vec<f64> = order.iter().map(|c| rows.row(row)[*c] / scale).collect();
            for first in (0..width).step_by(length) {
                let at = first..first + length;
                let weights: Vec<f64> = match &factor {
                    Some(u) => at.clone().map(|j| 1.0 / (u[j * width + j] * u[j * width + j])).collect(),
                    None => at.clone().map(|j| group.importance.get(order[j]).copied().unwrap_or(1.0)).collect(),
                };
                let (word, _) = nearest(words, &open[at.clone()], &weights);
                chosen[(row * width + order[first]) / length] = word;
                for (k, j) in at.enumerate() {
                    let q = words[word * length + k];
                    quantized.ints[row * width + order[j]] = q as i32;
                    let Some(u) = factor.as_ref().map(|u| &u[j * width..(j + 1) * width]) else { continue };
                    let error = (open[j] - q) / u[j];
                    for i in j + 1..width {
                        open[i] -= error * u[i];
                    }
                }
            }
        }
    }
}

/// The code word nearest to a vector, and its weighted squared error.
fn nearest(words: &[f64], vector: &[f64], weights: &[f64]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (i, word) in words.chunks_exact(vector.len()).enumerate() {
        let error: f64 = word.iter().zip(vector).zip(weights).map(|((c, v), w)| w * (v - c) * (v - c)).sum();
        if error < best.1 {
            best = (i, error);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::quantize::{
        feedback::tests::error,
        weights::{nearest as nearest_ints, scales},
    };

    fn noise(i: usize) -> f64 {
        let h = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let h = (h ^ h >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (h >> 40) as f64 / 16_777_216.0 - 0.5
    }

    /// Rows of noise, and the second moments of inputs that go together.
    fn example(count: usize, width: usize) -> (Rows, Group) {
        let rows = Rows { count, values: (0..count * width).map(|i| noise(i) + noise(i + 7777)).collect() };
        let mut h = vec![0.0; width * width];
        for s in 0..400 {
            let x: Vec<f64> = (0..width).map(|i| noise(s * 31 + 5) * 2.0 + noise(s * width * 3 + i * 17 + 1)).collect();
            for i in 0..width {
                for j in 0..width {
                    h[i * width + j] += x[i] * x[j] / 400.0;
                }
            }
        }
        let importance = (0..width).map(|i| h[i * width + i]).collect();
        (rows, Group { span: 0..count, importance, moments: Some(h) })
    }

    #[test]
    fn rows_are_made_of_few_words_and_feedback_pays() {
        let (rows, group) = example(256, 48);
        let codebook = Codebook { length: 4, entries: 256 };
        let plain = nearest_ints(&rows, 8, scales(&rows, 8, true, |_| vec![]));
        let (mut fed, mut alone) = (plain.clone(), plain.clone());
        assert!(codebook.round(&rows, std::slice::from_ref(&group), 8, &mut fed));
        let words: BTreeSet<&[i32]> = fed.ints.chunks(4).collect();
        assert!(words.len() <= 256 && words.len() > 128, "{}", words.len());
        let without = Group { moments: None, ..example(256, 48).1 };
        assert!(codebook.round(&rows, &[without], 8, &mut alone));
        let h = group.moments.as_ref().unwrap();
        let (fed, alone) = (error(&rows, h, &fed), error(&rows, h, &alone));
        assert!(fed < 0.8 * alone, "{fed} {alone}");
        // Learned words are better than those of k-means for which rows choose with feedback.
        let mut words = codebook.words(&rows, std::slice::from_ref(&group), &plain, 256);
        words.iter_mut().for_each(|w| *w = w.round_ties_even());
        let mut means = plain.clone();
        codebook.round_group(&rows, &group, &words, &mut means, &mut vec![0; 256 * 12]);
        let means = error(&rows, h, &means);
        assert!(fed < 0.9 * means, "{fed} {means}");
        // Eight bits for four weights are better than two bits for each.
        let two = error(&rows, h, &nearest_ints(&rows, 2, scales(&rows, 2, true, |_| vec![])));
        assert!(alone < two, "{alone} {two}");
    }

    #[test]
    fn what_is_too_small_or_cannot_be_cut_stays() {
        let codebook = Codebook { length: 4, entries: 256 };
        assert_eq!(codebook.entries_for(48 * 48, 48), Some(64));
        assert_eq!(codebook.entries_for(1 << 20, 1 << 10), Some(256));
        assert_eq!(codebook.entries_for(400, 100), None);
        assert_eq!(codebook.entries_for(9 * 4096, 9), None);
        let (rows, group) = example(4, 12);
        let mut q = nearest_ints(&rows, 8, scales(&rows, 8, true, |_| vec![]));
        let before = q.ints.clone();
        assert!(!codebook.round(&rows, &[group], 8, &mut q));
        assert_eq!(q.ints, before);
    }

    #[test]
    fn codebooks_are_read() {
        assert_eq!("4x256".parse::<Codebook>().unwrap(), Codebook { length: 4, entries: 256 });
        for bad in ["", "4", "1x256", "4x257", "4x8", "x", "17x16", "4x256x2"] {
            assert!(bad.parse::<Codebook>().is_err(), "{bad}");
        }
    }
}

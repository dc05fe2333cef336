//! Scales and integers of weights: symmetric, one scale per output channel or one for all.

use qing_graph::{Element, OpError, arithmetic::symmetric_range};

use super::matrix::{Group, Rows};

/// Quantized weights, row by row.
#[derive(Debug, Clone)]
pub(super) struct QuantizedRows {
    /// Integers, in the order of the rows.
    pub ints: Vec<i32>,
    /// One scale per row, or one for all.
    pub scales: Vec<f32>,
}

impl QuantizedRows {
    /// The scale of row `i`.
    pub(super) fn scale(&self, i: usize) -> f32 {
        if self.scales.len() == 1 { self.scales[0] } else { self.scales[i] }
    }

    /// The power of what is lost in the output of all rows.
    pub(super) fn lost(&self, rows: &Rows, groups: &[Group]) -> f64 {
        let width = rows.width();
        let row = |group: &Group, r: usize| -> f64 {
            let of = |c: usize| rows.row(r)[c] - f64::from(self.ints[r * width + c]) * f64::from(self.scale(r));
            let apart: Vec<f64> = (0..width).map(of).collect();
            group.seen(&apart).iter().zip(&apart).map(|(a, b)| a * b).sum()
        };
        groups.iter().flat_map(|g| g.span.clone().map(move |r| row(g, r))).sum()
    }
}

/// The element of weights of a width: bipolar at one bit, else signed.
///
/// # Errors
/// If the width is not one of 1–8 bits.
pub(super) fn element(bits: u8) -> Result<Element, OpError> {
    if bits == 1 {
        return Ok(Element::Bipolar);
    }
    Element::integer(bits, true).ok_or_else(|| OpError::invalid(format!("{bits} bits; widths go from 1 to 8")))
}

/// Largest magnitude of the integers of a width.
pub(super) fn largest(bits: u8) -> f64 {
    element(bits).ok().and_then(symmetric_range).map_or(1.0, |(_, hi)| f64::from(hi))
}

/// The integer nearest to `w / scale`.
pub(super) fn round(w: f64, scale: f64, bits: u8) -> i32 {
    if bits == 1 {
        return if w < 0.0 { -1 } else { 1 };
    }
    let top = largest(bits);
    (w / scale).round_ties_even().clamp(-top, top) as i32
}

/// Scales with the least squared error; `importance` weighs the error of each column (the mean square of the input it
/// meets), all alike if empty. Eight bits keep the largest weight exact.
pub(super) fn scales(rows: &Rows, bits: u8, per_channel: bool, importance: impl Fn(usize) -> Vec<f64>) -> Vec<f32> {
    let legal = |s: f64| {
        let s = s as f32;
        if s.is_finite() && s > f32::MIN_POSITIVE { s } else { 1.0 }
    };
    if per_channel {
        return (0..rows.count).map(|i| legal(scale_of(rows.row(i), bits, &importance(i)))).collect();
    }
    let weigh: Vec<f64> = (0..rows.count).flat_map(&importance).collect();
    vec![legal(scale_of(&rows.values, bits, &weigh))]
}

fn scale_of(row: &[f64], bits: u8, importance: &[f64]) -> f64 {
    let weigh = |i: usize| importance.get(i).copied().unwrap_or(1.0);
    if bits == 1 {
        let total: f64 = (0..row.len()).map(weigh).sum();
        return row.iter().enumerate().map(|(i, w)| weigh(i) * w.abs()).sum::<f64>() / total;
    }
    let peak = row.iter().fold(0.0f64, |m, w| m.max(w.abs())) / largest(bits);
    if bits == 8 || peak == 0.0 {
        return peak;
    }
    let error = |s: f64| {
        row.iter()
            .enumerate()
            .map(|(i, w)| {
                let e = f64::from(round(*w, s, bits)) * s - w;
                weigh(i) * e * e
            })
            .sum::<f64>()
    };
    let mut found = (error(peak), peak);
    for i in 1..90 {
        let s = peak * (1.0 - f64::from(i) * 0.01);
        let e = error(s);
        if e < found.0 {
            found = (e, s);
        }
    }
    // For given integers the best scale is a quotient; a few rounds settle.
    for _ in 0..4 {
        let (mut wq, mut qq) = (0.0, 0.0);
        for (i, w) in row.iter().enumerate() {
            let q = f64::from(round(*w, found.1, bits));
            wq += weigh(i) * w * q;
            qq += weigh(i) * q * q;
        }
        let s = wq / qq;
        let e = if s > 0.0 { error(s) } else { f64::INFINITY };
        if e >= found.0 {
            break;
        }
        found = (e, s);
    }
    found.1
}

/// Every weight to its nearest integer.
pub(super) fn nearest(rows: &Rows, bits: u8, scales: Vec<f32>) -> QuantizedRows {
    let scale = |i: usize| f64::from(if scales.len() == 1 { scales[0] } else { scales[i] });
    let ints =
        (0..rows.count).flat_map(|i| rows.row(i).iter().map(move |w| (i, *w))).map(|(i, w)| round(w, scale(i), bits));
    let ints = ints.collect();
    QuantizedRows { ints, scales }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[f64]) -> Rows {
        Rows { count: 1, values: values.to_vec() }
    }

    fn quantize(values: &[f64], bits: u8) -> Vec<f64> {
        let rows = rows(values);
        let q = nearest(&rows, bits, scales(&rows, bits, true, |_| vec![]));
        q.ints.iter().map(|v| f64::from(*v) * f64::from(q.scales[0])).collect()
    }

    /// Root mean square error of a bell-shaped row, per width, may not exceed this share of its standard deviation.
    #[test]
    fn error_budget_per_width() {
        let bell: Vec<f64> = (0..999)
            .map(|i| (0..6).map(|k| f64::from((i * 7919 + k * 104_729) % 1000) / 1000.0 - 0.5).sum::<f64>())
            .collect();
        let power: f64 = bell.iter().map(|w| w * w).sum();
        for (bits, budget) in
            [(1, 0.65), (2, 0.50), (3, 0.24), (4, 0.125), (5, 0.066), (6, 0.034), (7, 0.018), (8, 0.01)]
        {
            let error: f64 = quantize(&bell, bits).iter().zip(&bell).map(|(q, w)| (q - w).powi(2)).sum();
            let share = (error / power).sqrt();
            assert!(share < budget, "{bits} bits: {share}");
        }
    }

    #[test]
    fn few_bits_use_their_whole_alphabet_and_no_more() {
        for bits in 1..=8u8 {
            let values: Vec<f64> = (-20..=20).map(f64::from).collect();
            let r = rows(&values);
            let q = nearest(&r, bits, scales(&r, bits, true, |_| vec![]));
            let top = if bits == 1 { 1 } else { (1 << (bits - 1)) - 1 };
            assert_eq!((q.ints.iter().min(), q.ints.iter().max()), (Some(&-top), Some(&top)), "{bits}");
        }
    }

    #[test]
    fn importance_moves_the_scale() {
        let r = rows(&[1.0, 0.1, 0.1, 0.1]);
        let plain = scales(&r, 2, true, |_| vec![])[0];
        let small_matter = scales(&r, 2, true, |_| vec![0.001, 1.0, 1.0, 1.0])[0];
        assert!(small_matter < plain, "{small_matter} {plain}");
    }

    #[test]
    fn dead_channels_are_legal() {
        let r = rows(&[0.0; 4]);
        for bits in 1..=8 {
            assert!(scales(&r, bits, true, |_| vec![])[0] > 0.0);
        }
    }
}

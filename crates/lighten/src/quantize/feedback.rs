//! Rounding with error feedback: columns are rounded one after the other, and what each rounding loses is made up for by
//! those still to come, weighted by how the layer's inputs go together (optimal brain surgery, as in GPTQ,
//! arXiv:2210.17323).

use super::{
    matrix::{Group, Rows},
    weights::{QuantizedRows, round},
};

/// Damping, relative to the mean of the diagonal: keeps the inverse tame where calibration saw little.
const DAMPING: f64 = 0.01;

/// Rounds the rows of a group. Writes into `quantized`; leaves it as it is if there are no moments, or none that are usable.
pub(super) fn round_group(rows: &Rows, group: &Group, bits: u8, quantized: &mut QuantizedRows) {
    let Some(moments) = &group.moments else { return };
    let width = rows.width();
    // Columns that matter most first: they have the most others to make up for them.
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|a, b| moments[b * width + b].total_cmp(&moments[a * width + a]).then(a.cmp(b)));
    let Some(factor) = damped(moments, &order).and_then(|h| inverse_factor(h, width)) else { return };
    for row in group.span.clone() {
        let scale = f64::from(quantized.scale(row));
        let mut open: Vec<f64> = order.iter().map(|c| rows.row(row)[*c]).collect();
        for j in 0..width {
            // Weights that were taken out stay out.
            let gone = rows.row(row)[order[j]] == 0.0;
            let q = if gone { 0 } else { round(open[j], scale, bits) };
            quantized.ints[row * width + order[j]] = q;
            let u = &factor[j * width..(j + 1) * width];
            let error = (open[j] - f64::from(q) * scale) / u[j];
            for k in j + 1..width {
                open[k] -= error * u[k];
            }
        }
    }
}

/// Second moments in another order of columns, with what keeps their inverse tame; nothing if they are not usable.
pub(super) fn damped(moments: &[f64], order: &[usize]) -> Option<Vec<f64>> {
    let width = order.len();
    let mean = (0..width).map(|i| moments[i * width + i]).sum::<f64>() / width.max(1) as f64;
    if !(mean > 0.0 && mean.is_finite()) {
        return None;
    }
    let mut damped = vec![0.0; width * width];
    for (i, a) in order.iter().enumerate() {
        for (j, b) in order.iter().enumerate() {
            damped[i * width + j] = moments[a * width + b] + if i == j { DAMPING * mean } else { 0.0 };
        }
    }
    Some(damped)
}

/// The upper triangular `U` with `Uᵀ·U = H⁻¹`; `None` if `H` is not positive definite.
///
/// With `H = R·Rᵀ`, `R` upper triangular, it is `R⁻¹`.
pub(crate) fn inverse_factor(mut h: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    // Cholesky from the last row up. Only the lower triangle is read; row j of it is replaced by column j of R.
    for j in (0..n).rev() {
        let d = h[j * n + j];
        if !(d > 0.0 && d.is_finite()) {
            return None;
        }
        let d = d.sqrt();
        let (above, row) = h.split_at_mut(j * n);
        let column = &mut row[..=j];
        column[..j].iter_mut().for_each(|v| *v /= d);
        column[j] = d;
        for i in 0..j {
            let c = column[i];
            for (h, v) in above[i * n..=i * n + i].iter_mut().zip(&*column) {
                *h -= c * v;
            }
        }
    }
    // Invert R, row by row from the last.
    let mut u = vec![0.0; n * n];
    for i in (0..n).rev() {
        // U[i][j] = −(Σ_{i<k≤j} R[i][k]·U[k][j]) / R[i][i].
        let (above, below) = u.split_at_mut((i + 1) * n);
        let row = &mut above[i * n..];
        for k in i + 1..n {
            let r = h[k * n + i];
            let from = &below[(k - i - 1) * n..(k - i) * n];
            for (v, f) in row[k..].iter_mut().zip(&from[k..]) {
                *v -= r * f;
            }
        }
        let d = h[i * n + i];
        row[i + 1..].iter_mut().for_each(|v| *v /= d);
        row[i] = 1.0 / d;
    }
    Some(u)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::quantize::weights::{nearest, scales};

    pub(in crate::quantize) fn example(width: usize) -> (Rows, Vec<f64>) {
        let noise = |i: usize| ((i * 7919 + 13) % 1009) as f64 / 1009.0 - 0.5;
        let rows = Rows { count: 4, values: (0..4 * width).map(noise).collect() };
        // Inputs that go together: a common part and a part of their own.
        let samples: Vec<Vec<f64>> = (0..200)
            .map(|s| (0..width).map(|i| noise(s * 31 + 5) * 2.0 + noise(s * width * 3 + i * 17 + 1)).collect())
            .collect();
        let mut h = vec![0.0; width * width];
        for x in &samples {
            for i in 0..width {
                for j in 0..width {
                    h[i * width + j] += x[i] * x[j] / 200.0;
                }
            }
        }
        (rows, h)
    }

    /// All rows as one group.
    pub(in crate::quantize) fn group(rows: &Rows, moments: Vec<f64>) -> Group {
        Group { span: 0..rows.count, importance: vec![], moments: Some(moments) }
    }

    /// Squared error of the output, whose inputs have these second moments.
    pub(in crate::quantize) fn error(rows: &Rows, h: &[f64], q: &QuantizedRows) -> f64 {
        let width = rows.width();
        let of = |r: usize, i: usize| rows.row(r)[i] - f64::from(q.ints[r * width + i]) * f64::from(q.scale(r));
        let row = |r: usize| -> f64 { (0..width * width).map(|k| of(r, k / width) * h[k] * of(r, k % width)).sum() };
        (0..rows.count).map(row).sum()
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let n = 7;
        let (_, mut h) = example(n);
        (0..n).for_each(|i| h[i * n + i] += 0.1);
        let u = inverse_factor(h.clone(), n).unwrap();
        for i in 0..n {
            for j in 0..n {
                // (Uᵀ·U)·H is the identity.
                let v: f64 = (0..n)
                    .map(|k| (0..=i.min(k)).map(|m| u[m * n + i] * u[m * n + k]).sum::<f64>() * h[k * n + j])
                    .sum();
                assert!((v - f64::from(u8::from(i == j))).abs() < 1e-9, "{i} {j} {v}");
            }
        }
    }

    #[test]
    fn feedback_lowers_the_error_of_the_output() {
        let width = 16;
        let (rows, h) = example(width);
        let plain = nearest(&rows, 3, scales(&rows, 3, true, |_| vec![]));
        let mut fed = plain.clone();
        round_group(&rows, &group(&rows, h.clone()), 3, &mut fed);
        let (fed, plain) = (error(&rows, &h, &fed), error(&rows, &h, &plain));
        assert!(fed < 0.5 * plain, "{fed} {plain}");
    }

    #[test]
    fn unusable_moments_change_nothing() {
        let (rows, _) = example(4);
        let plain = nearest(&rows, 4, scales(&rows, 4, true, |_| vec![]));
        let mut same = plain.clone();
        round_group(&rows, &group(&rows, vec![0.0; 16]), 4, &mut same);
        assert_eq!(plain.ints, same.ints);
    }
}

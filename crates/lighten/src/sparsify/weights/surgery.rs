//! Optimal brain surgery, column by column.

use super::{
    Matrix,
    pattern::{Pattern, mask},
};
use crate::quantize::inverse_factor;

/// Damping, relative to the mean of the diagonal: keeps the inverse tame where calibration saw little.
const DAMPING: f64 = 0.01;
/// Columns among which weights without a pattern of their own are chosen at a time, so that choices see the corrections made before.
const COLUMNS: usize = 128;

/// Takes weights out in the pattern and corrects those that stay, for inputs with second moments `h` (`columns²`). A matrix whose moments are of no
/// use is judged by magnitude.
pub(super) fn operate(m: &mut Matrix, h: &[f64], pattern: Pattern) {
    let n = m.columns;
    let mean = (0..n).map(|i| h[i * n + i]).sum::<f64>() / n.max(1) as f64;
    let usable = mean > 0.0 && mean.is_finite();
    let mut damped = h.to_vec();
    (0..n).for_each(|i| damped[i * n + i] += DAMPING * mean);
    let Some(u) = usable.then(|| inverse_factor(damped, n)).flatten() else {
        return super::pattern::by_magnitude(m, pattern);
    };
    // What it costs to take a weight out alone, all later ones making up for it, is w² / u²; blocks are chosen before the first is taken out, as
    // they reach over rows and few columns.
    let whole = matches!(pattern, Pattern::Blocks { .. }).then(|| {
        let scores: Vec<f64> = m.values.iter().enumerate().map(|(i, w)| (w / u[i % n * n + i % n]).powi(2)).collect();
        mask(pattern, &scores, [m.rows, n])
    });
    let step = match pattern {
        Pattern::NofM { of, .. } => of,
        _ => COLUMNS,
    };
    for start in (0..n).step_by(step) {
        let end = (start + step).min(n);
        let width = end - start;
        let stays: Vec<bool> = match &whole {
            Some(stays) => (0..m.rows).flat_map(|r| stays[r * n + start..r * n + end].iter().copied()).collect(),
            None => {
                let scores: Vec<f64> = (0..m.rows)
                    .flat_map(|r| (start..end).map(move |c| (r, c)))
                    .map(|(r, c)| (m.values[r * n + c] / u[c * n + c]).powi(2))
                    .collect();
                mask(pattern, &scores, [m.rows, width])
            }
        };
        for (r, row) in m.values.chunks_exact_mut(n).enumerate() {
            for c in start..end {
                if stays[r * width + c - start] {
                    continue;
                }
                let factors = &u[c * n..(c + 1) * n];
                let error = row[c] / factors[c];
                row[c] = 0.0;
                for (w, f) in row[c + 1..].iter_mut().zip(&factors[c + 1..]) {
                    *w -= error * f;
                }
            }
        }
    }
}

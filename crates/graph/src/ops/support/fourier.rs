//! The discrete Fourier transform of one line, by its definition.

use std::f64::consts::TAU;

/// `X[k] = Σ x[t]·e^(−2πi·kt/n)` for `k < bins`, with the opposite sign and divided by `n` if `inverse`. Lines shorter than
/// `n` are padded with zeros, longer ones cut.
pub fn transform(x: &[(f64, f64)], n: usize, bins: usize, inverse: bool) -> Vec<(f64, f64)> {
    let sign = if inverse { TAU } else { -TAU };
    let turns: Vec<(f64, f64)> = (0..n).map(|i| (sign * i as f64 / n as f64).sin_cos()).collect();
    let scale = if inverse { 1.0 / n as f64 } else { 1.0 };
    (0..bins)
        .map(|k| {
            let (mut re, mut im, mut at) = (0.0, 0.0, 0);
            for (a, b) in x.iter().take(n) {
                let (sin, cos) = turns[at];
                re += a * cos - b * sin;
                im += a * sin + b * cos;
                at = (at + k) % n;
            }
            (re * scale, im * scale)
        })
        .collect()
}

/// The whole spectrum of a real line of `n` values from its first half: the rest mirrors it.
pub fn mirrored(half: &[(f64, f64)], n: usize) -> Vec<(f64, f64)> {
    let at = |k: usize| half.get(k).copied().unwrap_or_default();
    (0..n)
        .map(|k| match k {
            // The ends of the half are real.
            0 => (at(0).0, 0.0),
            _ if 2 * k == n => (at(k).0, 0.0),
            _ if 2 * k < n => at(k),
            _ => (at(n - k).0, -at(n - k).1),
        })
        .collect()
}

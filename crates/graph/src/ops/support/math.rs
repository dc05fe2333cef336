//! Real functions that the standard library lacks.

use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

/// The error function, to about 1e-15: its power series near zero, the continued fraction of `erfc` beyond.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    if a > 6.0 {
        return x.signum();
    }
    if a > 3.0 {
        return x.signum() * (1.0 - erfc_tail(a));
    }
    // erf(x) = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!; all terms have one sign.
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-17 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `1 − erf(x)` for `x > 3`, by the continued fraction of Laplace.
fn erfc_tail(x: f64) -> f64 {
    let fraction = (1..60).rev().fold(x, |f, k| x + f64::from(k) / 2.0 / f);
    (-x * x).exp() / (fraction * PI.sqrt())
}

/// The logistic function `1 / (1 + e^(−x))`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)` without overflow.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The Gaussian error linear unit: `x · Φ(x)`.
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / SQRT_2))
}

/// The approximation of [`gelu`] by a hyperbolic tangent.
pub fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_agrees_with_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - y).abs() < 1e-10 && (erf(-x) + y).abs() < 1e-10, "{x}");
        }
        assert!((1.0 - erf(4.0) - 1.541_725_8e-8).abs() < 1e-14);
        assert!((erf(3.0 + 1e-12) - erf(3.0)).abs() < 1e-14);
        assert_eq!((erf(f64::INFINITY), erf(-1e300)), (1.0, -1.0));
        assert!(erf(f64::NAN).is_nan());
    }
}

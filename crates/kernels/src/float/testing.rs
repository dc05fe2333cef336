//! What the tests of float kernels share.

/// Deterministic values in -1..1.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Checks results against a reference, each within 1e-5 of the sum of magnitudes that made it.
pub(crate) fn assert_close(found: &[f32], expected: &[f64], magnitudes: &[f64], context: &str) {
    assert_eq!(found.len(), expected.len(), "{context}");
    for (i, ((found, expected), magnitude)) in found.iter().zip(expected).zip(magnitudes).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= 1e-5 * magnitude, "{context}: value {i} is {found}, expected {expected}");
    }
}

/// The error function in `f64`, by a series without cancellation.
pub(crate) fn erf64(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

use super::support::{activation, math, unary::unary};
use crate::{Case, Gradient};

unary! {
    /// `x · sigmoid(alpha · x)`, the cheap approximation of the Gaussian error linear unit.
    QuickGelu = "QuickGelu" in "com.microsoft" {
        /// Steepness of the sigmoid.
        alpha: f32 = 1.702,
    }
    map: |op, x| x * math::sigmoid(f64::from(op.alpha) * x),
    gradient: Gradient::Smooth,
    backward: |op, cx, at| activation::swish(cx, op.alpha, at),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", QuickGelu { alpha: 2.0 }).f32(&[2], &[0., 0.549_306_1]).gives(&[2], &[0., 0.411_979_6]),
    ]
}

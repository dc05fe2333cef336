use super::support::{activation, math, unary::unary};
use crate::{Case, Gradient};

unary! {
    /// `x · sigmoid(alpha · x)`; with `alpha` 1 it is also called SiLU.
    Swish = "Swish" {
        /// Steepness of the sigmoid.
        alpha: f32 = 1.0,
    }
    map: |op, x| x * math::sigmoid(f64::from(op.alpha) * x),
    gradient: Gradient::Smooth,
    backward: |op, cx, at| activation::swish(cx, op.alpha, at),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("silu", Swish::default()).f32(&[3], &[0., 1.098_612_3, -1.098_612_3]).gives(&[3], &[0., 0.823_959_2, -0.274_653_1]),
        Case::new("alpha", Swish { alpha: 2.0 }).f32(&[1], &[0.549_306_1]).gives(&[1], &[0.411_979_6]),
    ]
}

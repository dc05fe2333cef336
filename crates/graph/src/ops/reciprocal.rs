use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The reciprocal of every element, `1 / x`.
    Reciprocal = "Reciprocal" {}
    map: |_, x| 1.0 / x,
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.neg(cx.mul(at.dy, cx.square(at.y)?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Reciprocal {}).f32(&[3], &[4., -0.5, 0.]).gives(&[3], &[0.25, -2., f32::INFINITY]),
    ]
}

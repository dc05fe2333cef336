use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// `x` where it is greater than `alpha`, 0 elsewhere.
    ThresholdedRelu = "ThresholdedRelu" {
        /// The threshold.
        alpha: f32 = 1.0,
    }
    map: |op, x| if x > f64::from(op.alpha) { x } else { 0.0 },
    gradient: Gradient::Smooth,
    backward: |op, cx, at| cx.masked(cx.above(at.x, op.alpha.into())?, at.dy),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", ThresholdedRelu { alpha: 2.0 }).f32(&[3], &[-1., 2., 2.5]).gives(&[3], &[0., 0., 2.5]),
    ]
}

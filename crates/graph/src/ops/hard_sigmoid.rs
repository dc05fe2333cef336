use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// A piecewise linear sigmoid, `max(0, min(1, alpha · x + beta))`.
    HardSigmoid = "HardSigmoid" {
        /// Slope.
        alpha: f32 = 0.2,
        /// Value at zero.
        beta: f32 = 0.5,
    }
    map: |op, x| (f64::from(op.alpha) * x + f64::from(op.beta)).clamp(0.0, 1.0),
    gradient: Gradient::Smooth,
    backward: |op, cx, at| {
        let inside = cx.masked(cx.below(at.y, 1.0)?, cx.scale(at.dy, op.alpha.into())?)?;
        cx.masked(cx.above(at.y, 0.0)?, inside)
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", HardSigmoid { alpha: 0.5, beta: 0.25 }).f32(&[4], &[-1., 0., 1., 2.]).gives(&[4], &[0., 0.25, 0.75, 1.]),
    ]
}

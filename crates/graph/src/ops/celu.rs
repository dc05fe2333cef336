use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The continuously differentiable exponential linear unit: `max(0, x) + min(0, alpha · (e^(x / alpha) − 1))`.
    Celu = "Celu" {
        /// Where it ends for very negative values, negated.
        alpha: f32 = 1.0,
    }
    map: |op, x| {
        let alpha = f64::from(op.alpha);
        x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0)
    },
    gradient: Gradient::Smooth,
    backward: |op, cx, at| {
        let slope = cx.offset(cx.scale(at.y, 1.0 / f64::from(op.alpha))?, 1.0)?;
        cx.choose(cx.above(at.x, 0.0)?, at.dy, cx.mul(at.dy, slope)?)
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Celu { alpha: 2.0 }).f32(&[3], &[-1.386_294_4, 0., 3.]).gives(&[3], &[-1., 0., 3.]),
    ]
}

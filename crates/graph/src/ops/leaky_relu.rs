use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// `x` where it is not negative, `alpha · x` elsewhere.
    LeakyRelu = "LeakyRelu" {
        /// Slope for negative values.
        alpha: f32 = 0.01,
    }
    map: |op, x| if x < 0.0 { f64::from(op.alpha) * x } else { x },
    gradient: Gradient::Smooth,
    backward: |op, cx, at| cx.choose(cx.below(at.x, 0.0)?, cx.scale(at.dy, op.alpha.into())?, at.dy),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", LeakyRelu { alpha: 0.25 }).f32(&[3], &[-4., 0., 3.]).gives(&[3], &[-1., 0., 3.]),
    ]
}

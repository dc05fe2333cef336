use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// A piecewise quadratic swish, `x · max(0, min(1, x / 6 + 1 / 2))`.
    HardSwish = "HardSwish" {}
    map: |_, x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| {
        let inside = cx.mul(at.dy, cx.offset(cx.scale(at.x, 1.0 / 3.0)?, 0.5)?)?;
        let below = cx.masked(cx.above(at.x, -3.0)?, inside)?;
        cx.choose(cx.at_least(at.x, 3.0)?, at.dy, below)
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", HardSwish {}).f32(&[5], &[-4., -1.5, 0., 3., 5.]).gives(&[5], &[0., -0.375, 0., 3., 5.]),
    ]
}

use super::support::unary::unary;
use super::support::math;
use crate::{Case, Gradient};

unary! {
    /// The error function, `2 / √π` times the integral of `e^(−t²)` from 0 to `x`.
    Erf = "Erf" {}
    map: |_, x| math::erf(x),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| {
        let bell = cx.exp(cx.neg(cx.square(at.x)?)?)?;
        cx.scale(cx.mul(at.dy, bell)?, std::f64::consts::FRAC_2_SQRT_PI)
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Erf {}).f32(&[4], &[0., 0.5, -1., 5.]).gives(&[4], &[0., 0.520_499_9, -0.842_700_8, 1.]),
    ]
}

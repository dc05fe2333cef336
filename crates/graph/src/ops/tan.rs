use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The tangent of an angle in radians.
    Tan = "Tan" {}
    map: |_, x| x.tan(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.mul(at.dy, cx.offset(cx.square(at.y)?, 1.0)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Tan {}).f32(&[2], &[0., std::f32::consts::FRAC_PI_4]).gives(&[2], &[0., 1.]),
    ]
}

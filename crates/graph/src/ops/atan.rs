use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The inverse of the tangent, in radians.
    Atan = "Atan" {}
    map: |_, x| x.atan(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.div(at.dy, cx.offset(cx.square(at.x)?, 1.0)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Atan {}).f32(&[3], &[0., 1., -1.]).gives(&[3], &[0., std::f32::consts::FRAC_PI_4, -std::f32::consts::FRAC_PI_4]),
    ]
}

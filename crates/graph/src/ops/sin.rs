use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The sine of an angle in radians.
    Sin = "Sin" {}
    map: |_, x| x.sin(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.mul(at.dy, cx.emit(super::Cos {}, &[at.x])?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Sin {}).f32(&[3], &[0., std::f32::consts::FRAC_PI_6, -std::f32::consts::FRAC_PI_2]).gives(&[3], &[0., 0.5, -1.]),
    ]
}

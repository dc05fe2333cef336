use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The cosine of an angle in radians.
    Cos = "Cos" {}
    map: |_, x| x.cos(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.neg(cx.mul(at.dy, cx.emit(super::Sin {}, &[at.x])?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Cos {}).f32(&[3], &[0., std::f32::consts::FRAC_PI_3, std::f32::consts::PI]).gives(&[3], &[1., 0.5, -1.]),
    ]
}

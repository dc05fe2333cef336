use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The inverse of the cosine, in radians.
    Acos = "Acos" {}
    map: |_, x| x.acos(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.neg(cx.div(at.dy, cx.sqrt(cx.sub_from(1.0, cx.square(at.x)?)?)?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Acos {}).f32(&[3], &[1., 0.5, -1.]).gives(&[3], &[0., std::f32::consts::FRAC_PI_3, std::f32::consts::PI]),
    ]
}

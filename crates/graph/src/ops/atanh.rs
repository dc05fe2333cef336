use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The inverse of the hyperbolic tangent.
    Atanh = "Atanh" {}
    map: |_, x| x.atanh(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.div(at.dy, cx.sub_from(1.0, cx.square(at.x)?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Atanh {}).f32(&[2], &[0., 0.6]).gives(&[2], &[0., std::f32::consts::LN_2]),
    ]
}

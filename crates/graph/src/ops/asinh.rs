use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The inverse of the hyperbolic sine.
    Asinh = "Asinh" {}
    map: |_, x| x.asinh(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.div(at.dy, cx.sqrt(cx.offset(cx.square(at.x)?, 1.0)?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Asinh {}).f32(&[3], &[0., 0.75, -0.75]).gives(&[3], &[0., std::f32::consts::LN_2, -std::f32::consts::LN_2]),
    ]
}

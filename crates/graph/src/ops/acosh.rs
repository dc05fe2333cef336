use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The inverse of the hyperbolic cosine.
    Acosh = "Acosh" {}
    map: |_, x| x.acosh(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.div(at.dy, cx.sqrt(cx.offset(cx.square(at.x)?, -1.0)?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Acosh {}).f32(&[2], &[1., 1.25]).gives(&[2], &[0., std::f32::consts::LN_2]),
    ]
}

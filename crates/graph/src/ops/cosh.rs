use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The hyperbolic cosine.
    Cosh = "Cosh" {}
    map: |_, x| x.cosh(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.mul(at.dy, cx.emit(super::Sinh {}, &[at.x])?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Cosh {}).f32(&[2], &[0., std::f32::consts::LN_2]).gives(&[2], &[1., 1.25]),
    ]
}

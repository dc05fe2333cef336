use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The hyperbolic sine of every element.
    Sinh = "Sinh" {}
    map: |_, x| x.sinh(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.mul(at.dy, cx.emit(super::Cosh {}, &[at.x])?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Sinh {}).f32(&[3], &[0., std::f32::consts::LN_2, -std::f32::consts::LN_2]).gives(&[3], &[0., 0.75, -0.75]),
    ]
}

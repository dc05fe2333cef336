use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The exponential function.
    Exp = "Exp" {}
    map: |_, x| x.exp(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.mul(at.dy, at.y),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Exp {}).f32(&[3], &[0., 1., -std::f32::consts::LN_2]).gives(&[3], &[1., std::f32::consts::E, 0.5]),
    ]
}

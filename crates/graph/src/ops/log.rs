use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The natural logarithm.
    Log = "Log" {}
    map: |_, x| x.ln(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.div(at.dy, at.x),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Log {}).f32(&[4], &[1., std::f32::consts::E, 0., -1.]).gives(&[4], &[0., 1., f32::NEG_INFINITY, f32::NAN]),
    ]
}

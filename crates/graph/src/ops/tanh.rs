use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The hyperbolic tangent.
    Tanh = "Tanh" {}
    map: |_, x| x.tanh(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.mul(at.dy, cx.sub_from(1.0, cx.square(at.y)?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Tanh {}).f32(&[4], &[0., 0.549_306_1, -0.549_306_1, 100.]).gives(&[4], &[0., 0.5, -0.5, 1.]),
    ]
}

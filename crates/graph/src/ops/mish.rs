use super::support::unary::unary;
use super::support::math;
use crate::{Case, Gradient};

unary! {
    /// `x · tanh(ln(1 + e^x))`.
    Mish = "Mish" {}
    map: |_, x| x * math::softplus(x).tanh(),
    gradient: Gradient::Smooth,
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Mish {}).f32(&[3], &[0., 1., -100.]).gives(&[3], &[0., 0.865_098_4, 0.]),
    ]
}

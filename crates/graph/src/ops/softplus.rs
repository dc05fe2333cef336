use super::support::unary::unary;
use super::support::math;
use crate::{Case, Gradient};

unary! {
    /// A smooth Relu, `ln(1 + e^x)`.
    Softplus = "Softplus" {}
    map: |_, x| math::softplus(x),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.mul(at.dy, cx.emit(super::Sigmoid {}, &[at.x])?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Softplus {}).f32(&[4], &[0., 1.098_612_3, 1000., -1000.]).gives(&[4], &[std::f32::consts::LN_2, 1.386_294_4, 1000., 0.]),
    ]
}

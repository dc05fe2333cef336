use super::support::unary::unary;
use super::support::math;
use crate::{Case, Gradient};

unary! {
    /// `x · tanh(ln(1 + e^x))`.
    Mish = "Mish" {}
    map: |_, x| x * math::softplus(x).tanh(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| {
        let t = cx.emit(super::Tanh {}, &[cx.emit(super::Softplus {}, &[at.x])?])?;
        let steep = cx.mul(cx.sub_from(1.0, cx.square(t)?)?, cx.emit(super::Sigmoid {}, &[at.x])?)?;
        cx.mul(at.dy, cx.add(t, cx.mul(at.x, steep)?)?)
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Mish {}).f32(&[3], &[0., 1., -100.]).gives(&[3], &[0., 0.865_098_4, 0.]),
    ]
}

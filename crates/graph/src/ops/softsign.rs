use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// A sigmoid of slow decay, `x / (1 + |x|)`.
    Softsign = "Softsign" {}
    map: |_, x| x / (1.0 + x.abs()),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.div(at.dy, cx.square(cx.offset(cx.emit(super::Abs {}, &[at.x])?, 1.0)?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Softsign {}).f32(&[3], &[0., 1., -3.]).gives(&[3], &[0., 0.5, -0.75]),
    ]
}

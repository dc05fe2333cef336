use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The square root; NaN for negative values.
    Sqrt = "Sqrt" {}
    map: |_, x| x.sqrt(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.div(at.dy, cx.scale(at.y, 2.0)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Sqrt {}).f32(&[4], &[0., 2.25, 16., -1.]).gives(&[4], &[0., 1.5, 4., f32::NAN]),
    ]
}

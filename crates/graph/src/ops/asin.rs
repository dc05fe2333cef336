use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The inverse of the sine, in radians.
    Asin = "Asin" {}
    map: |_, x| x.asin(),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.div(at.dy, cx.sqrt(cx.sub_from(1.0, cx.square(at.x)?)?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Asin {}).f32(&[3], &[0., 0.5, -1.]).gives(&[3], &[0., std::f32::consts::FRAC_PI_6, -std::f32::consts::FRAC_PI_2]),
    ]
}

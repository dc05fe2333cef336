use super::support::{activation, math, unary::unary};
use crate::{Case, Gradient};

unary! {
    /// The Gaussian error linear unit, `x · Φ(x)`, as ONNX Runtime's optimizer writes it.
    MsGelu = "Gelu" in "com.microsoft" {}
    map: |_, x| math::gelu(x),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| activation::gelu(cx, at.x, at.dy),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![Case::new("f32", MsGelu {}).f32(&[3], &[0., 1., -1.]).gives(&[3], &[0., 0.841_344_7, -0.158_655_3])]
}

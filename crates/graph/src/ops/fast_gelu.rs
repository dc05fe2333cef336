use qing_tensor::Tensor;

use super::support::{
    elementwise::{fold, infer_arithmetic, map_float},
    math,
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The Gaussian error linear unit approximated by a hyperbolic tangent, after an optional bias was added.
    FastGelu = "FastGelu" in "com.microsoft" {}
    inputs: 1..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for FastGelu {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let sum = fold(cx, |x, b| x + b, i128::wrapping_add)?;
        Ok(vec![map_float(&sum[0], math::gelu_tanh)?])
    }
}

fn cases() -> Vec<Case> {
    vec![Case::new("bias", FastGelu {}).f32(&[2], &[-3., -2.]).f32(&[1], &[3.]).gives(&[2], &[0., 0.841_192])]
}

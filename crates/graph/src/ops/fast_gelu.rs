use qing_tensor::Tensor;

use super::support::{
    activation,
    elementwise::{fold, infer_arithmetic, map_float},
    math,
};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

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

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let x = cx.input(0)?;
        let sum = cx.optional(1).map_or(Ok(x), |b| cx.add(x, b))?;
        let dx = activation::gelu_tanh(cx, sum, cx.dy()?)?;
        let db = cx.optional(1).map(|b| cx.sum_like(dx, b)).transpose()?;
        Ok(vec![Some(cx.sum_like(dx, x)?), db])
    }
}

fn cases() -> Vec<Case> {
    vec![Case::new("bias", FastGelu {}).f32(&[2], &[-3., -2.]).f32(&[1], &[3.]).gives(&[2], &[0., 0.841_192])]
}

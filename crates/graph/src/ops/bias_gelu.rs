use qing_tensor::Tensor;

use super::support::{
    activation,
    elementwise::{fold, infer_arithmetic, map_float},
    math,
};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The Gaussian error linear unit of the sum of two inputs.
    BiasGelu = "BiasGelu" in "com.microsoft" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for BiasGelu {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let sum = fold(cx, |x, b| x + b, i128::wrapping_add)?;
        Ok(vec![map_float(&sum[0], math::gelu)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let dx = activation::gelu(cx, cx.add(a, b)?, cx.dy()?)?;
        Ok(vec![Some(cx.sum_like(dx, a)?), Some(cx.sum_like(dx, b)?)])
    }
}

fn cases() -> Vec<Case> {
    vec![Case::new("bias", BiasGelu {}).f32(&[2], &[-3., -2.]).f32(&[1], &[3.]).gives(&[2], &[0., 0.841_344_7])]
}

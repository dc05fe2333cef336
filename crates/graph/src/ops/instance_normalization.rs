use qing_tensor::Tensor;

use super::support::normalization::{gradient_of_groups, normalize_groups};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `(x − mean) / √(var + epsilon) · scale + B`, mean and variance of each channel of each instance.
    InstanceNormalization = "InstanceNormalization" {
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-5,
    }
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: super::support::unary::upgrade
}

impl Op for InstanceNormalization {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let channels = x.shape().get(1).copied().unwrap_or(1);
        normalize_groups(x, channels, cx.input(1)?, cx.input(2)?, self.epsilon.into())
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let channels = cx.shape(cx.input(0)?)?.get(1).copied().unwrap_or(1);
        gradient_of_groups(cx, channels, self.epsilon)
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Means 2 and 15, variances 1 and 25.
        Case::new("two_channels", InstanceNormalization { epsilon: 0.0 })
            .f32(&[1, 2, 2], &[1., 3., 10., 20.])
            .f32(&[2], &[2., 1.])
            .f32(&[2], &[0.5, 0.])
            .gives(&[1, 2, 2], &[-1.5, 2.5, -1., 1.]),
    ]
}

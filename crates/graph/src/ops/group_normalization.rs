use qing_tensor::Tensor;

use super::support::{normalization::{gradient_of_groups, normalize_groups}, sizes};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `(x − mean) / √(var + epsilon) · scale + bias`, mean and variance of each group of channels of each instance; scale
    /// and bias are given for each channel, or, as before opset 21, for each group.
    GroupNormalization = "GroupNormalization" {
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-5,
        /// Number of groups.
        num_groups: i64 = 1,
        /// Element of the statistics, as ONNX numbers it.
        stash_type: i64 = 1,
    }
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for GroupNormalization {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let groups =
            usize::try_from(self.num_groups).map_err(|_| OpError::invalid(format!("{} groups", self.num_groups)))?;
        normalize_groups(cx.input(0)?, groups, cx.input(1)?, cx.input(2)?, self.epsilon.into())
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let groups = sizes::dimension(self.num_groups)?;
        gradient_of_groups(cx, groups, self.epsilon)
    }
}

fn cases() -> Vec<Case> {
    let op = GroupNormalization { epsilon: 0.0, ..GroupNormalization::default() };
    vec![
        // Mean 2, variance 1 over both channels.
        Case::new("per_channel", op.clone())
            .f32(&[1, 2, 2], &[1., 3., 3., 1.])
            .f32(&[2], &[2., 1.])
            .f32(&[2], &[0.5, 0.])
            .gives(&[1, 2, 2], &[-1.5, 2.5, 1., -1.]),
        Case::new("per_group", op)
            .f32(&[1, 2, 2], &[1., 3., 3., 1.])
            .f32(&[1], &[2.])
            .f32(&[1], &[0.5])
            .gives(&[1, 2, 2], &[-1.5, 2.5, 2.5, -1.5]),
    ]
}

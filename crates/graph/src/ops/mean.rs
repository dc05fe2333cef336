use qing_tensor::Tensor;

use super::support::elementwise::{fold, infer_arithmetic, map_float};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The mean of any number of values, with broadcasting.
    Mean = "Mean" {}
    inputs: 1..=usize::MAX, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: super::support::unary::upgrade
}

impl Op for Mean {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let n = cx.inputs.len() as f64;
        let sum = fold(cx, |a, b| a + b, i128::wrapping_add)?;
        Ok(vec![map_float(&sum[0], |v| v / n)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let share = cx.scale(cx.dy()?, 1.0 / cx.inputs() as f64)?;
        (0..cx.inputs()).map(|i| cx.wanted(i, || cx.sum_like(share, cx.input(i)?))).collect()
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("broadcast", Mean {})
            .f32(&[2, 1], &[1., 9.])
            .f32(&[2], &[3., 2.])
            .gives(&[2, 2], &[2., 1.5, 6., 5.5]),
        Case::new("one", Mean {}).f32(&[2], &[1., -2.]).gives(&[2], &[1., -2.]),
    ]
}

use qing_tensor::Tensor;

use super::support::elementwise::{fold, infer_arithmetic};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The sum of any number of values, with broadcasting.
    Sum = "Sum" {}
    inputs: 1..=usize::MAX, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: super::support::unary::upgrade
}

impl Op for Sum {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        fold(cx, |a, b| a + b, i128::wrapping_add)
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        (0..cx.inputs()).map(|i| cx.wanted(i, || cx.sum_like(cx.dy()?, cx.input(i)?))).collect()
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("broadcast", Sum {})
            .f32(&[2, 1], &[1., 9.])
            .f32(&[2], &[3., 2.])
            .gives(&[2, 2], &[4., 3., 12., 11.]),
        Case::new("one", Sum {}).f32(&[2], &[1., -2.]).gives(&[2], &[1., -2.]),
        Case::new("i64", Sum {}).i64s(&[1, 2]).i64s(&[5, -7]).output(Tensor::vector(vec![6i64, -5])),
    ]
}

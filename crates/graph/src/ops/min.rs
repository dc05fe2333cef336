use qing_tensor::Tensor;

use super::support::elementwise::{fold, gradient_of_extreme, infer_arithmetic};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The least of any number of values, with broadcasting; NaN if there is one.
    Min = "Min" {}
    inputs: 1..=usize::MAX, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: super::support::unary::upgrade
}

impl Op for Min {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        fold(cx, |a, b| if a.is_nan() || a < b { a } else { b }, i128::min)
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        gradient_of_extreme(cx)
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("broadcast", Min {})
            .f32(&[2, 1], &[1., 9.])
            .f32(&[2], &[3., 2.])
            .gives(&[2, 2], &[1., 1., 3., 2.]),
        Case::new("one", Min {}).f32(&[2], &[1., -2.]).gives(&[2], &[1., -2.]),
        Case::new("i64", Min {}).i64s(&[1, 2]).i64s(&[5, -7]).output(Tensor::vector(vec![1i64, -7])),
    ]
}

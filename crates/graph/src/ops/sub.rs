use qing_tensor::Tensor;

use super::support::elementwise::{arithmetic, infer_arithmetic, upgrade_broadcast};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `a − b` with broadcasting.
    Sub = "Sub" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade_broadcast
}

impl Op for Sub {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![arithmetic(cx.input(0)?, cx.input(1)?, |x, y| x - y, i128::wrapping_sub)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let dy = cx.dy()?;
        let a = cx.wanted(0, || cx.sum_like(dy, cx.input(0)?))?;
        let b = cx.wanted(1, || cx.neg(cx.sum_like(dy, cx.input(1)?)?))?;
        Ok(vec![a, b])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("broadcast", Sub {})
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .f32(&[2], &[10., 20.])
            .gives(&[2, 2], &[-9., -18., -7., -16.]),
        Case::new("i64", Sub {}).i64s(&[1, 2]).i64s(&[3, -4]).output(Tensor::vector(vec![-2i64, 6])),
        Case::new("u8_wraps", Sub {})
            .input(Tensor::vector(vec![1u8]))
            .input(Tensor::vector(vec![2u8]))
            .output(Tensor::vector(vec![255u8])),
    ]
}

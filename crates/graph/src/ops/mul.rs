use qing_tensor::Tensor;

use super::support::elementwise::{arithmetic, infer_arithmetic, upgrade_broadcast};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `a · b` with broadcasting.
    Mul = "Mul" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade_broadcast
}

impl Op for Mul {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![arithmetic(cx.input(0)?, cx.input(1)?, |x, y| x * y, i128::wrapping_mul)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (a, b, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let da = cx.wanted(0, || cx.sum_like(cx.mul(dy, b)?, a))?;
        let db = cx.wanted(1, || cx.sum_like(cx.mul(dy, a)?, b))?;
        Ok(vec![da, db])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("broadcast", Mul {})
            .f32(&[2, 1], &[2., -3.])
            .f32(&[2], &[10., 20.])
            .gives(&[2, 2], &[20., 40., -30., -60.]),
        Case::new("i64", Mul {}).i64s(&[1, 2]).i64s(&[3, -4]).output(Tensor::vector(vec![3i64, -8])),
    ]
}

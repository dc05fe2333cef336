use qing_tensor::Tensor;

use super::support::elementwise::{arithmetic, infer_arithmetic, upgrade_broadcast};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `a / b` with broadcasting. Integers truncate towards zero; an integer divided by zero gives zero.
    Div = "Div" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade_broadcast
}

impl Op for Div {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![arithmetic(cx.input(0)?, cx.input(1)?, |x, y| x / y, |x, y| x.checked_div(y).unwrap_or(0))?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let da = cx.div(cx.dy()?, b)?;
        let db = cx.wanted(1, || cx.sum_like(cx.neg(cx.mul(da, cx.output(0)?)?)?, b))?;
        Ok(vec![cx.wanted(0, || cx.sum_like(da, a))?, db])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("broadcast", Div {})
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .f32(&[2], &[2., -4.])
            .gives(&[2, 2], &[0.5, -0.5, 1.5, -1.]),
        Case::new("i64", Div {}).i64s(&[7, -7, 7]).i64s(&[2, 2, 0]).output(Tensor::vector(vec![3i64, -3, 0])),
    ]
}

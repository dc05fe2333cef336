use qing_tensor::Tensor;

use super::support::elementwise::bitwise;
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The bits of an integer, each flipped.
    BitwiseNot = "BitwiseNot" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("bits do not vary smoothly"),
    cases: cases
}

impl Op for BitwiseNot {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        Ok(vec![bitwise(x, x, |a, _| !a)?])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("i64", BitwiseNot {}).i64s(&[0, -2]).output(Tensor::vector(vec![-1i64, 1])),
        Case::new("u8", BitwiseNot {}).input(Tensor::vector(vec![1u8])).output(Tensor::vector(vec![254u8])),
    ]
}

use qing_tensor::Tensor;

use super::support::elementwise::{bitwise, infer_arithmetic};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The bits that are set in exactly one of two integers, with broadcasting.
    BitwiseXor = "BitwiseXor" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::None("bits do not vary smoothly"),
    cases: cases
}

impl Op for BitwiseXor {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![bitwise(cx.input(0)?, cx.input(1)?, |a, b| a ^ b)?])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("i64", BitwiseXor {}).i64s(&[0b1010, -1]).i64s(&[0b1100, -2]).output(Tensor::vector(vec![0b0110i64, 1])),
    ]
}

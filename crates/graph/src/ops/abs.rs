use qing_tensor::Tensor;

use super::support::elementwise::{eval_number, infer_unary};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// The magnitude of every element.
    Abs = "Abs" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: super::support::unary::upgrade
}

impl Op for Abs {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_unary(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        eval_number(self, cx, i128::wrapping_abs)
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Table
    }

    fn map(&self, x: f64) -> Option<f64> {
        Some(x.abs())
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.mul(cx.dy()?, cx.emit(super::Sign {}, &[cx.input(0)?])?)?)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Abs {}).f32(&[2], &[-2., 0.5]).gives(&[2], &[2., 0.5]),
        Case::new("i64", Abs {}).i64s(&[3, -4]).output(Tensor::vector(vec![3i64, 4])),
    ]
}

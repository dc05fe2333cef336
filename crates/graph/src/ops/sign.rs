use qing_tensor::Tensor;

use super::support::elementwise::{eval_number, infer_unary};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// −1, 0 or 1, as `x` is negative, zero or positive.
    Sign = "Sign" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("it is constant but for its step"),
    cases: cases,
    upgrade: super::support::unary::upgrade
}

impl Op for Sign {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_unary(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        eval_number(self, cx, i128::signum)
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Table
    }

    fn map(&self, x: f64) -> Option<f64> {
        Some(sign(x))
    }
}

fn sign(x: f64) -> f64 {
    if x == 0.0 || x.is_nan() { x } else { x.signum() }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Sign {}).f32(&[2], &[-2., 0.5]).gives(&[2], &[-1., 1.]),
        Case::new("i64", Sign {}).i64s(&[3, -4]).output(Tensor::vector(vec![1i64, -1])),
    ]
}

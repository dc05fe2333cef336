use qing_tensor::Tensor;

use super::support::elementwise::{eval_unary, infer_unary, map_float};
use crate::{Backward, Gradients, Case, Element, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Values towards zero by `bias`, and to zero where they are within `lambd` of it.
    Shrink = "Shrink" {
        /// What is taken off.
        bias: f32 = 0.0,
        /// Half the width of what becomes zero.
        lambd: f32 = 0.5,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Shrink {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_unary(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        if cx.quant(0).is_some() || x.element().is_float() {
            return eval_unary(self, cx);
        }
        let y = map_float(&x.cast(Element::F64), |v| self.map(v).unwrap_or(f64::NAN))?;
        Ok(vec![y.cast(x.element())])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Table
    }

    fn map(&self, x: f64) -> Option<f64> {
        let (bias, lambd) = (f64::from(self.bias), f64::from(self.lambd));
        Some(if x < -lambd {
            x + bias
        } else if x > lambd {
            x - bias
        } else {
            0.0
        })
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let x = cx.input(0)?;
        let outside = cx.above(cx.emit(super::Abs {}, &[x])?, self.lambd.into())?;
        Ok(vec![Some(cx.masked(outside, cx.dy()?)?)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("soft", Shrink { bias: 1.5, lambd: 1.5 })
            .f32(&[4], &[-2., -1., 1.5, 3.])
            .gives(&[4], &[-0.5, 0., 0., 1.5]),
        Case::new("i64", Shrink { bias: 1.0, lambd: 2.0 }).i64s(&[-3, 2]).output(Tensor::vector(vec![-2i64, 0])),
    ]
}

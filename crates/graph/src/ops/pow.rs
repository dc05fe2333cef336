use qing_tensor::Tensor;

use super::support::elementwise::{arithmetic, infer_arithmetic, upgrade_broadcast};
use crate::{Backward, Gradients, Case, Element, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `x^y` with broadcasting; the result has the element of `x`.
    Pow = "Pow" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade_broadcast
}

impl Op for Pow {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, y) = (cx.input(0)?, cx.input(1)?);
        if x.element().is_float() || y.element().is_float() {
            let power = arithmetic(&x.cast(Element::F64), &y.cast(Element::F64), f64::powf, |x, _| x)?;
            return Ok(vec![power.cast(x.element())]);
        }
        let power = |x: i128, y: i128| match u32::try_from(y) {
            Ok(y) => x.wrapping_pow(y),
            // The whole part of 1 / x^|y|.
            Err(_) if x.abs() == 1 => if y % 2 == 0 { 1 } else { x },
            Err(_) => 0,
        };
        let result = arithmetic(&x.cast(Element::I64), &y.cast(Element::I64), f64::powf, power)?;
        Ok(vec![result.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, y, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let dx = cx.wanted(0, || {
            let exponent = cx.constant(y).filter(|t| t.len() == 1).map(|t| t.to_f64s()[0]);
            let slope = match exponent {
                Some(2.0) => cx.scale(x, 2.0)?,
                _ => {
                    let y = cx.cast_like(y, x)?;
                    cx.mul(y, cx.emit(Pow {}, &[x, cx.offset(y, -1.0)?])?)?
                }
            };
            cx.sum_like(cx.mul(dy, slope)?, x)
        })?;
        // Of a base that is not positive, the power is no function of a real exponent.
        let dy = cx.wanted(1, || {
            let log = cx.masked(cx.above(x, 0.0)?, cx.emit(super::Log {}, &[x])?)?;
            cx.cast_like(cx.sum_like(cx.mul(dy, cx.mul(cx.output(0)?, log)?)?, y)?, y)
        })?;
        Ok(vec![dx, dy])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Pow {}).f32(&[3], &[2., 9., -2.]).f32(&[3], &[3., 0.5, 3.]).gives(&[3], &[8., 3., -8.]),
        Case::new("float_exponent", Pow {}).i64s(&[4, 10]).f32(&[], &[2.]).output(Tensor::vector(vec![16i64, 100])),
        Case::new("i64", Pow {}).i64s(&[2, -3, 5]).i64s(&[10, 3, -1]).output(Tensor::vector(vec![1024i64, -27, 0])),
    ]
}

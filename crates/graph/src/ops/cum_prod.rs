use qing_tensor::Tensor;

use super::support::scan::{Scan, eval_scan};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The running products along the axis that a second input names.
    CumProd = "CumProd" {
        /// Whether an element leaves itself out.
        exclusive: bool = false,
        /// Whether to run from the end.
        reverse: bool = false,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for CumProd {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let scan = Scan { first: 1, real: |a, b| a * b, integer: i64::wrapping_mul };
        eval_scan(cx, self.exclusive, self.reverse, &scan)
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        // Every product that holds a value changes by the product over the value, so a value must not be zero.
        let op = super::CumSum { exclusive: self.exclusive, reverse: !self.reverse };
        let sum = cx.emit(op, &[cx.mul(cx.dy()?, cx.output(0)?)?, cx.input(1)?])?;
        Ok(vec![Some(cx.div(sum, cx.input(0)?)?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("forward", CumProd::default())
            .f32(&[3], &[1., 2., 3.])
            .input(Tensor::scalar(0i64))
            .gives(&[3], &[1., 2., 6.]),
        Case::new("exclusive", CumProd { exclusive: true, reverse: false })
            .i64s(&[3, 2, 9])
            .input(Tensor::scalar(-1i64))
            .output(Tensor::vector(vec![1i64, 3, 6])),
        Case::new("reverse", CumProd { exclusive: false, reverse: true })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .input(Tensor::scalar(0i64))
            .gives(&[2, 2], &[3., 8., 3., 4.]),
    ]
}

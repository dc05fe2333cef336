use qing_tensor::Tensor;

use super::support::scan::{Scan, eval_scan};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The running sums along the axis that a second input names.
    CumSum = "CumSum" {
        /// Whether an element leaves itself out.
        exclusive: bool = false,
        /// Whether to run from the end.
        reverse: bool = false,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for CumSum {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let scan = Scan { first: 0, real: |a, b| a + b, integer: i64::wrapping_add };
        eval_scan(cx, self.exclusive, self.reverse, &scan)
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let op = CumSum { exclusive: self.exclusive, reverse: !self.reverse };
        Ok(vec![Some(cx.emit(op, &[cx.dy()?, cx.input(1)?])?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("forward", CumSum::default())
            .f32(&[3], &[1., 2., 3.])
            .input(Tensor::scalar(0i64))
            .gives(&[3], &[1., 3., 6.]),
        Case::new("exclusive", CumSum { exclusive: true, reverse: false })
            .i64s(&[3, 2, 9])
            .input(Tensor::scalar(-1i64))
            .output(Tensor::vector(vec![0i64, 3, 5])),
        Case::new("reverse", CumSum { exclusive: false, reverse: true })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .input(Tensor::scalar(0i64))
            .gives(&[2, 2], &[4., 6., 3., 4.]),
    ]
}

use qing_tensor::Tensor;

use super::support::softmax::{along, axes_of, infer_softmax, log_softmax_line, upgrade};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The logarithm of the softmax along `axis`.
    LogSoftmax = "LogSoftmax" {
        /// The axis; negative counts from the end.
        axis: i64 = -1,
        /// Whether all axes from `axis` on are one, as they were before opset 13.
        coerced: bool = false,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

impl Op for LogSoftmax {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_softmax(cx, self.axis)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let y = along(x, self.axis, self.coerced)?.map_lines(&x.to_f64s(), log_softmax_line);
        Ok(vec![Tensor::new(x.shape(), y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (y, dy) = (cx.output(0)?, cx.dy()?);
        let total = cx.sum(dy, &axes_of(cx.rank(y)?, self.axis, self.coerced)?)?;
        Ok(vec![Some(cx.sub(dy, cx.mul(cx.exp(y)?, total)?)?)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last", LogSoftmax::default())
            .f32(&[2, 2], &[0., 1.098_612_3, 1000., 1000.])
            .gives(&[2, 2], &[-1.386_294_4, -0.287_682_1, -std::f32::consts::LN_2, -std::f32::consts::LN_2]),
        Case::new("first", LogSoftmax { axis: 0, ..LogSoftmax::default() })
            .f32(&[2, 1], &[5., 5.])
            .gives(&[2, 1], &[-std::f32::consts::LN_2, -std::f32::consts::LN_2]),
        Case::new("coerced", LogSoftmax { axis: 1, coerced: true })
            .f32(&[1, 2, 1], &[0., 1.098_612_3])
            .gives(&[1, 2, 1], &[-1.386_294_4, -0.287_682_1]),
    ]
}

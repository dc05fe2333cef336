use qing_tensor::Tensor;

use super::support::{
    axes::Along,
    loss::{Loss, infer_loss},
    softmax::log_softmax_line,
};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The negative log likelihood of target classes after a softmax over axis 1; the second output is the logarithm of
    /// the softmax.
    SoftmaxCrossEntropyLoss = "SoftmaxCrossEntropyLoss" {
        /// Target that counts nothing.
        ignore_index: Option<i64> = None,
        /// `none`, `sum` or `mean`.
        reduction: String = "mean".into(),
    }
    inputs: 2..=3, outputs: 1..=2,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for SoftmaxCrossEntropyLoss {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![infer_loss(cx, &self.reduction)?, Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        if x.rank() < 2 {
            return Err(OpError::invalid(format!("scores of shape {:?}", x.shape())));
        }
        let log = Along::new(x.shape(), 1).map_lines(&x.to_f64s(), log_softmax_line);
        let loss = Loss { ignore: self.ignore_index, reduction: &self.reduction };
        let y = loss.of(x, &log, cx.input(1)?, cx.optional(2))?;
        Ok(vec![y, Tensor::new(x.shape(), log)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| {
            let log = cx.emit(super::LogSoftmax { axis: 1, ..super::LogSoftmax::default() }, &[cx.input(0)?])?;
            let loss = Loss { ignore: self.ignore_index, reduction: &self.reduction };
            Ok(vec![Some(loss.by_parts(cx, log)?), Some(log)])
        })
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Probabilities 1/4 and 3/4, 1/2 and 1/2.
        Case::new("mean", SoftmaxCrossEntropyLoss::default())
            .f32(&[2, 2], &[0., 1.098_612_3, 7., 7.])
            .i64s(&[0, 1])
            .gives(&[], &[1.039_720_8])
            .gives(&[2, 2], &[-1.386_294_4, -0.287_682_1, -std::f32::consts::LN_2, -std::f32::consts::LN_2]),
    ]
}

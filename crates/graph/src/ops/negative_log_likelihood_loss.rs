use qing_tensor::Tensor;

use super::support::loss::{Loss, infer_loss};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `−weight[t] · input[n, t, …]` for each target class `t`, summed, averaged by weight, or left as it is.
    NegativeLogLikelihoodLoss = "NegativeLogLikelihoodLoss" {
        /// Target that counts nothing.
        ignore_index: Option<i64> = None,
        /// `none`, `sum` or `mean`.
        reduction: String = "mean".into(),
    }
    inputs: 2..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for NegativeLogLikelihoodLoss {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![infer_loss(cx, &self.reduction)?])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let loss = Loss { ignore: self.ignore_index, reduction: &self.reduction };
        Ok(vec![loss.of(x, &x.to_f64s(), cx.input(1)?, cx.optional(2))?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| {
            let loss = Loss { ignore: self.ignore_index, reduction: &self.reduction };
            Ok(vec![Some(loss.by_parts(cx, cx.input(0)?)?)])
        })
    }
}

fn cases() -> Vec<Case> {
    let op = |reduction: &str| NegativeLogLikelihoodLoss { ignore_index: Some(9), reduction: reduction.into() };
    let inputs = |reduction: &str| {
        Case::new(reduction, op(reduction))
            .f32(&[3, 2], &[-1., -2., -3., -4., -5., -6.])
            .i64s(&[1, 0, 9])
            .f32(&[2], &[2., 0.5])
    };
    vec![
        inputs("none").gives(&[3], &[1., 6., 0.]),
        inputs("sum").gives(&[], &[7.]),
        inputs("mean").gives(&[], &[2.8]),
    ]
}

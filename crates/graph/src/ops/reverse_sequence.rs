use qing_tensor::{Tensor, strides};

use super::support::{axes::normalize, movement::moved, sizes::dimension};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Reverses the first `sequence_lens[b]` values along the time axis, for each `b` of the batch axis.
    ReverseSequence = "ReverseSequence" {
        /// The axis of the batch.
        batch_axis: i64 = 1,
        /// The axis of time.
        time_axis: i64 = 0,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for ReverseSequence {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let (batch, time) = (normalize(self.batch_axis, x.rank())?, normalize(self.time_axis, x.rank())?);
        let lengths = cx.input(1)?.to_i64s().into_iter().map(dimension).collect::<Result<Vec<usize>, OpError>>()?;
        if lengths.len() != x.shape()[batch] || lengths.iter().any(|n| *n > x.shape()[time]) {
            return Err(OpError::invalid(format!("lengths {lengths:?} for a tensor of shape {:?}", x.shape())));
        }
        let own = strides(x.shape());
        let from = |at: &[usize]| {
            let plain: usize = at.iter().zip(&own).map(|(i, s)| i * s).sum();
            let (t, length) = (at[time], lengths[at[batch]]);
            if t < length { plain - t * own[time] + (length - 1 - t) * own[time] } else { plain }
        };
        Ok(vec![moved(x, x.shape(), from)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.emit(self.clone(), &[cx.dy()?, cx.input(1)?])?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("time_first", ReverseSequence::default())
            .f32(&[3, 2], &[1., 2., 3., 4., 5., 6.])
            .i64s(&[3, 2])
            .gives(&[3, 2], &[5., 4., 3., 2., 1., 6.]),
    ]
}

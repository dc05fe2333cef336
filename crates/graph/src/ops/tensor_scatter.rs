use qing_tensor::Tensor;

use super::support::{axes::normalize, elementwise::each_index, movement::gradient_of_moved, scatter::scatter, sizes::dimension};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// A cache with an update written into each sequence of the batch, from its write index on. Inputs: cache, update and
    /// the indices, 0 if absent.
    TensorScatter = "TensorScatter" {
        /// The axis of the sequence; negative counts from the end.
        axis: i64 = -2,
        /// `linear`, or `circular`: behind the end the writing goes on at the begin.
        mode: String = "linear".into(),
    }
    inputs: 2..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for TensorScatter {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (cache, update) = (cx.input(0)?, cx.input(1)?);
        let axis = normalize(self.axis, cache.rank())?;
        let fits = update.rank() == cache.rank()
            && axis > 0
            && (0..cache.rank()).all(|i| i == axis || update.shape()[i] == cache.shape()[i]);
        if !fits {
            return Err(OpError::invalid(format!("update {update:?} into {cache:?} along axis {axis}")));
        }
        let batch = cache.shape()[0];
        let first = match cx.optional(2) {
            None => vec![0; batch],
            Some(t) => t.to_i64s().into_iter().map(dimension).collect::<Result<Vec<usize>, OpError>>()?,
        };
        let length = cache.shape()[axis];
        let circular = match self.mode.as_str() {
            "linear" => false,
            "circular" => true,
            other => return Err(OpError::invalid(format!("mode {other:?}"))),
        };
        let last = first.iter().max().copied().unwrap_or(0).saturating_add(update.shape()[axis]);
        if first.len() != batch || (!circular && last > length) || last == usize::MAX {
            return Err(OpError::invalid(format!("write indices {first:?} into sequences of {length}")));
        }
        let own = qing_tensor::strides(cache.shape());
        let mut targets = vec![];
        each_index(update.shape(), |at| {
            let mut at = at.to_vec();
            at[axis] += first[at[0]];
            if circular {
                at[axis] %= length.max(1);
            }
            targets.push(at.iter().zip(&own).map(|(i, s)| i * s).sum());
        });
        Ok(vec![scatter(cache, update, &targets, "none")?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let cache = cx.wanted(0, || gradient_of_moved(cx, self, 0))?;
        Ok(vec![cache, cx.wanted(1, || gradient_of_moved(cx, self, 1))?, None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("linear", TensorScatter::default())
            .f32(&[2, 3, 1], &[1., 2., 3., 4., 5., 6.])
            .f32(&[2, 1, 1], &[10., 20.])
            .i64s(&[2, 0])
            .gives(&[2, 3, 1], &[1., 2., 10., 20., 5., 6.]),
        Case::new("circular", TensorScatter { mode: "circular".into(), ..TensorScatter::default() })
            .f32(&[1, 3, 1], &[1., 2., 3.])
            .f32(&[1, 2, 1], &[10., 20.])
            .i64s(&[2])
            .gives(&[1, 3, 1], &[20., 2., 10.]),
    ]
}

use qing_tensor::Tensor;

use super::support::{elementwise::each_index, scatter::slice_targets, sizes::dimension};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// The slices of `data` that the tuples in the last axis of `indices` name.
    GatherND = "GatherND" {
        /// How many first axes of both inputs run together.
        batch_dims: i64 = 0,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for GatherND {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let (x, batch) = (cx.ty(0)?, dimension(self.batch_dims)?);
        let shape = match (&x.shape, cx.shape(1)?) {
            (Some(data), Some([outer @ .., depth])) => {
                let sliced = depth.known().map(|n| data.get(batch.saturating_add(n)..));
                match sliced {
                    Some(None) => return Err(OpError::invalid(format!("tuples of {depth} for rank {}", data.len()))),
                    Some(Some(rest)) => Some([outer, rest].concat()),
                    None => None,
                }
            }
            _ => None,
        };
        Ok(vec![x.with_shape(shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, indices, batch) = (cx.input(0)?, cx.input(1)?, dimension(self.batch_dims)?);
        let targets = slice_targets(x.shape(), indices, batch)?;
        let (depth, outer) = indices.shape().split_last().ok_or_else(|| OpError::invalid("indices of rank 0"))?;
        let shape = [outer, &x.shape()[batch + depth..]].concat();
        Ok(vec![x.take(&shape, targets)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let (shape, mut tuples, batch) = (cx.shape(x)?, indices, dimension(self.batch_dims)?);
        if batch > 0 {
            // Where a tuple stands becomes part of it.
            let outer = cx.shape(indices)?;
            let outer = &outer[..outer.len() - 1];
            let mut at_batch = vec![];
            each_index(outer, |at| at_batch.extend(at[..batch].iter().map(|i| *i as i64)));
            let at_batch = cx.tensor(Tensor::new::<i64>(&[outer, &[batch]].concat(), at_batch)?);
            tuples = cx.emit(super::Concat { axis: -1 }, &[at_batch, cx.cast_like(indices, at_batch)?])?;
        }
        let zeros = cx.expand(cx.scalar(x, 0.0), &shape)?;
        Ok(vec![Some(cx.emit(super::ScatterND { reduction: "add".into() }, &[zeros, tuples, cx.dy()?])?), None])
    }
}

fn cases() -> Vec<Case> {
    let indices = |shape: &[usize], v: &[i64]| Tensor::new(shape, v.to_vec()).expect("fits");
    vec![
        Case::new("values", GatherND::default())
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .input(indices(&[2, 2], &[0, 0, 1, -1]))
            .gives(&[2], &[1., 4.]),
        Case::new("rows", GatherND::default())
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .input(indices(&[1, 1], &[1]))
            .gives(&[1, 2], &[3., 4.]),
        Case::new("batch", GatherND { batch_dims: 1 })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .input(indices(&[2, 1], &[1, 0]))
            .gives(&[2], &[2., 3.]),
    ]
}

use qing_tensor::{Tensor, strides};

use super::support::{axes::normalize, movement::strided, sizes::dimension};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, QuantRule, Type, op};

op! {
    /// Its input cut along an axis into pieces of the sizes in `split`, or of equal size, the last one perhaps smaller.
    Split = "Split" {
        /// The axis to cut; negative counts from the end.
        axis: i64 = 0,
        /// Number of equal pieces; as many as there are outputs if absent.
        num_outputs: Option<i64> = None,
    }
    inputs: 1..=2, outputs: 1..=usize::MAX,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 13 the sizes were an attribute.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.ints_to_input("split", 1)
}

impl Split {
    /// Sizes of the pieces of an axis of `size`, for a node of so many outputs.
    fn sizes(&self, size: usize, split: Option<&Tensor>, outputs: usize) -> Result<Vec<usize>, OpError> {
        if let Some(split) = split {
            let sizes = split.to_i64s().into_iter().map(dimension).collect::<Result<Vec<usize>, OpError>>()?;
            if sizes.iter().try_fold(0usize, |sum, n| sum.checked_add(*n)) != Some(size) || sizes.len() < outputs {
                return Err(OpError::invalid(format!("{size} values split into {sizes:?} for {outputs} outputs")));
            }
            return Ok(sizes);
        }
        let count = self.num_outputs.map_or(Ok(outputs), dimension)?;
        if count == 0 || count > outputs.max(size).max(1) {
            return Err(OpError::invalid(format!("{size} values split into {count} pieces")));
        }
        let piece = size.div_ceil(count);
        Ok((0..count).map(|i| size.saturating_sub(i * piece).min(piece)).collect())
    }
}

impl Op for Split {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else { return Ok(vec![x.with_shape(None); cx.outputs]) };
        let axis = normalize(self.axis, dims.len())?;
        let sizes: Vec<Dim> = match (dims[axis].known(), cx.optional(1).is_some(), cx.constant(1)) {
            (Some(size), true, Some(split)) => known(self.sizes(size, Some(split), cx.outputs)?),
            (Some(size), false, _) => known(self.sizes(size, None, cx.outputs)?),
            (None, true, Some(split)) => {
                split.to_i64s().into_iter().map(|n| dimension(n).map(Dim::Known)).collect::<Result<_, _>>()?
            }
            _ => vec![Dim::Unknown; cx.outputs],
        };
        let piece = |size: Dim| {
            let mut shape = dims.clone();
            shape[axis] = size;
            x.with_shape(Some(shape))
        };
        Ok(sizes.into_iter().map(piece).collect())
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let axis = normalize(self.axis, x.rank())?;
        let steps: Vec<isize> = strides(x.shape()).into_iter().map(|s| s as isize).collect();
        let mut start = 0;
        let mut pieces = vec![];
        for size in self.sizes(x.shape()[axis], cx.optional(1), cx.outputs.len())? {
            let mut shape = x.shape().to_vec();
            shape[axis] = size;
            pieces.push(x.take(&shape, strided(&shape, start * steps[axis] as usize, &steps))?);
            start += size;
        }
        Ok(pieces)
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let axis = normalize(self.axis, cx.rank(cx.input(0)?)?)?;
        let mut parts = vec![];
        for (i, part) in cx.gradients().into_iter().enumerate() {
            parts.push(part.map_or_else(|| cx.zeros_like(cx.output(i)?), Ok)?);
        }
        // Pieces that the node does not name are not used either.
        let shape = cx.shape(cx.input(0)?)?;
        let given = parts.iter().map(|p| Ok(cx.shape(*p)?[axis])).sum::<Result<usize, OpError>>()?;
        if given < shape[axis] {
            let mut rest = shape;
            rest[axis] -= given;
            parts.push(cx.expand(cx.scalar(cx.input(0)?, 0.0), &rest)?);
        }
        Ok(vec![Some(cx.emit(super::Concat { axis: axis as i64 }, &parts)?), None])
    }
}

fn known(sizes: Vec<usize>) -> Vec<Dim> {
    sizes.into_iter().map(Dim::Known).collect()
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("halves", Split { axis: 1, num_outputs: None })
            .f32(&[2, 4], &[1., 2., 3., 4., 5., 6., 7., 8.])
            .gives(&[2, 2], &[1., 2., 5., 6.])
            .gives(&[2, 2], &[3., 4., 7., 8.]),
        Case::new("uneven", Split { axis: 0, num_outputs: Some(2) })
            .f32(&[3], &[1., 2., 3.])
            .gives(&[2], &[1., 2.])
            .gives(&[1], &[3.]),
        Case::new("sizes", Split { axis: -1, num_outputs: None })
            .f32(&[3], &[1., 2., 3.])
            .i64s(&[0, 3])
            .gives(&[0], &[])
            .gives(&[3], &[1., 2., 3.]),
    ]
}

use qing_tensor::Tensor;

use super::support::{
    movement::zeros,
    scatter::scatter,
    sizes::{dimension, limited, shape_of},
    window::kernel,
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Puts the maxima of a pooling back where they came from, among zeros. Inputs: X, the indices that
    /// [`MaxPool`](super::MaxPool) gave, and the shape of the output, if strides and pads do not say it.
    MaxUnpool = "MaxUnpool" {
        /// Taps per spatial axis.
        kernel_shape: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 2..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl MaxUnpool {
    /// The size of a spatial axis before the pooling.
    fn before(&self, axis: usize, rank: usize, size: usize) -> Result<usize, OpError> {
        let taps = kernel(&self.kernel_shape)?;
        let at = |list: &[i64], i: usize, default: i64| list.get(i).copied().unwrap_or(default);
        let removed = at(&self.pads, axis, 0).saturating_add(at(&self.pads, rank + axis, 0));
        let taps = taps.get(axis).ok_or_else(|| OpError::invalid(format!("no kernel for axis {axis}")))?;
        let steps = (size as i64 - 1).saturating_mul(at(&self.strides, axis, 1));
        dimension(steps.saturating_sub(removed).saturating_add(*taps as i64))
    }
}

impl Op for MaxUnpool {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, cx.optional(2).is_some(), cx.constant(2)) {
            (Some(dims), true, None) => Some(vec![Dim::Unknown; dims.len()]),
            (_, true, Some(shape)) => Some(shape_of(&shape.to_i64s())?.into_iter().map(Dim::Known).collect()),
            (None, ..) => None,
            (Some(dims), false, _) => {
                let rank = dims.len().saturating_sub(2);
                let size = |(i, d): (usize, &Dim)| match d.known() {
                    Some(n) if i >= 2 => self.before(i - 2, rank, n).map(Dim::Known),
                    _ => Ok(d.clone()),
                };
                Some(dims.iter().enumerate().map(size).collect::<Result<_, OpError>>()?)
            }
        };
        Ok(vec![Type::maybe(x.element, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        if x.rank() < 3 || indices.shape() != x.shape() {
            return Err(OpError::invalid(format!("X {:?} and indices {:?}", x.shape(), indices.shape())));
        }
        let mut inner = x.shape().to_vec();
        for (axis, size) in inner.iter_mut().skip(2).enumerate() {
            *size = self.before(axis, x.rank() - 2, *size)?;
        }
        let shape = cx.optional(2).map_or_else(|| Ok(inner.clone()), |s| shape_of(&s.to_i64s()))?;
        let count = limited(&inner)?;
        limited(&shape)?;
        if shape.len() != inner.len() || shape.iter().zip(&inner).any(|(s, i)| s < i) {
            return Err(OpError::invalid(format!("an output of shape {shape:?}; at least {inner:?} is needed")));
        }
        // Indices count in the shape that was pooled, which lies at the begin of the output.
        let (from, to) = (qing_tensor::strides(&inner), qing_tensor::strides(&shape));
        let targets = indices
            .to_i64s()
            .into_iter()
            .map(|i| {
                let i = dimension(i)?;
                if i >= count {
                    return Err(OpError::invalid(format!("index {i} into {count} values")));
                }
                Ok((0..inner.len()).map(|axis| i / from[axis] % inner[axis] * to[axis]).sum())
            })
            .collect::<Result<Vec<usize>, OpError>>()?;
        Ok(vec![scatter(&zeros(x.element(), &shape)?, x, &targets, "none")?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, indices, mut dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        // Indices count in the shape that was pooled, which lies at the begin of the output.
        let shape = cx.shape(x)?;
        for axis in 0..shape.len() {
            let size = if axis < 2 { shape[axis] } else { self.before(axis - 2, shape.len() - 2, shape[axis])? };
            dy = cx.slice(dy, axis, 0, size)?;
        }
        let count = cx.shape(dy)?.iter().product();
        Ok(vec![Some(cx.emit(super::Gather::default(), &[cx.reshape(dy, &[count])?, indices])?), None, None])
    }
}

fn cases() -> Vec<Case> {
    let op = || MaxUnpool { kernel_shape: vec![2, 2], strides: vec![2, 2], ..MaxUnpool::default() };
    let indices = || Tensor::new(&[1, 1, 1, 2], vec![4i64, 3]).expect("fits");
    vec![
        Case::new("back", op())
            .f32(&[1, 1, 1, 2], &[5., -1.])
            .input(indices())
            .gives(&[1, 1, 2, 4], &[0., 0., 0., -1., 5., 0., 0., 0.]),
        Case::new("into_more", op())
            .f32(&[1, 1, 1, 2], &[5., -1.])
            .input(indices())
            .i64s(&[1, 1, 2, 5])
            .gives(&[1, 1, 2, 5], &[0., 0., 0., -1., 0., 5., 0., 0., 0., 0.]),
    ]
}

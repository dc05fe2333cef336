use qing_tensor::{Tensor, strides};

use super::support::{
    axes::normalize_all,
    movement::{concatenated, gradient_of_moved, moved, zeros},
    sizes::{dimension, limited},
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The middle of its input, cropped or padded with zeros to the sizes in `shape`.
    CenterCropPad = "CenterCropPad" {
        /// The axes that `shape` speaks of; all if empty.
        axes: Vec<i64> = vec![],
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl CenterCropPad {
    fn targets(&self, rank: usize, sizes: &Tensor) -> Result<Vec<(usize, usize)>, OpError> {
        let axes = if self.axes.is_empty() { (0..rank).collect() } else { normalize_all(&self.axes, rank)? };
        let sizes = sizes.to_i64s().into_iter().map(dimension).collect::<Result<Vec<usize>, OpError>>()?;
        if sizes.len() != axes.len() {
            return Err(OpError::invalid(format!("{} sizes for {} axes", sizes.len(), axes.len())));
        }
        Ok(axes.into_iter().zip(sizes).collect())
    }
}

impl Op for CenterCropPad {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, cx.constant(1)) {
            (None, _) => None,
            (Some(dims), None) => Some(vec![Dim::Unknown; dims.len()]),
            (Some(dims), Some(sizes)) => {
                let mut shape = dims.clone();
                for (axis, size) in self.targets(dims.len(), sizes)? {
                    shape[axis] = Dim::Known(size);
                }
                Some(shape)
            }
        };
        Ok(vec![Type::maybe(x.element, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let mut shape = x.shape().to_vec();
        for (axis, size) in self.targets(x.rank(), cx.input(1)?)? {
            shape[axis] = size;
        }
        limited(&shape)?;
        let own = strides(x.shape());
        let all = concatenated(&[x.reshaped(&[x.len()])?, zeros(x.element(), &[1])?], 0)?;
        let from = |at: &[usize]| {
            let mut index = 0;
            for (axis, &at) in at.iter().enumerate() {
                let (old, new) = (x.shape()[axis], shape[axis]);
                let source = if new <= old { Some(at + (old - new) / 2) } else { at.checked_sub((new - old) / 2) };
                match source.filter(|s| *s < old) {
                    Some(s) => index += s * own[axis],
                    None => return x.len(),
                }
            }
            index
        };
        Ok(vec![moved(&all, &shape, from)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(gradient_of_moved(cx, self, 0)?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("crop_and_pad", CenterCropPad::default())
            .f32(&[1, 4], &[1., 2., 3., 4.])
            .i64s(&[2, 1])
            .gives(&[2, 1], &[2., 0.]),
        Case::new("one_axis", CenterCropPad { axes: vec![-1] })
            .f32(&[1, 2], &[1., 2.])
            .i64s(&[5])
            .gives(&[1, 5], &[0., 1., 2., 0., 0.]),
    ]
}

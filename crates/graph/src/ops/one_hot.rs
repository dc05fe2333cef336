use qing_tensor::Tensor;

use super::support::{
    axes::normalize,
    sizes::{dimension, limited, single},
};
use crate::{Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// A new axis of `depth` values, on where the index is and off elsewhere. Inputs: indices, depth, `[off, on]`. Negative
    /// indices count from the end; those out of range are off everywhere.
    OneHot = "OneHot" {
        /// Where the new axis is in the output; negative counts from the end.
        axis: i64 = -1,
    }
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::None("indices are integers"),
    cases: cases
}

impl Op for OneHot {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let shape = match cx.shape(0)? {
            None => None,
            Some(dims) => {
                let depth = match cx.constant(1) {
                    Some(depth) => Dim::Known(dimension(single(depth, "depth")?)?),
                    None => Dim::Unknown,
                };
                let mut shape = dims.to_vec();
                shape.insert(normalize(self.axis, dims.len() + 1)?, depth);
                Some(shape)
            }
        };
        Ok(vec![Type::maybe(cx.element(2)?, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (indices, values) = (cx.input(0)?, cx.input(2)?);
        let depth = single(cx.input(1)?, "depth")?;
        if values.len() != 2 {
            return Err(OpError::invalid(format!("values of shape {:?}; expected off and on", values.shape())));
        }
        let axis = normalize(self.axis, indices.rank() + 1)?;
        let mut shape = indices.shape().to_vec();
        shape.insert(axis, dimension(depth)?);
        let count = limited(&shape)?;
        let inner: usize = indices.shape()[axis..].iter().product();
        let depth = shape[axis];
        let indices = indices.to_i64s();
        let hot = |i: usize| {
            let (outer, along, n) = (i / inner / depth, i / inner % depth, i % inner);
            let index = indices[outer * inner + n];
            let index = if index < 0 { index.saturating_add(depth as i64) } else { index };
            usize::from(index == along as i64)
        };
        Ok(vec![values.take(&shape, (0..count).map(hot))?])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", OneHot::default())
            .i64s(&[1, -1, 7])
            .input(Tensor::scalar(3i64))
            .f32(&[2], &[0., 5.])
            .gives(&[3, 3], &[0., 5., 0., 0., 0., 5., 0., 0., 0.]),
        Case::new("first_axis", OneHot { axis: 0 })
            .i64s(&[1, 0])
            .i64s(&[2])
            .f32(&[2], &[-1., 1.])
            .gives(&[2, 2], &[-1., 1., 1., -1.]),
    ]
}

use qing_tensor::Tensor;

use super::support::{
    axes::{Along, normalize},
    movement::position,
    sizes::limited,
};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// The slices of `data` along an axis that `indices` name; negative indices count from the end. An embedding is a
    /// gather of rows.
    Gather = "Gather" {
        /// The axis that is indexed; negative counts from the end.
        axis: i64 = 0,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Gather {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let (Some(dims), Some(indices)) = (&x.shape, cx.shape(1)?) else { return Ok(vec![x.with_shape(None)]) };
        let axis = normalize(self.axis, dims.len())?;
        let shape = dims[..axis].iter().chain(indices).chain(&dims[axis + 1..]).cloned().collect();
        Ok(vec![x.with_shape(Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let axis = normalize(self.axis, x.rank())?;
        let along = Along::new(x.shape(), axis);
        let rows = indices
            .to_i64s()
            .into_iter()
            .map(|i| position(i, along.length))
            .collect::<Result<Vec<usize>, OpError>>()?;
        let mut shape = x.shape()[..axis].to_vec();
        shape.extend(indices.shape());
        shape.extend(&x.shape()[axis + 1..]);
        let mut from = Vec::with_capacity(limited(&shape)?);
        for o in 0..along.outer {
            for row in &rows {
                let start = (o * along.length + row) * along.inner;
                from.extend(start..start + along.inner);
            }
        }
        Ok(vec![x.take(&shape, from)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, indices, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let (shape, chosen) = (cx.shape(x)?, cx.shape(indices)?);
        let axis = normalize(self.axis, shape.len())?;
        // Rows are written along the first axis.
        let rank = cx.rank(dy)?;
        let front: Vec<usize> = (axis..axis + chosen.len()).chain(0..axis).chain(axis + chosen.len()..rank).collect();
        let updates = cx.transpose(dy, &front)?;
        let mut rows = shape.clone();
        let length = rows.remove(axis);
        rows.insert(0, length);
        let zeros = cx.expand(cx.scalar(x, 0.0), &rows)?;
        let places = cx.reshape(indices, &[&chosen[..], &[1]].concat())?;
        let sum = cx.emit(super::ScatterND { reduction: "add".into() }, &[zeros, places, updates])?;
        let back: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..shape.len()).collect();
        Ok(vec![Some(cx.transpose(sum, &back)?), None])
    }
}

fn cases() -> Vec<Case> {
    let x = [1., 2., 3., 4., 5., 6.];
    vec![
        Case::new("rows", Gather::default())
            .f32(&[3, 2], &x)
            .input(Tensor::new(&[2, 1], vec![2i32, -3]).expect("fits"))
            .gives(&[2, 1, 2], &[5., 6., 1., 2.]),
        Case::new("a_column", Gather { axis: -1 })
            .f32(&[3, 2], &x)
            .input(Tensor::scalar(1i64))
            .gives(&[3], &[2., 4., 6.]),
    ]
}

use qing_tensor::Tensor;

use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// A matrix of the same values: the axes before `axis` become rows, the others columns.
    Flatten = "Flatten" {
        /// First axis of the columns; negative counts from the end.
        axis: i64 = 1,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Flatten {
    /// How many axes become rows: 0 to the rank.
    fn rows(&self, rank: usize) -> Result<usize, OpError> {
        let axis = if self.axis < 0 { self.axis.saturating_add(rank as i64) } else { self.axis };
        usize::try_from(axis)
            .ok()
            .filter(|a| *a <= rank)
            .ok_or_else(|| OpError::invalid(format!("axis {} of a tensor of rank {rank}", self.axis)))
    }
}

impl Op for Flatten {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else { return Ok(vec![x.with_shape(Some(vec![Dim::Unknown; 2]))]) };
        let (rows, columns) = dims.split_at(self.rows(dims.len())?);
        // A single axis keeps its name; the product of several has none.
        let product = |dims: &[Dim]| match dims {
            [one] => one.clone(),
            _ => dims
                .iter()
                .try_fold(1usize, |n, d| n.checked_mul(d.known()?))
                .map_or(Dim::Unknown, Dim::Known),
        };
        Ok(vec![x.with_shape(Some(vec![product(rows), product(columns)]))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let (rows, columns) = x.shape().split_at(self.rows(x.rank())?);
        Ok(vec![x.reshaped(&[rows.iter().product(), columns.iter().product()])?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.reshape_like(cx.dy()?, cx.input(0)?)?)])
    }
}

fn cases() -> Vec<Case> {
    let x = [1., 2., 3., 4., 5., 6.];
    vec![
        Case::new("default", Flatten::default()).f32(&[2, 3, 1], &x).gives(&[2, 3], &x),
        Case::new("all_columns", Flatten { axis: 0 }).f32(&[2, 3], &x).gives(&[1, 6], &x),
        Case::new("negative", Flatten { axis: -1 }).f32(&[1, 3, 2], &x).gives(&[3, 2], &x),
    ]
}

use qing_tensor::Tensor;

use super::support::{axes::normalize, scatter::element_targets};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// For each index, the value of `data` at the same coordinates but for `axis`, where the index is the coordinate.
    GatherElements = "GatherElements" {
        /// The axis that is indexed; negative counts from the end.
        axis: i64 = 0,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for GatherElements {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![cx.ty(0)?.with_shape(cx.shape(1)?.map(<[_]>::to_vec))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let axis = normalize(self.axis, x.rank())?;
        Ok(vec![x.take(indices.shape(), element_targets(x.shape(), indices, axis)?)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let op = super::ScatterElements { axis: self.axis, reduction: "add".into() };
        let zeros = cx.zeros_like(cx.input(0)?)?;
        Ok(vec![Some(cx.emit(op, &[zeros, cx.input(1)?, cx.dy()?])?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("rows", GatherElements { axis: 1 })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .input(Tensor::new(&[2, 2], vec![0i64, 0, -1, 0]).expect("fits"))
            .gives(&[2, 2], &[1., 1., 4., 3.]),
        Case::new("fewer_columns", GatherElements::default())
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .input(Tensor::new(&[1, 1], vec![1i32]).expect("fits"))
            .gives(&[1, 1], &[3.]),
    ]
}

use qing_tensor::{Tensor, broadcast, broadcast_strides};

use super::support::{elementwise::broadcast_dims, movement::strided, sizes};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Its input broadcast against `shape`; axes of size 1 are stretched, on either side.
    Expand = "Expand" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Expand {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, cx.constant(1)) {
            (Some(dims), Some(to)) => {
                let to: Vec<Dim> = sizes::shape_of(&to.to_i64s())?.into_iter().map(Dim::Known).collect();
                Some(broadcast_dims(dims, &to)?)
            }
            (Some(dims), None) => sizes::unknown_of_length(cx, 1)?.map(|to| vec![Dim::Unknown; to.len().max(dims.len())]),
            (None, _) => None,
        };
        Ok(vec![x.with_shape(shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let shape = broadcast(x.shape(), &sizes::shape_of(&cx.input(1)?.to_i64s())?)?;
        sizes::limited(&shape)?;
        let steps: Vec<isize> = broadcast_strides(x.shape(), &shape).into_iter().map(|s| s as isize).collect();
        Ok(vec![x.take(&shape, strided(&shape, 0, &steps))?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.sum_like(cx.dy()?, cx.input(0)?)?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("columns", Expand {}).f32(&[2, 1], &[1., 2.]).i64s(&[2, 2]).gives(&[2, 2], &[1., 1., 2., 2.]),
        Case::new("both_ways", Expand {}).f32(&[2], &[1., 2.]).i64s(&[2, 1]).gives(&[2, 2], &[1., 2., 1., 2.]),
    ]
}

use qing_tensor::Tensor;

use super::support::{axes::normalize_all, sizes::length};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, QuantRule, Type, op};

op! {
    /// Its input without the axes named (negative ones count from the end), which must have size 1; without all axes of
    /// size 1 if none is named.
    Squeeze = "Squeeze" {}
    inputs: 1..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 13 the axes were an attribute.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.ints_to_input("axes", 1)
}

impl Op for Squeeze {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, cx.optional(1), cx.constant(1)) {
            (None, _, _) => None,
            (Some(dims), Some(_), None) => {
                // Only how many axes go is known.
                length(cx, 1)?.and_then(|n| dims.len().checked_sub(n)).map(|rank| vec![Dim::Unknown; rank])
            }
            (Some(dims), Some(_), Some(axes)) => {
                let gone = normalize_all(&axes.to_i64s(), dims.len())?;
                if let Some(bad) = gone.iter().find(|i| dims[**i].known().is_some_and(|n| n != 1)) {
                    return Err(OpError::invalid(format!("axis {bad} of size {} cannot be squeezed", dims[*bad])));
                }
                Some((0..dims.len()).filter(|i| !gone.contains(i)).map(|i| dims[i].clone()).collect())
            }
            (Some(dims), None, _) => {
                let known = dims.iter().all(|d| d.known().is_some());
                known.then(|| dims.iter().filter(|d| **d != Dim::Known(1)).cloned().collect())
            }
        };
        Ok(vec![x.with_shape(shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let shape: Vec<usize> = match cx.optional(1) {
            None => x.shape().iter().copied().filter(|n| *n != 1).collect(),
            Some(axes) => {
                let gone = normalize_all(&axes.to_i64s(), x.rank())?;
                (0..x.rank()).filter(|i| !gone.contains(i)).map(|i| x.shape()[i]).collect()
            }
        };
        Ok(vec![x.reshaped(&shape)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.reshape_like(cx.dy()?, cx.input(0)?)?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("all", Squeeze {}).f32(&[1, 2, 1], &[1., 2.]).gives(&[2], &[1., 2.]),
        Case::new("one", Squeeze {}).f32(&[1, 2, 1], &[1., 2.]).i64s(&[-1]).gives(&[1, 2], &[1., 2.]),
    ]
}

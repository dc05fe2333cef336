use qing_tensor::Tensor;

use super::support::{axes::normalize_all, sizes::length};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, QuantRule, Type, op};

op! {
    /// Its input with new axes of size 1 where `axes` says, counted in the output.
    Unsqueeze = "Unsqueeze" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 13 the axes were an attribute.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.ints_to_input("axes", 1)
}

fn inserted<T: Clone>(dims: &[T], axes: &[i64], one: &T) -> Result<Vec<T>, OpError> {
    let rank = dims.len() + axes.len();
    let new = normalize_all(axes, rank)?;
    let mut old = dims.iter();
    Ok((0..rank).map(|i| if new.contains(&i) { one.clone() } else { old.next().unwrap_or(one).clone() }).collect())
}

impl Op for Unsqueeze {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, cx.constant(1)) {
            (None, _) => None,
            (Some(dims), Some(axes)) => Some(inserted(dims, &axes.to_i64s(), &Dim::Known(1))?),
            (Some(dims), None) => length(cx, 1)?.map(|n| vec![Dim::Unknown; dims.len().saturating_add(n).min(64)]),
        };
        Ok(vec![x.with_shape(shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        Ok(vec![x.reshaped(&inserted(x.shape(), &cx.input(1)?.to_i64s(), &1)?)?])
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
        Case::new("both_ends", Unsqueeze {}).f32(&[2], &[1., 2.]).i64s(&[-1, 0]).gives(&[1, 2, 1], &[1., 2.]),
        Case::new("middle", Unsqueeze {}).f32(&[1, 2], &[1., 2.]).i64s(&[1]).gives(&[1, 1, 2], &[1., 2.]),
    ]
}

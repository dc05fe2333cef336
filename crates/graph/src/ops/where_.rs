use qing_tensor::{Element, Tensor, broadcast, broadcast_strides, element_count};

use super::support::{
    elementwise::{each_index, infer_broadcast},
    movement::concatenated,
};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `x` where `condition` is true, `y` elsewhere; all three are broadcast together.
    Where = "Where" {}
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Where {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(cx.element(1)?, infer_broadcast(cx, 0)?)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (condition, x, y) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        if x.element() != y.element() || condition.element() != Element::Bool {
            let elements = [condition.element(), x.element(), y.element()].map(|e| e.to_string()).join(", ");
            return Err(OpError::invalid(format!("operands of {elements}; expected bool and two of one element")));
        }
        let shape = broadcast(&broadcast(condition.shape(), x.shape())?, y.shape())?;
        element_count(&shape)?;
        let strides = [condition, x, y].map(|t| broadcast_strides(t.shape(), &shape));
        // Both choices side by side, so that one gather moves every element, packed ones included.
        let both = concatenated(&[x.reshaped(&[x.len()])?, y.reshaped(&[y.len()])?], 0)?;
        let test = condition.to_bools();
        let mut picked = vec![];
        each_index(&shape, |at| {
            let [c, i, j] = [0, 1, 2].map(|k| at.iter().zip(&strides[k]).map(|(i, s)| i * s).sum::<usize>());
            picked.push(if test[c] { i } else { x.len() + j });
        });
        Ok(vec![both.take(&shape, picked)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (condition, dy) = (cx.input(0)?, cx.dy()?);
        let x = cx.wanted(1, || cx.sum_like(cx.masked(condition, dy)?, cx.input(1)?))?;
        let y = cx.wanted(2, || cx.sum_like(cx.choose(condition, cx.scalar(dy, 0.0), dy)?, cx.input(2)?))?;
        Ok(vec![None, x, y])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("broadcast", Where {})
            .input(Tensor::from_bools(&[2, 1], &[true, false]).expect("fits"))
            .f32(&[2], &[1., 2.])
            .f32(&[], &[-7.])
            .gives(&[2, 2], &[1., 2., -7., -7.]),
    ]
}

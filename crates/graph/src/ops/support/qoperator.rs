//! Operators of quantized tensors whose scales and zero points are inputs, by the ops on quantized types.

use qing_tensor::{Element, Tensor};

use super::integers::{one_scale, one_zero};
use crate::{Dim, Eval, Infer, Op, OpError, Quant, Type};

/// The type that the scale at input `scale` and the zero point behind it give integers of `element`.
///
/// # Errors
/// If there is not one positive scale and at most one zero point.
pub fn quantized(cx: &Eval<'_>, scale: usize, element: Element, shape: &[usize]) -> Result<Type, OpError> {
    let quant = Quant::per_tensor(one_scale(cx.input(scale)?)?, one_zero(cx.optional(scale + 1))?)?;
    Ok(Type::new(element, shape.iter().copied()).quantized(element, quant))
}

/// Input `i`, followed by its scale and zero point.
///
/// # Errors
/// As [`quantized`].
pub fn operand<'a>(cx: &Eval<'a>, i: usize) -> Result<(&'a Tensor, Type), OpError> {
    let x = cx.input(i)?;
    Ok((x, quantized(cx, i + 1, x.element(), x.shape())?))
}

/// The result of `op` on quantized operands, of type `y`.
///
/// # Errors
/// Those of the op.
pub fn eval(op: &dyn Op, operands: &[(&Tensor, Type)], y: &Type) -> Result<Vec<Tensor>, OpError> {
    let inputs: Vec<Option<&Tensor>> = operands.iter().map(|(x, _)| Some(*x)).collect();
    let types: Vec<Option<&Type>> = operands.iter().map(|(_, ty)| Some(ty)).collect();
    op.eval(&Eval { inputs: &inputs, types: &types, outputs: std::slice::from_ref(y) })
}

/// Shape of the result of `op` on the inputs `operands`, with the element of the first.
///
/// # Errors
/// Those of the op.
pub fn infer(op: &dyn Op, cx: &Infer<'_>, operands: &[usize]) -> Result<Vec<Type>, OpError> {
    let types: Vec<Option<&Type>> = operands.iter().map(|i| cx.optional(*i)).collect();
    let shape = op.infer(&Infer { types: &types, constants: &[], outputs: 1 })?.swap_remove(0).shape;
    let first = operands.first().copied().unwrap_or(0);
    Ok(vec![Type::maybe(cx.element(first)?, shape)])
}

/// Dimensions with the channels moved from behind the spatial axes to before them.
pub fn channels_first<T: Clone>(dims: &[T]) -> Vec<T> {
    match dims {
        [batch, spatial @ .., channels] => {
            [std::slice::from_ref(batch), std::slice::from_ref(channels), spatial].concat()
        }
        _ => dims.to_vec(),
    }
}

/// Dimensions with the channels moved from before the spatial axes to behind them.
pub fn channels_last<T: Clone>(dims: &[T]) -> Vec<T> {
    match dims {
        [batch, channels, spatial @ ..] => {
            [std::slice::from_ref(batch), spatial, std::slice::from_ref(channels)].concat()
        }
        _ => dims.to_vec(),
    }
}

/// [`infer`] of an op over `[batch, channels, spatial…]` for an input 0 that may have its channels last.
///
/// # Errors
/// Those of the op.
pub fn infer_pool(op: &dyn Op, cx: &Infer<'_>, last: bool) -> Result<Vec<Type>, OpError> {
    if !last {
        return infer(op, cx, &[0]);
    }
    let x = cx.ty(0)?;
    let x = x.with_shape(x.shape.as_deref().map(channels_first));
    let mut y = infer(op, &Infer { types: &[Some(&x)], constants: &[], outputs: 1 }, &[0])?.swap_remove(0);
    y.shape = y.shape.as_deref().map(channels_last::<Dim>);
    Ok(vec![y])
}

/// [`eval`] of an op over `[batch, channels, spatial…]` on input 0 that may have its channels last; the scale of the
/// result is input 3.
///
/// # Errors
/// Those of the op.
pub fn eval_pool(op: &dyn Op, cx: &Eval<'_>, last: bool) -> Result<Vec<Tensor>, OpError> {
    let (x, ty) = operand(cx, 0)?;
    let y = quantized(cx, 3, x.element(), &[])?.with_shape(None);
    if !last {
        return eval(op, &[(x, ty)], &y);
    }
    let axes: Vec<i64> = (0..x.rank() as i64).collect();
    let reorder = |x: &Tensor, perm: Vec<i64>| {
        let op = crate::ops::Transpose { perm };
        let ty = Type::maybe(x.element(), None);
        op.eval(&Eval { inputs: &[Some(x)], types: &[Some(&ty)], outputs: &[] })
    };
    let first = reorder(x, channels_first(&axes))?;
    let ty = ty.with_shape(None);
    let pooled = eval(op, &[(&first[0], ty)], &y)?;
    reorder(&pooled[0], channels_last(&axes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_move_and_return() {
        assert_eq!(channels_first(&[0, 1, 2, 3]), [0, 3, 1, 2]);
        assert_eq!(channels_last(&channels_first(&[5, 6, 7, 8])), [5, 6, 7, 8]);
        assert_eq!(channels_last(&[1]), [1]);
    }
}

//! Data movement for every element, packed ones included.

use qing_tensor::{Element, Tensor};

use super::{axes::Along, elementwise::each_index};
use crate::{Backward, Eval, Op, OpError, Type, ValueId, ops::ScatterND};

/// Linear indices of `base + Σ at[i]·steps[i]` for every index `at` of `shape`, in row-major order.
pub fn strided(shape: &[usize], base: usize, steps: &[isize]) -> Vec<usize> {
    let mut all = vec![];
    each_index(shape, |at| {
        let moved: isize = at.iter().zip(steps).map(|(i, s)| *i as isize * s).sum();
        all.push(base.wrapping_add_signed(moved));
    });
    all
}

/// A tensor of `shape` with, at each index, the element of `x` whose linear index `from` gives.
///
/// # Errors
/// If the shape is too large.
///
/// # Panics
/// If `from` gives an index out of range.
pub fn moved(x: &Tensor, shape: &[usize], mut from: impl FnMut(&[usize]) -> usize) -> Result<Tensor, OpError> {
    let mut all = Vec::with_capacity(super::sizes::limited(shape)?);
    each_index(shape, |at| all.push(from(at)));
    Ok(x.take(shape, all)?)
}

/// Tensors of one element, side by side along `axis`.
///
/// # Errors
/// If their elements differ, or their shapes in another axis than that.
pub fn concatenated(parts: &[Tensor], axis: usize) -> Result<Tensor, OpError> {
    let first = parts.first().ok_or(OpError::MissingInput(0))?;
    let mut shape = first.shape().to_vec();
    for part in &parts[1..] {
        let fits = part.rank() == shape.len()
            && part.element() == first.element()
            && (0..shape.len()).all(|i| i == axis || part.shape()[i] == shape[i]);
        if !fits {
            return Err(OpError::invalid(format!("{part:?} beside {first:?} along axis {axis}")));
        }
        shape[axis] += part.shape()[axis];
    }
    let outer = Along::new(&shape, axis).outer;
    let along = |part: &Tensor| Along::new(part.shape(), axis);
    if first.element().is_packed() {
        let values: Vec<(usize, Vec<i32>)> =
            parts.iter().map(|p| (along(p).length * along(p).inner, p.to_ints())).collect();
        let mut all = vec![];
        for o in 0..outer {
            for (size, part) in &values {
                all.extend_from_slice(&part[o * size..(o + 1) * size]);
            }
        }
        return Ok(Tensor::from_ints(first.element(), &shape, &all)?);
    }
    let width = first.element().bits() / 8;
    let mut all = vec![];
    for o in 0..outer {
        for part in parts {
            let size = along(part).length * along(part).inner * width;
            all.extend_from_slice(&part.bytes()[o * size..(o + 1) * size]);
        }
    }
    Ok(Tensor::from_bytes(first.element(), &shape, all.into())?)
}

/// A tensor of `shape` filled with the one value that `value` holds.
///
/// # Errors
/// If it does not hold exactly one value, or the shape is too large.
pub fn filled(value: &Tensor, shape: &[usize]) -> Result<Tensor, OpError> {
    if value.len() != 1 {
        return Err(OpError::invalid(format!("a fill value of shape {:?}; expected one value", value.shape())));
    }
    let count = super::sizes::limited(shape)?;
    Ok(value.take(shape, std::iter::repeat_n(0, count))?)
}

/// A tensor of zeros.
///
/// # Errors
/// If the shape is too large.
pub fn zeros(element: Element, shape: &[usize]) -> Result<Tensor, OpError> {
    filled(&Tensor::scalar(0i32).cast(element), shape)
}

/// The position in `0 .. size` that an index names; negative ones count from the end.
///
/// # Errors
/// If there is no such position.
pub fn position(index: i64, size: usize) -> Result<usize, OpError> {
    let at = if index < 0 { index.saturating_add(size as i64) } else { index };
    usize::try_from(at)
        .ok()
        .filter(|i| *i < size)
        .ok_or_else(|| OpError::invalid(format!("index {index} into {size} values")))
}

/// The gradient of float input `i` of an op that only moves values: everything goes back where it came from. Where that is
/// shows in what the op makes of numbered values, so all inputs that are not of floats must be constant.
///
/// # Errors
/// If they are not, or a shape is not known.
pub fn gradient_of_moved(cx: &Backward<'_>, op: &dyn Op, i: usize) -> Result<ValueId, OpError> {
    let (x, dy) = (cx.input(i)?, cx.dy()?);
    let shape = cx.shape(x)?;
    let count = super::sizes::limited(&shape)?;
    let mut inputs = vec![];
    for k in 0..cx.inputs() {
        inputs.push(match cx.optional(k) {
            Some(_) if k == i => Some(Tensor::new::<i64>(&shape, (1..=count as i64).collect())?),
            Some(value) if cx.element(value).is_float() => Some(zeros(Element::I64, &cx.shape(value)?)?),
            Some(_) => Some(cx.constant_input(k)?),
            None => None,
        });
    }
    let typed = |t: &Tensor| Type::new(t.element(), t.shape().iter().copied());
    let types: Vec<Option<Type>> = inputs.iter().map(|t| t.as_ref().map(typed)).collect();
    let outputs = vec![Type::maybe(Element::I64, None); cx.outputs()];
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
    let types: Vec<Option<&Type>> = types.iter().map(Option::as_ref).collect();
    let moved = op.eval(&Eval { inputs: &inputs, types: &types, outputs: &outputs })?.remove(0);
    // Place 0 collects what came from nowhere.
    let places = cx.tensor(moved.reshaped(&[moved.len(), 1])?);
    let zeros = cx.expand(cx.scalar(x, 0.0), &[count + 1])?;
    let sum = cx.emit(ScatterND { reduction: "add".into() }, &[zeros, places, cx.reshape(dy, &[moved.len()])?])?;
    cx.reshape(cx.slice(sum, 0, 1, count + 1)?, &shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_parts_are_joined_inside_bytes() {
        let i3 = Element::integer(3, true).unwrap();
        let a = Tensor::from_ints(i3, &[2, 1], &[1, -2]).unwrap();
        let b = Tensor::from_ints(i3, &[2, 2], &[3, -4, 0, 2]).unwrap();
        let joined = concatenated(&[a, b], 1).unwrap();
        assert_eq!((joined.shape(), joined.to_ints()), (&[2, 3][..], vec![1, 3, -4, -2, 0, 2]));
    }

    #[test]
    fn steps_may_go_backwards() {
        assert_eq!(strided(&[2, 2], 3, &[-2, -1]), [3, 2, 1, 0]);
    }
}

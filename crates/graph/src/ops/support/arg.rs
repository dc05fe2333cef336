//! What `ArgMax` and `ArgMin` share.

use std::cmp::Ordering;

use qing_tensor::{Element, Tensor};

use super::axes::{Along, normalize};
use crate::{Dim, Infer, OpError, Type};

/// Type of indices along an axis.
///
/// # Errors
/// If the axis does not exist.
pub fn infer_arg(cx: &Infer<'_>, axis: i64, keepdims: bool) -> Result<Vec<Type>, OpError> {
    let shape = match cx.shape(0)? {
        None => None,
        Some(dims) => {
            let axis = normalize(axis, dims.len())?;
            let mut shape = dims.to_vec();
            if keepdims {
                shape[axis] = Dim::Known(1);
            } else {
                shape.remove(axis);
            }
            Some(shape)
        }
    };
    Ok(vec![Type::maybe(Element::I64, shape)])
}

/// Where along an axis the best value is: the one that compares as `best` with all others.
///
/// # Errors
/// If the axis does not exist or is empty.
pub fn eval_arg(x: &Tensor, axis: i64, keepdims: bool, last: bool, best: Ordering) -> Result<Vec<Tensor>, OpError> {
    let axis = normalize(axis, x.rank())?;
    let along = Along::new(x.shape(), axis);
    if along.length == 0 {
        return Err(OpError::invalid(format!("the best of no values in {:?}", x.shape())));
    }
    let values = x.to_f64s();
    let mut indices = Vec::with_capacity(along.outer * along.inner);
    for (o, n) in (0..along.outer).flat_map(|o| (0..along.inner).map(move |n| (o, n))) {
        let at = |i: usize| values[(o * along.length + i) * along.inner + n];
        let winner = (1..along.length).fold(0, |winner, i| match at(i).partial_cmp(&at(winner)) {
            Some(order) if order == best || (last && order == Ordering::Equal) => i,
            _ => winner,
        });
        indices.push(winner as i64);
    }
    let mut shape = x.shape().to_vec();
    if keepdims {
        shape[axis] = 1;
    } else {
        shape.remove(axis);
    }
    Ok(vec![Tensor::new(&shape, indices)?])
}

//! What `CumSum` and `CumProd` share.

use qing_tensor::Tensor;

use super::axes::{Along, normalize};
use crate::{Eval, OpError};

/// A running operation: its neutral element, and what it does to reals and to integers.
#[derive(Debug)]
pub struct Scan {
    /// The neutral element.
    pub first: i32,
    /// On reals.
    pub real: fn(f64, f64) -> f64,
    /// On integers.
    pub integer: fn(i64, i64) -> i64,
}

/// Runs along the axis in input 1.
///
/// # Errors
/// If the axis does not exist or is not one number.
pub fn eval_scan(cx: &Eval<'_>, exclusive: bool, reverse: bool, scan: &Scan) -> Result<Vec<Tensor>, OpError> {
    let (x, axis) = (cx.input(0)?, cx.input(1)?);
    let [axis] = axis.to_i64s()[..] else {
        return Err(OpError::invalid(format!("an axis of shape {:?}; expected a scalar", axis.shape())));
    };
    let along = Along::new(x.shape(), normalize(axis, x.rank())?);
    let y = if x.element().is_float() {
        Tensor::new(x.shape(), run(&along, &x.to_f64s(), scan.first.into(), exclusive, reverse, scan.real))?
    } else {
        Tensor::new(x.shape(), run(&along, &x.to_i64s(), scan.first.into(), exclusive, reverse, scan.integer))?
    };
    Ok(vec![y.cast(x.element())])
}

fn run<T: Copy>(along: &Along, x: &[T], first: T, exclusive: bool, reverse: bool, f: fn(T, T) -> T) -> Vec<T> {
    let mut y = vec![first; x.len()];
    for (o, n) in (0..along.outer).flat_map(|o| (0..along.inner).map(move |n| (o, n))) {
        let mut sum = first;
        for step in 0..along.length {
            let i = if reverse { along.length - 1 - step } else { step };
            let at = (o * along.length + i) * along.inner + n;
            let next = f(sum, x[at]);
            y[at] = if exclusive { sum } else { next };
            sum = next;
        }
    }
    y
}

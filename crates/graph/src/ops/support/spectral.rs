//! What the windows of spectral analysis share.

use std::f64::consts::TAU;

use qing_tensor::Tensor;

use super::{
    data_type::element_of,
    sizes::{dimension, limited, single},
};
use crate::{Dim, Eval, Infer, OpError, Type};

/// Type of a window whose size is input 0.
///
/// # Errors
/// If the size is negative or the element unknown.
pub fn infer_window(cx: &Infer<'_>, element: i64) -> Result<Vec<Type>, OpError> {
    cx.ty(0)?;
    let size = match cx.constant(0) {
        Some(size) => Dim::Known(dimension(single(size, "size")?)?),
        None => Dim::Unknown,
    };
    Ok(vec![Type::new(element_of(element)?, [size])])
}

/// The window: `f` of the angle of each sample, a full turn being the size, or one less if not `periodic`.
///
/// # Errors
/// If the size is negative or too large, or the element unknown.
pub fn eval_window(cx: &Eval<'_>, element: i64, periodic: bool, f: fn(f64) -> f64) -> Result<Vec<Tensor>, OpError> {
    let size = dimension(single(cx.input(0)?, "size")?)?;
    limited(&[size])?;
    let period = if periodic { size as f64 } else { size as f64 - 1.0 };
    let values: Vec<f64> = (0..size).map(|n| f(TAU * n as f64 / period)).collect();
    Ok(vec![Tensor::vector(values).cast(element_of(element)?)])
}

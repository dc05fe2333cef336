//! Gradients of activations that several ops compute.

use super::unary::At;
use crate::{
    Backward, OpError, ValueId,
    ops::{Erf, Sigmoid, Tanh},
};

/// The gradient of `x · Φ(x)`: `Φ(x) + x · φ(x)`.
///
/// # Errors
/// If `x` is not of floats.
pub fn gelu(cx: &Backward<'_>, x: ValueId, dy: ValueId) -> Result<ValueId, OpError> {
    let erf = cx.emit(Erf {}, &[cx.scale(x, std::f64::consts::FRAC_1_SQRT_2)?])?;
    let area = cx.offset(cx.scale(erf, 0.5)?, 0.5)?;
    let bell = cx.exp(cx.scale(cx.square(x)?, -0.5)?)?;
    let bell = cx.scale(bell, std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 / 2.0)?;
    cx.mul(dy, cx.add(area, cx.mul(x, bell)?)?)
}

/// The gradient of `x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))`.
///
/// # Errors
/// If `x` is not of floats.
pub fn gelu_tanh(cx: &Backward<'_>, x: ValueId, dy: ValueId) -> Result<ValueId, OpError> {
    const CUBIC: f64 = 0.044715;
    let steep = (2.0 / std::f64::consts::PI).sqrt();
    let square = cx.square(x)?;
    let inner = cx.mul(x, cx.offset(cx.scale(square, steep * CUBIC)?, steep)?)?;
    let t = cx.emit(Tanh {}, &[inner])?;
    let slope = cx.offset(cx.scale(square, 3.0 * steep * CUBIC)?, steep)?;
    let bent = cx.mul(cx.mul(x, cx.sub_from(1.0, cx.square(t)?)?)?, slope)?;
    cx.mul(dy, cx.scale(cx.add(cx.offset(t, 1.0)?, bent)?, 0.5)?)
}

/// The gradient of `y = x · s` with `s = sigmoid(alpha · x)`: `s + alpha · y · (1 − s)`.
///
/// # Errors
/// If `x` is not of floats.
pub fn swish(cx: &Backward<'_>, alpha: f32, at: At) -> Result<ValueId, OpError> {
    let s = cx.emit(Sigmoid {}, &[cx.scale(at.x, alpha.into())?])?;
    let bent = cx.scale(cx.mul(at.y, cx.sub_from(1.0, s)?)?, alpha.into())?;
    cx.mul(at.dy, cx.add(s, bent)?)
}

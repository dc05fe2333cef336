//! What `Softmax`, `LogSoftmax` and `Hardmax` share.

use qing_tensor::Tensor;

use super::axes::{Along, normalize};
use crate::{AttrValue, Infer, Legacy, OpError, Type};

/// Before opset 13 the input was seen as a matrix, all axes from `axis` (by default 1) on being its columns. That is the
/// newest form where `axis` is the last of any size; elsewhere the attribute `coerced` says so.
///
/// # Errors
/// If the axis does not exist.
pub fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    if node.opset >= 13 {
        return Ok(());
    }
    let axis: i64 = node.attrs.read("axis", 1)?;
    let shape = node.inputs.first().copied().flatten().and_then(|id| node.graph.ty(id).shape.clone());
    let Some(shape) = shape else {
        node.attrs.set("axis", AttrValue::Int(axis));
        node.attrs.set("coerced", AttrValue::Int(1));
        return Ok(());
    };
    let at = normalize(axis, shape.len())?;
    let last = shape[at + 1..].iter().all(|d| d.known() == Some(1));
    node.attrs.set("axis", AttrValue::Int(if at + 1 == shape.len() { -1 } else { at as i64 }));
    if !last {
        node.attrs.set("coerced", AttrValue::Int(1));
    }
    Ok(())
}

/// Type of the output: that of the input.
///
/// # Errors
/// If the axis does not exist.
pub fn infer_softmax(cx: &Infer<'_>, axis: i64) -> Result<Vec<Type>, OpError> {
    let x = cx.ty(0)?;
    if let Some(rank) = x.rank() {
        normalize(axis, rank)?;
    }
    Ok(vec![Type::maybe(x.element, x.shape.clone())])
}

/// The lines to normalize.
///
/// # Errors
/// If the input is not of floats or the axis does not exist.
pub fn along(x: &Tensor, axis: i64, coerced: bool) -> Result<Along, OpError> {
    if !x.element().is_float() {
        return Err(OpError::unsupported(format!("{}; expected floats", x.element())));
    }
    let axis = normalize(axis, x.rank())?;
    let along = Along::new(x.shape(), axis);
    if coerced {
        return Ok(Along { length: along.length * along.inner, inner: 1, ..along });
    }
    Ok(along)
}

/// The axes of the lines to normalize, of a tensor of this rank.
///
/// # Errors
/// If the axis does not exist.
pub fn axes_of(rank: usize, axis: i64, coerced: bool) -> Result<Vec<usize>, OpError> {
    let axis = normalize(axis, rank)?;
    Ok(if coerced { (axis..rank).collect() } else { vec![axis] })
}

fn max(line: &[f64]) -> f64 {
    line.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Exponentials divided by their sum; the maximum is subtracted first, so nothing overflows.
pub fn softmax_line(line: &[f64], out: &mut [f64]) {
    let max = max(line);
    let mut sum = 0.0;
    for (o, v) in out.iter_mut().zip(line) {
        *o = (v - max).exp();
        sum += *o;
    }
    out.iter_mut().for_each(|o| *o /= sum);
}

/// The logarithm of [`softmax_line`].
pub fn log_softmax_line(line: &[f64], out: &mut [f64]) {
    let max = max(line);
    let sum = line.iter().map(|v| (v - max).exp()).sum::<f64>().ln() + max;
    for (o, v) in out.iter_mut().zip(line) {
        *o = v - sum;
    }
}

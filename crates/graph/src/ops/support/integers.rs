//! Integer tensors of any width, and the scales and zero points that ONNX passes beside them as inputs.

use qing_tensor::{Element, Tensor, broadcast_strides, element_count};

use super::{axes::normalize, movement::strided};
use crate::OpError;

/// A tensor of any integer element from one `i32` a value; the values must be in range.
///
/// # Errors
/// If the values do not fill the shape.
pub fn from_ints(element: Element, shape: &[usize], values: Vec<i32>) -> Result<Tensor, OpError> {
    if element.is_quantizable() {
        return Ok(Tensor::from_ints(element, shape, &values)?);
    }
    Ok(Tensor::new(shape, values)?.cast(element))
}

/// Smallest and largest value of an integer element of at most 32 bits.
///
/// # Errors
/// If it is something else.
pub fn range(element: Element) -> Result<(i32, i32), OpError> {
    element
        .range()
        .and_then(|(lo, hi)| Some((i32::try_from(lo).ok()?, i32::try_from(hi).ok()?)))
        .ok_or_else(|| OpError::unsupported(format!("{element} as a quantized element")))
}

/// For each element of a tensor, which of the scales (and zero points) beside it holds: one for all, one for each slice of
/// `axis`, or one for each block of `block` values along `axis`.
///
/// # Errors
/// If the shape of the scales fits none of these.
pub fn scale_indices(shape: &[usize], scale: &[usize], axis: i64, block: i64) -> Result<Vec<usize>, OpError> {
    let count = element_count(shape)?;
    let misfit = || OpError::invalid(format!("scales of shape {scale:?} for values of shape {shape:?}, axis {axis}"));
    if block == 0 {
        if element_count(scale)? == 1 {
            return Ok(vec![0; count]);
        }
        let axis = normalize(axis, shape.len())?;
        if scale.len() != 1 || scale[0] != shape[axis] {
            return Err(misfit());
        }
        let inner: usize = shape[axis + 1..].iter().product();
        return Ok((0..count).map(|i| i / inner % shape[axis]).collect());
    }
    let block = usize::try_from(block).ok().filter(|b| *b > 0).ok_or_else(misfit)?;
    let axis = normalize(axis, shape.len())?;
    let blocks = shape[axis].div_ceil(block);
    let fits =
        scale.len() == shape.len() && (0..shape.len()).all(|i| scale[i] == if i == axis { blocks } else { shape[i] });
    if !fits {
        return Err(misfit());
    }
    let inner: usize = shape[axis + 1..].iter().product();
    Ok((0..count)
        .map(|i| {
            let (outer, along) = (i / inner / shape[axis], i / inner % shape[axis]);
            (outer * blocks + along / block) * inner + i % inner
        })
        .collect())
}

/// The one number a tensor holds.
///
/// # Errors
/// If it holds more.
pub fn one_value(tensor: &Tensor) -> Result<f64, OpError> {
    match tensor.to_f64s()[..] {
        [value] => Ok(value),
        _ => Err(OpError::invalid(format!("a tensor of shape {:?}; expected one value", tensor.shape()))),
    }
}

/// The one scale a tensor holds.
///
/// # Errors
/// If it holds more.
pub fn one_scale(tensor: &Tensor) -> Result<f32, OpError> {
    match tensor.to_f32s()[..] {
        [scale] => Ok(scale),
        _ => Err(OpError::unsupported(format!("scales of shape {:?}; expected one", tensor.shape()))),
    }
}

/// The one zero point a tensor holds; 0 if there is no tensor.
///
/// # Errors
/// If it holds more.
pub fn one_zero(tensor: Option<&Tensor>) -> Result<i32, OpError> {
    match tensor.map(Tensor::to_ints).as_deref() {
        None => Ok(0),
        Some([zero]) => Ok(*zero),
        Some(zeros) => Err(OpError::unsupported(format!("{} zero points; expected one", zeros.len()))),
    }
}

/// Integers of at most 16 bits, whose products and sums stay far within 64.
fn narrow_integers(tensor: &Tensor) -> Result<Vec<i64>, OpError> {
    let element = tensor.element();
    if element.is_float() || element.bits() > 16 {
        return Err(OpError::unsupported(format!("{element}; expected integers of at most 16 bits")));
    }
    Ok(tensor.to_i64s())
}

/// Integers minus their zero points: one, or one for each slice of `axis`.
///
/// # Errors
/// If the zero points are another number.
pub fn centered_by(tensor: &Tensor, zero: Option<&Tensor>, axis: usize) -> Result<Vec<i64>, OpError> {
    let values = narrow_integers(tensor)?;
    let Some(zero) = zero else { return Ok(values) };
    let (which, zeros) = (scale_indices(tensor.shape(), zero.shape(), axis as i64, 0)?, narrow_integers(zero)?);
    Ok(values.into_iter().zip(which).map(|(v, i)| v - zeros[i]).collect())
}

/// For each element of an operand of a matrix product, which of the scales (or zero points) beside it holds: one for all, or
/// one for each slice of the axis `from_end` axes before the end (2: rows, 1: columns), perhaps for each batch, too.
///
/// # Errors
/// If the shape of the scales fits none of these.
pub fn slices_along(shape: &[usize], scale: &[usize], from_end: usize) -> Result<Vec<usize>, OpError> {
    let axis = shape.len().saturating_sub(from_end);
    if scale.len() < 2 || element_count(scale)? == 1 {
        // A vector on the left is one row.
        let one = shape.len() < from_end && element_count(scale)? == 1;
        return if one { Ok(vec![0; element_count(shape)?]) } else { scale_indices(shape, scale, axis as i64, 0) };
    }
    let fits = scale.len() == shape.len()
        && (0..shape.len()).all(|i| scale[i] == shape[i] || scale[i] == 1)
        && (0..shape.len()).all(|i| i < shape.len().saturating_sub(2) || i == axis || scale[i] == 1);
    if !fits {
        return Err(OpError::invalid(format!("scales of shape {scale:?} for matrices of shape {shape:?}")));
    }
    let steps: Vec<isize> = broadcast_strides(scale, shape).into_iter().map(|s| s as isize).collect();
    Ok(strided(shape, 0, &steps))
}

/// Integers of an operand of a matrix product minus their zero points; see [`slices_along`].
///
/// # Errors
/// If the zero points do not fit.
pub fn centered_along(tensor: &Tensor, zero: Option<&Tensor>, from_end: usize) -> Result<Vec<i64>, OpError> {
    let values = narrow_integers(tensor)?;
    let Some(zero) = zero else { return Ok(values) };
    let (which, zeros) = (slices_along(tensor.shape(), zero.shape(), from_end)?, narrow_integers(zero)?);
    Ok(values.into_iter().zip(which).map(|(v, i)| v - zeros[i]).collect())
}

/// An exact sum as the 32 bits an accumulator has.
///
/// # Errors
/// If it does not fit.
pub fn narrow(acc: i64) -> Result<i32, OpError> {
    i32::try_from(acc).map_err(|_| OpError::unsupported("a dot whose accumulator overflows 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_per_tensor_axis_and_block() {
        assert_eq!(scale_indices(&[2, 2], &[], 1, 0).unwrap(), [0, 0, 0, 0]);
        assert_eq!(scale_indices(&[2, 2], &[2], -1, 0).unwrap(), [0, 1, 0, 1]);
        assert_eq!(scale_indices(&[1, 3, 2], &[1, 2, 2], 1, 2).unwrap(), [0, 1, 0, 1, 2, 3]);
        for bad in [&[3usize][..], &[2, 1]] {
            assert!(scale_indices(&[2, 2], bad, 1, 0).is_err());
        }
        assert!(scale_indices(&[2, 2], &[2, 2], 1, 2).is_err() && scale_indices(&[2, 2], &[2, 2], 1, -2).is_err());
    }
}

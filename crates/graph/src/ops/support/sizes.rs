//! Sizes that come from the values of inputs: a hostile model may ask for anything.

use qing_tensor::Tensor;

use crate::{Dim, Infer, OpError};

/// Most elements a tensor whose size is computed from values may have.
pub const MOST_ELEMENTS: usize = 1 << 30;

/// Number of elements of a shape that values asked for.
///
/// # Errors
/// If there are more than [`MOST_ELEMENTS`].
pub fn limited(shape: &[usize]) -> Result<usize, OpError> {
    let count = qing_tensor::element_count(shape)?;
    if count > MOST_ELEMENTS {
        return Err(OpError::unsupported(format!("a result of shape {shape:?}; at most {MOST_ELEMENTS} elements")));
    }
    Ok(count)
}

/// One dimension from a value.
///
/// # Errors
/// If it is negative.
pub fn dimension(value: i64) -> Result<usize, OpError> {
    usize::try_from(value).map_err(|_| OpError::invalid(format!("a dimension of {value}")))
}

/// A shape from values.
///
/// # Errors
/// If a dimension is negative or there are more than [`MOST_ELEMENTS`] elements.
pub fn shape_of(values: &[i64]) -> Result<Vec<usize>, OpError> {
    let shape = values.iter().map(|v| dimension(*v)).collect::<Result<Vec<usize>, OpError>>()?;
    limited(&shape)?;
    Ok(shape)
}

/// The one integer a tensor holds.
///
/// # Errors
/// If it does not hold exactly one value.
pub fn single(tensor: &Tensor, what: &str) -> Result<i64, OpError> {
    match tensor.to_i64s()[..] {
        [value] => Ok(value),
        _ => Err(OpError::invalid(format!("{what} of shape {:?}; expected one value", tensor.shape()))),
    }
}

/// Known dimensions.
pub fn known(shape: &[usize]) -> Option<Vec<Dim>> {
    Some(shape.iter().map(|n| Dim::Known(*n)).collect())
}

/// How many values the vector at input `i` holds, if known: the rank of what it describes.
///
/// # Errors
/// If the input is absent.
pub fn length(cx: &Infer<'_>, i: usize) -> Result<Option<usize>, OpError> {
    Ok(cx.shape(i)?.and_then(|s| s.first()?.known()))
}

/// As many unknown dimensions as the vector at input `i` holds.
///
/// # Errors
/// If the input is absent.
pub fn unknown_of_length(cx: &Infer<'_>, i: usize) -> Result<Option<Vec<Dim>>, OpError> {
    Ok(length(cx, i)?.filter(|n| *n <= 64).map(|n| vec![Dim::Unknown; n]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_refused() {
        assert_eq!(shape_of(&[2, 0, 3]), Ok(vec![2, 0, 3]));
        assert!(shape_of(&[-1]).is_err());
        assert!(shape_of(&[1 << 20, 1 << 20]).is_err());
        assert!(shape_of(&[i64::MAX, 4]).is_err());
    }
}

//! Shapes are slices of `usize`; these functions are what everybody needs of them.

use crate::TensorError;

/// Number of elements of a shape.
///
/// # Errors
/// [`TensorError::TooLarge`] if the product of the dimensions, zeros left out, does not fit the address space in 64-bit
/// elements; so no stride or partial product of a shape that passed can overflow.
pub fn element_count(shape: &[usize]) -> Result<usize, TensorError> {
    let room = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    match room {
        Some(n) if n <= isize::MAX as usize / 8 => Ok(if shape.contains(&0) { 0 } else { n }),
        _ => Err(TensorError::TooLarge(shape.to_vec())),
    }
}

/// Row-major strides, in elements.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// The shape two shapes broadcast to, by the rules of NumPy and ONNX.
///
/// # Errors
/// [`TensorError::Broadcast`] if a pair of dimensions differs and neither is 1.
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, TensorError> {
    let rank = a.len().max(b.len());
    let dim = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(TensorError::Broadcast(a.to_vec(), b.to_vec())),
        })
        .collect()
}

/// Strides with which a tensor of `shape` is read while walking the broadcast shape `to`: 0 where it is stretched.
pub fn broadcast_strides(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(shape);
    let lead = to.len() - shape.len();
    (0..to.len()).map(|i| if i < lead || shape[i - lead] == 1 { 0 } else { own[i - lead] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        assert_eq!(element_count(&[]), Ok(1));
        assert_eq!(element_count(&[5, 0]), Ok(0));
        // An empty shape whose strides would overflow; found by fuzzing.
        assert!(element_count(&[0, usize::MAX, 2]).is_err());
        assert!(element_count(&[usize::MAX, 2]).is_err());
    }

    #[test]
    fn broadcasting() {
        assert_eq!(broadcast(&[2, 1, 3], &[4, 1]), Ok(vec![2, 4, 3]));
        assert!(broadcast(&[2], &[3]).is_err());
        assert_eq!(broadcast_strides(&[4, 1], &[2, 4, 3]), [0, 1, 0]);
    }
}

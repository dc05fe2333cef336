use std::sync::Arc;

use crate::{Element, Tensor, TensorError, element_count};

/// A matrix of integers as `left · diag(scales) · right`, both factors of −1, 0 and 1: fixed-point factorization (Wang and Cheng,
/// CVPR 2017).
///
/// What is a product is one number for every digit of two long and thin factors, less than two bits for a weight of a flat matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TernaryFactors {
    left: Vec<i8>,
    scales: Vec<i16>,
    right: Vec<i8>,
    columns: usize,
}

impl TernaryFactors {
    /// Factors of a matrix of `columns`: `left` has a row of as many digits as there are scales for each row of the matrix, `right` a row of
    /// `columns` for each scale. `None` if there are other digits than −1, 0 and 1, if they do not make such factors, or for more than 65,535
    /// scales, whose sums might not fit 32 bits.
    pub fn new(left: Vec<i8>, scales: Vec<i16>, right: Vec<i8>, columns: usize) -> Option<TernaryFactors> {
        let inner = scales.len();
        let digits = left.iter().chain(&right).all(|d| (-1..=1).contains(d));
        let fit = (1..=usize::from(u16::MAX)).contains(&inner)
            && left.len().is_multiple_of(inner)
            && inner.checked_mul(columns) == Some(right.len());
        (digits && fit).then_some(TernaryFactors { left, scales, right, columns })
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.left.len() / self.scales.len()
    }

    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The digits of the left factor, row by row.
    pub fn left(&self) -> &[i8] {
        &self.left
    }

    /// What stands between the factors.
    pub fn scales(&self) -> &[i16] {
        &self.scales
    }

    /// The digits of the right factor, row by row.
    pub fn right(&self) -> &[i8] {
        &self.right
    }

    /// The factors of the transposed matrix.
    #[must_use]
    pub fn transposed(&self) -> TernaryFactors {
        let inner = self.scales.len();
        let turned = |digits: &[i8], columns: usize| -> Vec<i8> {
            let rows = digits.len() / columns.max(1);
            (0..digits.len()).map(|i| digits[i % rows * columns + i / rows]).collect()
        };
        TernaryFactors {
            left: turned(&self.right, self.columns),
            scales: self.scales.clone(),
            right: turned(&self.left, inner),
            columns: self.rows(),
        }
    }

    /// The matrix, row by row, no value beyond `most`.
    pub fn product(&self, most: i32) -> Vec<i32> {
        let mut values = vec![0i32; self.rows() * self.columns];
        if self.columns == 0 {
            return values;
        }
        for (row, left) in values.chunks_exact_mut(self.columns).zip(self.left.chunks_exact(self.scales.len())) {
            for ((digit, scale), right) in left.iter().zip(&self.scales).zip(self.right.chunks_exact(self.columns)) {
                let factor = i32::from(*digit) * i32::from(*scale);
                if factor != 0 {
                    row.iter_mut().zip(right).for_each(|(v, d)| *v += factor * i32::from(*d));
                }
            }
            row.iter_mut().for_each(|v| *v = (*v).clamp(-most, most));
        }
        values
    }
}

impl Tensor {
    /// A tensor of what factors make, row-major, clamped to the symmetric part of the element's range. It remembers the
    /// factors, so that a file may hold them instead.
    ///
    /// # Errors
    /// As [`Tensor::from_ints`]; [`TensorError::Element`] if the element is not signed, of 2 to 8 bits.
    pub fn from_factors(
        element: Element,
        shape: &[usize],
        factors: Arc<TernaryFactors>,
    ) -> Result<Tensor, TensorError> {
        let most = match element {
            Element::I8 => 127,
            Element::Bits { width: width @ 2.., signed: true } => (1 << (width - 1)) - 1,
            actual => return Err(TensorError::Element { expected: Element::I8, actual }),
        };
        let (expected, actual) = (element_count(shape)?, factors.rows() * factors.columns());
        if expected != actual {
            return Err(TensorError::Length { element, shape: shape.to_vec(), expected, actual, unit: "values" });
        }
        let made = Tensor::from_ints(element, shape, &factors.product(most))?;
        Ok(made.remembering(factors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TernaryFactors {
        TernaryFactors::new(vec![1, 0, -1, 1], vec![100, 7], vec![1, -1, 0, 0, 1, 1], 3).unwrap()
    }

    #[test]
    fn the_product_is_clamped() {
        let factors = example();
        assert_eq!(factors.product(1000), [100, -100, 0, -100, 107, 7]);
        assert_eq!(factors.product(100), [100, -100, 0, -100, 100, 7]);
        let turned = factors.transposed();
        assert_eq!((turned.rows(), turned.columns()), (3, 2));
        assert_eq!(turned.product(1000), [100, -100, -100, 107, 0, 7]);
        assert_eq!(turned.transposed(), factors);
    }

    #[test]
    fn a_tensor_remembers_what_it_was_made_of_until_it_changes() {
        let t = Tensor::from_factors(Element::I8, &[2, 3], example().into()).unwrap();
        assert_eq!(t.to_ints(), [100, -100, 0, -100, 107, 7]);
        assert_eq!(t.clone().factors().map(|f| f.rows()), Some(2));
        assert!(t.reshaped(&[3, 2]).unwrap().factors().is_some());
        assert!(t.cast(Element::I32).factors().is_none());
        assert!(t.take(&[1], [0]).unwrap().factors().is_none());
        assert_eq!(t, Tensor::from_ints(Element::I8, &[2, 3], &t.to_ints()).unwrap());
        let four = Element::integer(4, true).unwrap();
        assert_eq!(Tensor::from_factors(four, &[6], example().into()).unwrap().to_ints(), [7, -7, 0, -7, 7, 7]);
    }

    #[test]
    fn what_are_no_factors_is_refused() {
        assert!(TernaryFactors::new(vec![2, 0], vec![1], vec![1], 1).is_none());
        assert!(TernaryFactors::new(vec![1, 0], vec![], vec![], 1).is_none());
        assert!(TernaryFactors::new(vec![1, 0, 1], vec![1, 1], vec![1, 1], 1).is_none());
        assert!(TernaryFactors::new(vec![1, 0], vec![1, 1], vec![1], 1).is_none());
        assert!(TernaryFactors::new(vec![1], vec![1], vec![1], usize::MAX).is_none());
        assert!(Tensor::from_factors(Element::U8, &[6], example().into()).is_err());
        assert!(Tensor::from_factors(Element::I8, &[7], example().into()).is_err());
    }
}

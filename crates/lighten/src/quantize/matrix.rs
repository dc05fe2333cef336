//! Weights as a matrix with one row per output channel, whatever axis the channels are on.

use std::ops::Range;

use qing_graph::{OpError, Tensor};
use qing_tensor::TernaryFactors;

/// Weights, one row per output channel, columns in the order in which the tensor holds the other axes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    /// Number of rows.
    pub count: usize,
    /// Row-major values.
    pub values: Vec<f64>,
}

impl Rows {
    /// The rows of a tensor whose output channels are at `axis`.
    pub(super) fn of(tensor: &Tensor, axis: usize) -> Rows {
        let all = tensor.to_f64s();
        let order = order(tensor.shape(), axis);
        Rows { count: tensor.shape()[axis], values: order.into_iter().map(|i| all[i]).collect() }
    }

    /// Values per row.
    pub(super) fn width(&self) -> usize {
        self.values.len().checked_div(self.count).unwrap_or(0)
    }

    /// Row `i`.
    pub(super) fn row(&self, i: usize) -> &[f64] {
        let width = self.width();
        &self.values[i * width..(i + 1) * width]
    }
}

/// Rows of weights (one group of output channels) that meet the same inputs.
pub(super) struct Group {
    /// Which rows.
    pub span: Range<usize>,
    /// How much the error of each column matters; all alike if empty.
    pub importance: Vec<f64>,
    /// Second moments of the inputs, `width²`, if they were kept.
    pub moments: Option<Vec<f64>>,
}

impl Group {
    /// `x` times the second moments of what the group reads.
    pub(super) fn seen(&self, x: &[f64]) -> Vec<f64> {
        match &self.moments {
            Some(moments) => seen(moments, x),
            None => x.iter().enumerate().map(|(c, v)| v * self.importance.get(c).copied().unwrap_or(1.0)).collect(),
        }
    }
}

/// `x` times second moments.
pub(super) fn seen(moments: &[f64], x: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    for (v, h) in x.iter().zip(moments.chunks_exact(x.len())) {
        if *v != 0.0 {
            out.iter_mut().zip(h).for_each(|(o, h)| *o += v * h);
        }
    }
    out
}

/// For each place of the rows, the place in the tensor.
fn order(shape: &[usize], axis: usize) -> Vec<usize> {
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let n = shape[axis];
    let mut order = Vec::with_capacity(outer * n * inner);
    for c in 0..n {
        for o in 0..outer {
            order.extend((0..inner).map(|i| (o * n + c) * inner + i));
        }
    }
    order
}

/// What factors make row by row, as a tensor of `shape` with the rows at `axis`, which remembers them; nothing if the rows do not lie one
/// after the other in it, or side by side.
pub(super) fn tensor_of_factors(
    element: qing_graph::Element,
    shape: &[usize],
    axis: usize,
    factors: &TernaryFactors,
) -> Option<Tensor> {
    let factors = match (axis, shape) {
        (0, _) => factors.clone(),
        (1, [_, _]) => factors.transposed(),
        _ => return None,
    };
    Tensor::from_factors(element, shape, factors.into()).ok()
}

/// Integers given row by row, as a tensor of `shape` with the rows at `axis`.
///
/// # Errors
/// If the integers do not fill the shape.
pub(super) fn tensor_of_rows(
    element: qing_graph::Element,
    shape: &[usize],
    axis: usize,
    ints: &[i32],
) -> Result<Tensor, OpError> {
    let mut values = vec![0; ints.len()];
    for (v, at) in ints.iter().zip(order(shape, axis)) {
        values[at] = *v;
    }
    Ok(Tensor::from_ints(element, shape, &values)?)
}

#[cfg(test)]
mod tests {
    use qing_graph::Element;

    use super::*;

    #[test]
    fn rows_follow_the_axis() {
        let t = Tensor::new(&[2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(Rows::of(&t, 0).row(1), [4.0, 5.0, 6.0]);
        let rows = Rows::of(&t, 1);
        assert_eq!((rows.count, rows.row(1)), (3, [2.0, 5.0].as_slice()));
        let ints: Vec<i32> = rows.values.iter().map(|v| *v as i32).collect();
        let back = tensor_of_rows(Element::I8, &[2, 3], 1, &ints).unwrap();
        assert_eq!(back.to_ints(), [1, 2, 3, 4, 5, 6]);
    }
}

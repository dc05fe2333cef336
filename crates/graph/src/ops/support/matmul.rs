//! Matrix products over exact integers or f64, with broadcast batches and quantized weights.

use std::num::Wrapping;

use qing_tensor::{Tensor, broadcast, broadcast_strides, element_count};

use super::{
    dot::{Output, centered},
    elementwise::{broadcast_dims, each_index},
};
use crate::{Backward, Dim, Granularity, OpError, Type, ValueId, arithmetic, ops::Gemm};

/// How two operands are multiplied: where each pair of matrices begins, and how large they are.
#[derive(Debug)]
pub struct Product {
    /// Shape of the result.
    pub shape: Vec<usize>,
    /// Rows of the left matrices.
    pub m: usize,
    /// Columns of the left and rows of the right matrices.
    pub k: usize,
    /// Columns of the right matrices.
    pub n: usize,
    /// For each product, the indices of the first elements of its two matrices.
    pub batches: Vec<(usize, usize)>,
}

/// Splits a shape into leading axes and a matrix; a vector is a row on the left, a column on the right.
fn matrix<T: Clone>(shape: &[T], left: bool, one: T) -> Option<(&[T], T, T)> {
    match shape {
        [] => None,
        [k] if left => Some((&[], one, k.clone())),
        [k] => Some((&[], k.clone(), one)),
        [batch @ .., r, c] => Some((batch, r.clone(), c.clone())),
    }
}

impl Product {
    /// The product of operands of these shapes.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn new(a: &[usize], b: &[usize]) -> Result<Product, OpError> {
        let fail = || OpError::invalid(format!("a product of {a:?} and {b:?}"));
        let (batch_a, m, k) = matrix(a, true, 1).ok_or_else(fail)?;
        let (batch_b, depth, n) = matrix(b, false, 1).ok_or_else(fail)?;
        if depth != k {
            return Err(fail());
        }
        let batch = broadcast(batch_a, batch_b).map_err(|_| fail())?;
        let (sa, sb) = (broadcast_strides(batch_a, &batch), broadcast_strides(batch_b, &batch));
        let mut shape = batch.clone();
        shape.extend((a.len() > 1).then_some(m));
        shape.extend((b.len() > 1).then_some(n));
        element_count(&shape)?;
        let mut batches = vec![];
        each_index(&batch, |at| {
            let dot = |s: &[usize]| at.iter().zip(s).map(|(i, s)| i * s).sum::<usize>();
            batches.push((dot(&sa) * m * k, dot(&sb) * k * n));
        });
        Ok(Product { shape, m, k, n, batches })
    }
}

/// Shape of a product of partly known operands.
///
/// # Errors
/// If they cannot fit.
pub fn batched_dims(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, OpError> {
    let scalar = || OpError::invalid("a matrix product with a scalar");
    let (batch_a, m, k) = matrix(a, true, Dim::Known(1)).ok_or_else(scalar)?;
    let (batch_b, depth, n) = matrix(b, false, Dim::Known(1)).ok_or_else(scalar)?;
    if let (Some(k), Some(depth)) = (k.known(), depth.known())
        && k != depth
    {
        return Err(OpError::invalid(format!("a product of {k} columns and {depth} rows")));
    }
    let mut shape = broadcast_dims(batch_a, batch_b)?;
    shape.extend((a.len() > 1).then_some(m));
    shape.extend((b.len() > 1).then_some(n));
    Ok(shape)
}

/// The products, with `bias` (one for each column, one for each element of the result, or none) added.
pub fn accumulate<T>(product: &Product, a: &[T], b: &[T], bias: &[T]) -> Vec<T>
where
    T: Copy + Default + std::ops::AddAssign + std::ops::Mul<Output = T>,
{
    let Product { m, k, n, .. } = *product;
    let mut out = vec![T::default(); product.batches.len() * m * n];
    if out.is_empty() {
        return out;
    }
    if !bias.is_empty() {
        for (i, o) in out.iter_mut().enumerate() {
            *o = bias[i % bias.len()];
        }
    }
    for (y, &(i, j)) in out.chunks_exact_mut(m * n).zip(&product.batches) {
        for (r, row) in y.chunks_exact_mut(n).enumerate() {
            for d in 0..k {
                let v = a[i + r * k + d];
                let line = &b[j + d * n..j + (d + 1) * n];
                for (o, w) in row.iter_mut().zip(line) {
                    *o += v * *w;
                }
            }
        }
    }
    out
}

/// The products of integers of any width; they wrap.
pub fn accumulate_wrapping(product: &Product, a: &Tensor, b: &Tensor) -> Vec<i64> {
    let integers = |t: &Tensor| t.to_i64s().into_iter().map(Wrapping).collect::<Vec<Wrapping<i64>>>();
    accumulate(product, &integers(a), &integers(b), &[]).into_iter().map(|v| v.0).collect()
}

/// A quantized product with one weight scale, or one for each column.
///
/// # Errors
/// If the quantization is another one, or an accumulator overflows 32 bits.
pub fn per_column(
    product: &Product,
    a: &Tensor,
    b: &Tensor,
    bias: &[i64],
    x: &Type,
    w: &Type,
    y: &Type,
) -> Result<Tensor, OpError> {
    let (Some(aq), Some(bq)) = (&x.quant, &w.quant) else {
        return Err(OpError::unsupported(format!("a product of {x} and {w}; expected both quantized")));
    };
    let columns = matches!(bq.granularity(), Granularity::Axis(axis) if axis + 1 == b.rank() && b.rank() > 1);
    if bq.scales().len() > 1 && !(columns && bq.scales().len() == product.n) {
        return Err(OpError::unsupported(format!("weights of type {w}; expected one scale, or one for each column")));
    }
    if !bias.is_empty() && bias.len() != product.n && bias.len() != product.m * product.n {
        return Err(OpError::invalid(format!("a bias of {} for {} columns", bias.len(), product.n)));
    }
    let output = Output::of_dot(x, w, y)?;
    let acc = accumulate(product, &centered(a, aq), &centered(b, bq), bias);
    output.finish(y, &product.shape, &acc, |i| i % product.n)
}

/// A quantized product whose weights have a scale for each block along `K`: `Σ f32(acc) ⊗ s`, blocks ascending.
///
/// # Errors
/// If the blocks run along another axis, or an accumulator overflows 32 bits.
pub fn per_block(product: &Product, a: &Tensor, b: &Tensor, x: &Type, w: &Type, y: &Type) -> Result<Tensor, OpError> {
    let (Some(aq), Some(bq)) = (&x.quant, &w.quant) else {
        return Err(OpError::unsupported(format!("a product of {x} and {w}; expected both quantized")));
    };
    let Product { m, k, n, .. } = *product;
    let Granularity::Block { axis, size } = bq.granularity() else {
        return Err(OpError::unsupported(format!("weights of type {w}; expected blocks")));
    };
    if b.rank() < 2 || axis + 2 != b.rank() || bq.slices(b.shape()) != Some(bq.scales().len()) {
        return Err(OpError::unsupported(format!("weights of type {w}; expected blocks along their rows")));
    }
    let x_scale = arithmetic::per_tensor(x)?.scale;
    let (av, bv) = (centered(a, aq), centered(b, bq));
    let mut out = Vec::with_capacity(element_count(&product.shape)?);
    for &(i, j) in &product.batches {
        for (r, c) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
            let mut sum = 0.0f32;
            for start in (0..k).step_by(size) {
                let acc: i64 = (start..k.min(start + size)).map(|d| av[i + r * k + d] * bv[j + d * n + c]).sum();
                let acc = i32::try_from(acc)
                    .map_err(|_| OpError::unsupported("a dot whose accumulator overflows 32 bits"))?;
                let scale = x_scale * bq.scale(bq.slice_of(b.shape(), j + start * n + c));
                sum += acc as f32 * scale;
            }
            out.push(sum);
        }
    }
    if y.quant.is_none() {
        return Ok(Tensor::new(&product.shape, out)?);
    }
    let to = arithmetic::per_tensor(y)?;
    let values: Vec<i32> = out.into_iter().map(|v| arithmetic::quantize(v, to.scale, to.zero, to.lo, to.hi)).collect();
    Ok(Tensor::from_ints(y.element, &product.shape, &values)?)
}

/// Left operand, right operand and result with at least two axes: a vector is a row on the left, a column on the right.
fn matrices(cx: &Backward<'_>, a: ValueId, b: ValueId, dy: ValueId) -> Result<[ValueId; 3], OpError> {
    let (a_shape, b_shape, mut y_shape) = (cx.shape(a)?, cx.shape(b)?, cx.shape(dy)?);
    if b_shape.len() == 1 {
        y_shape.push(1);
    }
    if a_shape.len() == 1 {
        y_shape.insert(y_shape.len() - 1, 1);
    }
    let a = if let [k] = a_shape[..] { cx.reshape(a, &[1, k])? } else { a };
    let b = if let [k] = b_shape[..] { cx.reshape(b, &[k, 1])? } else { b };
    Ok([a, b, cx.reshape(dy, &y_shape)?])
}

/// A stack of matrices seen as one, all rows below each other.
fn stacked(cx: &Backward<'_>, a: ValueId) -> Result<ValueId, OpError> {
    let shape = cx.shape(a)?;
    let columns = shape.last().copied().unwrap_or(1);
    cx.reshape(a, &[shape[..shape.len() - 1].iter().product(), columns])
}

/// Gradient of the left operand of a matrix product `a · b`: `dy · bᵀ`, summed over batches that it does not have.
///
/// # Errors
/// If shapes are not known.
pub fn gradient_of_left(cx: &Backward<'_>, a: ValueId, b: ValueId, dy: ValueId) -> Result<ValueId, OpError> {
    let [left, right, dy] = matrices(cx, a, b, dy)?;
    if cx.rank(right)? == 2 {
        let da = cx.emit(Gemm { transB: true, ..Gemm::default() }, &[stacked(cx, dy)?, right])?;
        return cx.reshape_like(da, a);
    }
    let da = cx.matmul(dy, cx.transpose_last(right)?)?;
    cx.reshape_like(cx.sum_like(da, left)?, a)
}

/// Gradient of the right operand of a matrix product `a · b`: `aᵀ · dy`, summed over batches that it does not have.
///
/// # Errors
/// If shapes are not known.
pub fn gradient_of_right(cx: &Backward<'_>, a: ValueId, b: ValueId, dy: ValueId) -> Result<ValueId, OpError> {
    let [left, right, dy] = matrices(cx, a, b, dy)?;
    if cx.rank(right)? == 2 {
        // All batches share the weights: one product, and no sum over it.
        let db = cx.emit(Gemm { transA: true, ..Gemm::default() }, &[stacked(cx, left)?, stacked(cx, dy)?])?;
        return cx.reshape_like(db, b);
    }
    let db = cx.matmul(cx.transpose_last(left)?, dy)?;
    cx.reshape_like(cx.sum_like(db, right)?, b)
}

/// A matrix with rows and columns exchanged.
///
/// # Errors
/// If it is not a matrix.
pub fn transposed(t: &Tensor) -> Result<Tensor, OpError> {
    let [rows, columns] = *t.shape() else {
        return Err(OpError::invalid(format!("shape {:?}; expected a matrix", t.shape())));
    };
    let order = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c));
    Ok(t.take(&[columns, rows], order)?)
}

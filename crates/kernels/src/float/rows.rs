//! Functions of whole rows, that is, of the last axis: softmax and normalization.

use super::elementwise::functions::exp;
use super::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{Isa, KernelError, Pool, expect_len};

/// Values that one task handles at least.
const BLOCK: usize = 4096;

/// Softmax of every row of `width` values: `y = e^(x - max) / Σ e^(x - max)`. Allocates nothing.
///
/// # Errors
/// [`KernelError`] when `x` and `y` differ in length or are not whole rows.
pub fn softmax(isa: Isa, width: usize, x: &[f32], y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
    each_row(isa, width, Some(x), y, RowOp::Softmax, pool)
}

/// [`softmax`] of `y`, in place.
///
/// # Errors
/// [`KernelError`] when `y` is not whole rows.
pub fn softmax_in_place(isa: Isa, width: usize, y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
    each_row(isa, width, None, y, RowOp::Softmax, pool)
}

/// The logarithm of the softmax of every row of `width` values: `y = x - max - ln Σ e^(x - max)`. Allocates nothing.
///
/// # Errors
/// [`KernelError`] when `x` and `y` differ in length or are not whole rows.
pub fn log_softmax(isa: Isa, width: usize, x: &[f32], y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
    each_row(isa, width, Some(x), y, RowOp::LogSoftmax, pool)
}

/// [`log_softmax`] of `y`, in place.
///
/// # Errors
/// [`KernelError`] when `y` is not whole rows.
pub fn log_softmax_in_place(isa: Isa, width: usize, y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
    each_row(isa, width, None, y, RowOp::LogSoftmax, pool)
}

/// Normalizes every row to mean 0 and variance 1, then applies what was learned:
/// `y = (x - mean) / √(variance + epsilon) · scale + bias`, with `scale` and `bias` as long as a row. Allocates nothing.
///
/// # Errors
/// [`KernelError`] when lengths do not agree.
pub fn layer_norm(
    isa: Isa,
    x: &[f32],
    scale: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    y: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    if let Some(bias) = bias {
        expect_len("bias", bias.len(), scale.len())?;
    }
    each_row(isa, scale.len(), Some(x), y, RowOp::Normalize { scale, bias, epsilon }, pool)
}

/// [`layer_norm`] of `y`, in place.
///
/// # Errors
/// [`KernelError`] when lengths do not agree.
pub fn layer_norm_in_place(
    isa: Isa,
    scale: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    y: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    if let Some(bias) = bias {
        expect_len("bias", bias.len(), scale.len())?;
    }
    each_row(isa, scale.len(), None, y, RowOp::Normalize { scale, bias, epsilon }, pool)
}

#[derive(Clone, Copy)]
enum RowOp<'a> {
    Softmax,
    LogSoftmax,
    Normalize { scale: &'a [f32], bias: Option<&'a [f32]>, epsilon: f32 },
}

fn each_row(
    isa: Isa,
    width: usize,
    x: Option<&[f32]>,
    y: &mut [f32],
    op: RowOp<'_>,
    pool: &Pool,
) -> Result<(), KernelError> {
    if let Some(x) = x {
        expect_len("output", y.len(), x.len())?;
    }
    if width == 0 || !y.len().is_multiple_of(width) {
        return Err(KernelError::Geometry(format!("{} values are not rows of {width}", y.len())));
    }
    let rows = y.len() / width;
    let step = BLOCK.div_ceil(width);
    let y = SharedMut::new(y);
    pool.run(rows.div_ceil(step), &|chunk| {
        let range = chunk * step * width..rows.min((chunk + 1) * step) * width;
        // SAFETY: chunks are distinct ranges of rows.
        let y = unsafe { y.slice(range.clone()) };
        if let Some(x) = x {
            // What is done in place next is still in the cache.
            y.copy_from_slice(&x[range]);
        }
        dispatch(isa, InPlace { width, op, y });
    });
    Ok(())
}

struct InPlace<'a> {
    width: usize,
    op: RowOp<'a>,
    y: &'a mut [f32],
}

impl Kernel for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.y.chunks_exact_mut(self.width) {
            match self.op {
                RowOp::Softmax => softmax_row(s, row),
                RowOp::LogSoftmax => log_softmax_row(s, row),
                RowOp::Normalize { scale, bias, epsilon } => normalize_row(s, row, scale, bias, epsilon),
            }
        }
    }
}

#[inline(always)]
fn softmax_row<S: Simd>(s: S, row: &mut [f32]) {
    let whole = row.len() / S::LANES * S::LANES;
    let (body, tail) = row.split_at_mut(whole);
    let mut top = s.splat(f32::NEG_INFINITY);
    for x in body.chunks_exact(S::LANES) {
        top = s.max(top, s.load(x));
    }
    let top = tail.iter().copied().fold(s.largest(top), f32::max);
    let shift = s.splat(top);
    let mut sums = s.splat(0.0);
    for x in body.chunks_exact_mut(S::LANES) {
        let e = exp(s, s.sub(s.load(x), shift));
        s.store(x, e);
        sums = s.add(sums, e);
    }
    let mut sum = s.sum(sums);
    if !tail.is_empty() {
        let e = exp(s, s.sub(s.load_tail(tail), shift));
        s.store_tail(tail, e);
        for e in tail.iter() {
            sum += e;
        }
    }
    let scale = s.splat(1.0 / sum);
    for x in body.chunks_exact_mut(S::LANES) {
        s.store(x, s.mul(s.load(x), scale));
    }
    if !tail.is_empty() {
        s.store_tail(tail, s.mul(s.load_tail(tail), scale));
    }
}

#[inline(always)]
fn log_softmax_row<S: Simd>(s: S, row: &mut [f32]) {
    let mut top = s.splat(f32::NEG_INFINITY);
    let (body, tail) = row.split_at(row.len() / S::LANES * S::LANES);
    for x in body.chunks_exact(S::LANES) {
        top = s.max(top, s.load(x));
    }
    let top = tail.iter().copied().fold(s.largest(top), f32::max);
    let mut sums = s.splat(0.0);
    for x in body.chunks_exact(S::LANES) {
        sums = s.add(sums, exp(s, s.sub(s.load(x), s.splat(top))));
    }
    let mut sum = s.sum(sums);
    if !tail.is_empty() {
        let mut lanes = [0.0f32; 64];
        s.store_tail(&mut lanes[..tail.len()], exp(s, s.sub(s.load_tail(tail), s.splat(top))));
        for e in &lanes[..tail.len()] {
            sum += e;
        }
    }
    // Two steps: the logarithm is lost beside a large maximum.
    let (top, logarithm) = (s.splat(top), s.splat(sum.ln()));
    for x in row.chunks_mut(S::LANES) {
        s.store_tail(x, s.sub(s.sub(load(s, x), top), logarithm));
    }
}

#[inline(always)]
fn normalize_row<S: Simd>(s: S, row: &mut [f32], scale: &[f32], bias: Option<&[f32]>, epsilon: f32) {
    let count = row.len() as f32;
    let zero = s.splat(0.0);
    // Sums that do not wait for each other.
    const CHAINS: usize = 4;
    let (blocks, rest) = row.split_at(row.len() / (CHAINS * S::LANES) * (CHAINS * S::LANES));
    let mut sums = [zero; CHAINS];
    for block in blocks.chunks_exact(CHAINS * S::LANES) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = s.add(*sum, s.load(&block[i * S::LANES..]));
        }
    }
    for x in rest.chunks(S::LANES) {
        sums[0] = s.add(sums[0], load(s, x));
    }
    let mean = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))) / count;
    let shift = s.splat(mean);
    let mut squares = [zero; CHAINS];
    for block in blocks.chunks_exact(CHAINS * S::LANES) {
        for (i, sum) in squares.iter_mut().enumerate() {
            let d = s.sub(s.load(&block[i * S::LANES..]), shift);
            *sum = s.fma(d, d, *sum);
        }
    }
    let (whole, tail) = rest.split_at(rest.len() / S::LANES * S::LANES);
    for x in whole.chunks_exact(S::LANES) {
        let d = s.sub(s.load(x), shift);
        squares[0] = s.fma(d, d, squares[0]);
    }
    let mut variance = s.sum(s.add(s.add(squares[0], squares[1]), s.add(squares[2], squares[3])));
    for x in tail {
        variance += (x - mean) * (x - mean);
    }
    let inverse = s.splat(1.0 / (variance / count + epsilon).sqrt());
    for (i, x) in row.chunks_mut(S::LANES).enumerate() {
        let range = i * S::LANES..i * S::LANES + x.len();
        let shift_up = bias.map_or(
            zero,
            #[inline(always)]
            |bias| load(s, &bias[range.clone()]),
        );
        let value = s.mul(s.sub(load(s, x), shift), inverse);
        s.store_tail(x, s.fma(value, load(s, &scale[range]), shift_up));
    }
}

/// A whole vector, or zeros after the end.
#[inline(always)]
fn load<S: Simd>(s: S, x: &[f32]) -> S::V {
    if x.len() == S::LANES { s.load(x) } else { s.load_tail(x) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::testing::noise;

    fn close(found: &[f32], expected: &[f64], tolerance: f64) {
        for (found, expected) in found.iter().zip(expected) {
            let error = (f64::from(*found) - expected).abs();
            assert!(error <= tolerance * expected.abs().max(1e-3), "{found}, expected {expected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn softmax_sums_to_one_and_agrees(rows in 1..=9usize, width in 1..=1100usize, spread in 1..=60u8) {
            let x: Vec<f32> = noise(1, rows * width).iter().map(|v| v * f32::from(spread)).collect();
            let mut expected = Vec::new();
            for row in x.chunks(width) {
                let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let e: Vec<f64> = row.iter().map(|v| (f64::from(*v) - f64::from(top)).exp()).collect();
                let sum: f64 = e.iter().sum();
                expected.extend(e.iter().map(|e| e / sum));
            }
            for isa in Isa::available() {
                for threads in 1..=3 {
                    let pool = Pool::kept(threads);
                    let mut y = vec![f32::NAN; x.len()];
                    softmax(isa, width, &x, &mut y, &pool).unwrap();
                    close(&y, &expected, 1e-5);
                    let mut z = x.clone();
                    softmax_in_place(isa, width, &mut z, &pool).unwrap();
                    prop_assert_eq!(&y, &z);
                    log_softmax(isa, width, &x, &mut y, &pool).unwrap();
                    for (i, found) in y.iter().enumerate() {
                        let row = &x[i / width * width..][..width];
                        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                        let sum: f64 = row.iter().map(|v| (f64::from(*v) - f64::from(top)).exp()).sum();
                        let want = f64::from(x[i]) - f64::from(top) - sum.ln();
                        prop_assert!((f64::from(*found) - want).abs() < 2e-6 * want.abs().max(1.0), "{} {}", found, want);
                    }
                    let mut z = x.clone();
                    log_softmax_in_place(isa, width, &mut z, &pool).unwrap();
                    prop_assert_eq!(&y, &z);
                }
            }
        }

        #[test]
        fn layer_norm_agrees(rows in 1..=9usize, width in 2..=900usize, offset in -3..=3i8, with_bias: bool) {
            let x: Vec<f32> = noise(1, rows * width).iter().map(|v| v + f32::from(offset)).collect();
            let (scale, bias) = (noise(2, width), noise(3, width));
            let bias = with_bias.then_some(&bias[..]);
            let mut expected = Vec::new();
            for row in x.chunks(width) {
                let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / width as f64;
                let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / width as f64;
                for (i, v) in row.iter().enumerate() {
                    let value = (f64::from(*v) - mean) / (variance + 1e-3).sqrt();
                    expected.push(value * f64::from(scale[i]) + bias.map_or(0.0, |b| f64::from(b[i])));
                }
            }
            for isa in Isa::available() {
                for threads in 1..=3 {
                    let mut y = vec![f32::NAN; x.len()];
                    let pool = Pool::kept(threads);
                    layer_norm(isa, &x, &scale, bias, 1e-3, &mut y, &pool).unwrap();
                    let mut z = x.clone();
                    layer_norm_in_place(isa, &scale, bias, 1e-3, &mut z, &pool).unwrap();
                    prop_assert_eq!(&y, &z);
                    for (found, expected) in y.iter().zip(&expected) {
                        prop_assert!((f64::from(*found) - expected).abs() < 2e-5, "{} {found} {expected}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn masked_values_get_no_share() {
        for isa in Isa::available() {
            let mut y = [1.0, f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
            softmax_in_place(isa, 4, &mut y, &Pool::new(1)).unwrap();
            assert_eq!(y, [0.5, 0.0, 0.5, 0.0], "{}", isa.name());
        }
    }

    #[test]
    fn broken_rows_are_refused() {
        let pool = Pool::new(1);
        assert!(softmax(Isa::Scalar, 0, &[], &mut [], &pool).is_err());
        assert!(softmax(Isa::Scalar, 2, &[0.0; 3], &mut [0.0; 3], &pool).is_err());
        assert!(softmax(Isa::Scalar, 2, &[0.0; 2], &mut [0.0; 4], &pool).is_err());
        assert!(layer_norm(Isa::Scalar, &[0.0; 4], &[1.0; 2], Some(&[1.0]), 0.0, &mut [0.0; 4], &pool).is_err());
    }
}

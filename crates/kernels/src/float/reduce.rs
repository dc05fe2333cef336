//! Reductions over one axis, or several that lie side by side.

use super::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{Isa, KernelError, Pool, expect_len};

/// What becomes of the values that are reduced to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// Reduces the middle axis of `x`, `[outer, middle, inner]`, to `y`, `[outer, inner]`. With `inner` 1 it is the last axis; with the
/// pixels of a channels-last image in the middle it is global pooling. Allocates nothing.
///
/// # Errors
/// [`KernelError`] when a size is 0 or a slice has another length than they say.
pub fn reduce(
    isa: Isa,
    op: Reduce,
    [outer, middle, inner]: [usize; 3],
    x: &[f32],
    y: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    let sizes = outer.checked_mul(inner).and_then(|results| Some((results, results.checked_mul(middle)?)));
    let Some((results, values)) = sizes.filter(|(_, values)| *values > 0) else {
        return Err(KernelError::Geometry(format!("nothing to reduce in [{outer}, {middle}, {inner}]")));
    };
    expect_len("input", x.len(), values)?;
    expect_len("output", y.len(), results)?;
    // A task is a range of results: of whole rows, or of one block of columns, narrower where there would be too few.
    let (tasks, step) = if inner == 1 {
        let step = 4096usize.div_ceil(middle);
        (outer.div_ceil(step), step)
    } else {
        let wanted = if pool.threads() == 1 { 1 } else { 2 * pool.threads() };
        let step = (inner * outer).div_ceil(wanted).next_multiple_of(LINE).min(COLUMNS);
        (outer * inner.div_ceil(step), step)
    };
    let y = SharedMut::new(y);
    pool.run(tasks, &|task| {
        if inner == 1 {
            let rows = task * step..outer.min((task + 1) * step);
            let x = &x[rows.start * middle..rows.end * middle];
            // SAFETY: tasks are distinct ranges of rows.
            dispatch(isa, Rows { op, middle, x, y: unsafe { y.slice(rows) } });
        } else {
            let blocks = inner.div_ceil(step);
            let (item, first) = (task / blocks, task % blocks * step);
            let last = inner.min(first + step);
            let x = &x[item * middle * inner..][..middle * inner];
            // SAFETY: tasks are distinct blocks of columns.
            let y = unsafe { y.slice(item * inner + first..item * inner + last) };
            dispatch(isa, Columns { op, middle, inner, first, x, y });
        }
    });
    Ok(())
}

/// Columns that one task reduces: some cache lines, so that memory is read in order.
const COLUMNS: usize = 256;
/// Values of a cache line.
const LINE: usize = 16;
/// Rows that are summed before their sum is added to that of others: long sums of small values keep their accuracy.
const ROWS: usize = 1024;

impl Reduce {
    #[inline(always)]
    fn start(self) -> f32 {
        match self {
            Reduce::Sum | Reduce::Mean => 0.0,
            Reduce::Max => f32::NEG_INFINITY,
            Reduce::Min => f32::INFINITY,
        }
    }

    #[inline(always)]
    fn join<S: Simd>(self, s: S, sum: S::V, x: S::V) -> S::V {
        match self {
            Reduce::Sum | Reduce::Mean => s.add(sum, x),
            Reduce::Max => s.max(sum, x),
            Reduce::Min => s.min(sum, x),
        }
    }

    #[inline(always)]
    fn factor(self, count: usize) -> f32 {
        if self == Reduce::Mean { 1.0 / count as f32 } else { 1.0 }
    }
}

struct Rows<'a> {
    op: Reduce,
    middle: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const CHAINS: usize = 4;
        let op = self.op;
        for (x, y) in self.x.chunks_exact(self.middle).zip(self.y) {
            let mut parts = [s.splat(op.start()); CHAINS];
            let mut blocks = x.chunks_exact(CHAINS * S::LANES);
            for block in &mut blocks {
                for (i, part) in parts.iter_mut().enumerate() {
                    *part = op.join(s, *part, s.load(&block[i * S::LANES..]));
                }
            }
            let mut vectors = blocks.remainder().chunks_exact(S::LANES);
            for vector in &mut vectors {
                parts[0] = op.join(s, parts[0], s.load(vector));
            }
            let low = op.join(s, parts[0], parts[1]);
            let all = op.join(s, low, op.join(s, parts[2], parts[3]));
            let tail = vectors.remainder().iter().copied();
            *y = match op {
                Reduce::Sum | Reduce::Mean => (s.sum(all) + tail.sum::<f32>()) * op.factor(self.middle),
                Reduce::Max => tail.fold(s.largest(all), f32::max),
                Reduce::Min => tail.fold(-s.largest(s.sub(s.splat(0.0), all)), f32::min),
            };
        }
    }
}

struct Columns<'a> {
    op: Reduce,
    middle: usize,
    inner: usize,
    first: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const WIDE: usize = 4;
        let Columns { op, middle, inner, first, x, y } = self;
        let factor = s.splat(op.factor(middle));
        for (block, y) in y.chunks_mut(WIDE * S::LANES).enumerate() {
            let start = first + block * WIDE * S::LANES;
            let mut totals = [s.splat(op.start()); WIDE];
            for rows in x[..middle * inner].chunks(ROWS * inner) {
                let mut sums = [s.splat(op.start()); WIDE];
                for row in rows.chunks_exact(inner) {
                    let row = &row[start..start + y.len()];
                    if row.len() == WIDE * S::LANES {
                        for (sum, i) in sums.iter_mut().zip(0..) {
                            *sum = op.join(s, *sum, s.load(&row[i * S::LANES..]));
                        }
                    } else {
                        for (sum, x) in sums.iter_mut().zip(row.chunks(S::LANES)) {
                            *sum = op.join(s, *sum, if x.len() == S::LANES { s.load(x) } else { s.load_tail(x) });
                        }
                    }
                }
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = op.join(s, *total, sum);
                }
            }
            for (y, total) in y.chunks_mut(S::LANES).zip(totals) {
                s.store_tail(y, if op == Reduce::Mean { s.mul(total, factor) } else { total });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::testing::noise;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn reductions_agree_with_a_loop(outer in 1..=5usize, middle in 1..=300usize, inner in prop_oneof![Just(1usize), 1..=530usize]) {
            let x = noise(1, outer * middle * inner);
            for op in [Reduce::Sum, Reduce::Mean, Reduce::Max, Reduce::Min] {
                for isa in Isa::available() {
                    for threads in 1..=3 {
                        let mut y = vec![f32::NAN; outer * inner];
                        reduce(isa, op, [outer, middle, inner], &x, &mut y, &Pool::kept(threads)).unwrap();
                        for (i, y) in y.iter().enumerate() {
                            let values = (0..middle).map(|m| f64::from(x[(i / inner * middle + m) * inner + i % inner]));
                            let size: f64 = values.clone().map(f64::abs).sum();
                            let (expected, tolerance) = match op {
                                Reduce::Sum => (values.sum::<f64>(), 1e-5 * size),
                                Reduce::Mean => (values.sum::<f64>() / middle as f64, 1e-5 * size / middle as f64),
                                Reduce::Max => (values.fold(f64::NEG_INFINITY, f64::max), 0.0),
                                Reduce::Min => (values.fold(f64::INFINITY, f64::min), 0.0),
                            };
                            prop_assert!((f64::from(*y) - expected).abs() <= tolerance, "{} {op:?} {y} {expected}", isa.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn long_sums_keep_their_accuracy_on_any_threads() {
        let (middle, inner) = (200_000usize, 21);
        let x: Vec<f32> = noise(1, middle * inner).iter().map(|v| v + 1.0).collect();
        for isa in Isa::available() {
            let mut first: Option<Vec<f32>> = None;
            for threads in [1, 2, 5] {
                let mut y = vec![f32::NAN; inner];
                reduce(isa, Reduce::Sum, [1, middle, inner], &x, &mut y, &Pool::kept(threads)).unwrap();
                for (c, y) in y.iter().enumerate() {
                    let want: f64 = x.iter().skip(c).step_by(inner).map(|v| f64::from(*v)).sum();
                    let error = (f64::from(*y) - want).abs() / want;
                    assert!(error < 2e-6, "{} {y}, not {want}", isa.name());
                }
                assert_eq!(first.get_or_insert_with(|| y.clone()), &y, "{} {threads} threads", isa.name());
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let pool = Pool::new(1);
        for sizes in [[0, 1, 1], [1, 0, 1], [2, 2, 2], [usize::MAX, 2, 2]] {
            assert!(reduce(Isa::Scalar, Reduce::Sum, sizes, &[0.0; 4], &mut [0.0; 4], &pool).is_err(), "{sizes:?}");
        }
    }
}

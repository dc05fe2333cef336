//! Functions of two values, with the broadcasts that networks use.

use std::ops::Range;

use super::BLOCK;
use crate::float::Clamp;
use crate::float::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{Isa, KernelError, Pool, expect_len};

/// A function of two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// The smaller; NaN if either is.
    Min,
    /// The larger; NaN if either is.
    Max,
    /// `a < 0 ? a * b : a`: ReLU with learned slopes `b`.
    Prelu,
    /// `a > 0 ? b : 0`: what ReLU, which gave `a`, lets through of a gradient `b`.
    Gate,
}

/// One side of a function of two values, and how it is spread over the output.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'a> {
    /// A value for each result.
    Full(&'a [f32]),
    /// What the output holds before: in place.
    Output,
    /// One value for all.
    Scalar(f32),
    /// One value for each position along the last axis, such as a channel.
    Row(&'a [f32]),
    /// One value for each run of so many results, such as a pixel.
    Column(&'a [f32], usize),
}

/// `y = clamp(op(a, b))`. Allocates nothing.
///
/// # Errors
/// [`KernelError`] when an operand does not fit the length of `y`, or rows and columns do not fit each other.
pub fn binary(
    isa: Isa,
    op: Binary,
    a: Operand<'_>,
    b: Operand<'_>,
    clamp: Clamp,
    y: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    let len = y.len();
    // Results that are computed in one go: a row, if there are rows.
    let mut inner = None;
    for operand in [a, b] {
        let width = match operand {
            Operand::Full(values) => {
                expect_len("operand", values.len(), len)?;
                continue;
            }
            Operand::Output | Operand::Scalar(_) => continue,
            Operand::Row(values) => values.len(),
            Operand::Column(_, width) => width,
        };
        if width == 0 || !len.is_multiple_of(width) || inner.is_some_and(|inner| inner != width) {
            return Err(KernelError::Geometry(format!("rows of {width} do not divide {len} results")));
        }
        if let Operand::Column(values, _) = operand {
            expect_len("operand", values.len(), len / width)?;
        }
        inner = Some(width);
    }
    let inner = inner.unwrap_or(BLOCK);
    let rows = len.div_ceil(inner);
    let step = if pool.threads() == 1 { rows.max(1) } else { BLOCK.div_ceil(inner) };
    let y = SharedMut::new(y);
    pool.run(rows.div_ceil(step), &|chunk| {
        let rows = chunk * step..rows.min((chunk + 1) * step);
        // SAFETY: chunks are distinct ranges of rows.
        let y = unsafe { y.slice(rows.start * inner..len.min(rows.end * inner)) };
        dispatch(isa, Zip { op, a, b, clamp, inner, rows, y });
    });
    Ok(())
}

struct Zip<'a> {
    op: Binary,
    a: Operand<'a>,
    b: Operand<'a>,
    clamp: Clamp,
    inner: usize,
    rows: Range<usize>,
    /// The results of `rows`.
    y: &'a mut [f32],
}

/// An operand within one row of results.
#[derive(Clone, Copy)]
enum Source {
    Values(*const f32),
    One(f32),
}

impl Operand<'_> {
    /// The operand of the row of results at `row`, the `index`-th of all.
    #[inline(always)]
    fn source(&self, index: usize, inner: usize, row: *const f32) -> Source {
        match self {
            Operand::Full(values) => Source::Values(values[index * inner..].as_ptr()),
            Operand::Output => Source::Values(row),
            Operand::Scalar(value) => Source::One(*value),
            Operand::Row(values) => Source::Values(values.as_ptr()),
            Operand::Column(values, _) => Source::One(values[index]),
        }
    }
}

impl Kernel for Zip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Zip { op, a, b, clamp, inner, rows, y } = self;
        let (lo, hi) = (s.splat(clamp.lo), s.splat(clamp.hi));
        let zero = s.splat(0.0);
        // A loop of its own for every function.
        macro_rules! each {
            (|$a:ident, $b:ident| $value:expr) => {
                for (index, y) in rows.zip(y.chunks_mut(inner)) {
                    let (left, right) = (a.source(index, inner, y.as_ptr()), b.source(index, inner, y.as_ptr()));
                    zip(
                        s,
                        left,
                        right,
                        y,
                        #[inline(always)]
                        |$a, $b| s.clamp($value, lo, hi),
                    );
                }
            };
        }
        match op {
            Binary::Add => each!(|a, b| s.add(a, b)),
            Binary::Sub => each!(|a, b| s.sub(a, b)),
            Binary::Mul => each!(|a, b| s.mul(a, b)),
            Binary::Div => each!(|a, b| s.div(a, b)),
            Binary::Min => each!(|a, b| keep_nan(s, a, s.min(a, b))),
            Binary::Max => each!(|a, b| keep_nan(s, a, s.max(a, b))),
            Binary::Prelu => each!(|a, b| s.select_lt(a, zero, s.mul(a, b), a)),
            Binary::Gate => each!(|a, b| s.select_lt(zero, a, b, zero)),
        }
    }
}

/// `value`, or `a` where that is NaN. (A NaN in the second operand comes through `min` and `max` by itself.)
#[inline(always)]
fn keep_nan<S: Simd>(s: S, a: S::V, value: S::V) -> S::V {
    // Only NaN is neither below infinity nor at most it; infinity itself is caught by the second comparison.
    let finite = s.select_lt(a, s.splat(f32::INFINITY), value, a);
    s.select_lt(s.splat(f32::MAX), a, value, finite)
}

/// `f` of all pairs. One loop with one copy of `f`, whatever the operands are: one value is read from a vector of it, again and again.
#[inline(always)]
fn zip<S: Simd>(s: S, a: Source, b: Source, y: &mut [f32], f: impl Fn(S::V, S::V) -> S::V) {
    let mut vectors = [[0.0f32; MOST_LANES]; 2];
    let [one, other] = &mut vectors;
    let ((a, a_step), (b, b_step)) = (place(s, a, one), place(s, b, other));
    let to = y.as_mut_ptr();
    for i in (0..y.len()).step_by(S::LANES) {
        let count = S::LANES.min(y.len() - i);
        // SAFETY: every operand has a value for each result of the row (checked in `binary`), or a vector that is read whole.
        unsafe {
            let (a, b) = (a.add(i * a_step), b.add(i * b_step));
            if count == S::LANES {
                s.store_ptr(to.add(i), f(s.load_ptr(a), s.load_ptr(b)));
            } else {
                s.store_first(to.add(i), count, f(s.load_first(a, count), s.load_first(b, count)));
            }
        }
    }
}

/// Where an operand is read, and how far the next vector of it lies: one value fills `vector`.
#[inline(always)]
fn place<S: Simd>(s: S, source: Source, vector: &mut [f32; MOST_LANES]) -> (*const f32, usize) {
    match source {
        Source::Values(values) => (values, 1),
        Source::One(value) => {
            s.store(vector, s.splat(value));
            (vector.as_ptr(), 0)
        }
    }
}

/// Floats of the widest vectors.
const MOST_LANES: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::testing::noise;

    const OPS: [Binary; 8] =
        [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Min, Binary::Max, Binary::Prelu, Binary::Gate];

    fn exact(op: Binary, a: f32, b: f32) -> f32 {
        match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Min => a.min(b),
            Binary::Max => a.max(b),
            Binary::Prelu => {
                if a < 0.0 {
                    a * b
                } else {
                    a
                }
            }
            Binary::Gate => {
                if a > 0.0 {
                    b
                } else {
                    0.0
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// One operation on two floats has one right answer, so this is equality.
        #[test]
        fn every_broadcast_is_exact(rows in 1..=9usize, inner in 1..=700usize, left in 0..5usize, right in 0..5usize, relu: bool) {
            let len = rows * inner;
            let clamp = if relu { Clamp::RELU } else { Clamp::NONE };
            let full = [noise(1, len), noise(2, len)];
            let before = noise(3, len);
            let operand = |kind: usize, side: usize| match kind {
                0 => Operand::Full(&full[side]),
                1 => Operand::Output,
                2 => Operand::Scalar(full[side][0]),
                3 => Operand::Row(&full[side][..inner]),
                _ => Operand::Column(&full[side][..rows], inner),
            };
            let value = |kind: usize, side: usize, i: usize| match kind {
                0 => full[side][i],
                1 => before[i],
                2 => full[side][0],
                3 => full[side][i % inner],
                _ => full[side][i / inner],
            };
            for op in OPS {
                let expected: Vec<f32> =
                    (0..len).map(|i| clamp.apply(exact(op, value(left, 0, i), value(right, 1, i)))).collect();
                for isa in Isa::available() {
                    for threads in 1..=3 {
                        let mut y = before.clone();
                        binary(isa, op, operand(left, 0), operand(right, 1), clamp, &mut y, &Pool::kept(threads)).unwrap();
                        prop_assert_eq!(&y, &expected, "{} {:?}", isa.name(), op);
                    }
                }
            }
        }
    }

    #[test]
    fn extrema_keep_nan() {
        let special = [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY];
        for isa in Isa::available() {
            for (op, a, b) in [Binary::Min, Binary::Max]
                .into_iter()
                .flat_map(|op| special.into_iter().flat_map(move |a| special.map(|b| (op, a, b))))
            {
                let mut y = [0.0];
                binary(isa, op, Operand::Full(&[a]), Operand::Scalar(b), Clamp::NONE, &mut y, &Pool::new(1)).unwrap();
                let expected = if a.is_nan() || b.is_nan() { f32::NAN } else { exact(op, a, b) };
                assert!(
                    y[0] == expected || y[0].is_nan() && expected.is_nan(),
                    "{} {op:?} {a} {b}: {}",
                    isa.name(),
                    y[0]
                );
            }
        }
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let pool = Pool::new(1);
        let mut y = [0.0; 6];
        let cases = [
            (Operand::Full(&[1.0][..]), Operand::Output),
            (Operand::Row(&[1.0; 4]), Operand::Output),
            (Operand::Row(&[]), Operand::Output),
            (Operand::Column(&[1.0; 2], 2), Operand::Output),
            (Operand::Column(&[1.0; 2], 3), Operand::Row(&[1.0; 2])),
        ];
        for (a, b) in cases {
            assert!(binary(Isa::Scalar, Binary::Add, a, b, Clamp::NONE, &mut y, &pool).is_err(), "{a:?} {b:?}");
        }
    }
}

//! Images brought to another size, channels last. Which input pixels an output pixel reads is worked out before, once for each row
//! and each column.

use super::simd::{Kernel, Simd, dispatch};
use crate::{Isa, KernelError, Pool, expect_len};

/// A mixture of two input rows, or columns: `(1 - weight) · low + weight · high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// The one.
    pub low: usize,
    /// The other.
    pub high: usize,
    /// Share of the other, 0 to 1.
    pub weight: f32,
}

/// Copies pixels: `y[.., i, j, ..] = x[.., rows[i], cols[j], ..]`, from `[batch, h, w, c]` to `[batch, rows, cols, c]`.
///
/// # Errors
/// [`KernelError`] when a slice has another length than the sizes say or an index leaves the image.
pub fn nearest<T: Copy + Send + Sync>(
    [batch, h, w, c]: [usize; 4],
    rows: &[usize],
    cols: &[usize],
    x: &[T],
    y: &mut [T],
    pool: &Pool,
) -> Result<(), KernelError> {
    check([batch, h, w, c], [rows.len(), cols.len()], x.len(), y.len())?;
    inside("row", rows.iter(), h)?;
    inside("column", cols.iter(), w)?;
    let width = cols.len() * c;
    // Enlarged by a whole factor: rows come in runs that are all alike.
    let repeat = rows.iter().take_while(|row| **row == rows[0]).count().max(1);
    let runs = rows.chunks_exact(repeat).all(|run| run.iter().all(|row| *row == run[0]));
    let repeat = if runs && rows.len().is_multiple_of(repeat) { repeat } else { 1 };
    pool.for_each_chunk_mut(y, (repeat * width).max(1), |run, y| {
        let line = run * repeat;
        let (image, row) = (line / rows.len(), rows[line % rows.len()]);
        let from = &x[(image * h + row) * w * c..][..w * c];
        let (first, rest) = y.split_at_mut(width);
        match c {
            1 => pixels::<T, 1>(from, cols, first),
            2 => pixels::<T, 2>(from, cols, first),
            3 => pixels::<T, 3>(from, cols, first),
            4 => pixels::<T, 4>(from, cols, first),
            _ => {
                for (pixel, col) in first.chunks_exact_mut(c).zip(cols) {
                    pixel.copy_from_slice(&from[col * c..][..c]);
                }
            }
        }
        for again in rest.chunks_exact_mut(width) {
            again.copy_from_slice(first);
        }
    });
    Ok(())
}

/// Pixels of `C` values, chosen by column.
fn pixels<T: Copy, const C: usize>(from: &[T], cols: &[usize], to: &mut [T]) {
    for (pixel, col) in to.chunks_exact_mut(C).zip(cols) {
        let from: &[T; C] = from[col * C..][..C].try_into().expect("a whole pixel");
        pixel.copy_from_slice(from);
    }
}

/// Mixes each output pixel from up to four input pixels, from `[batch, h, w, c]` to `[batch, rows, cols, c]`: bilinear
/// interpolation.
///
/// # Errors
/// [`KernelError`] when a slice has another length than the sizes say or an index leaves the image.
pub fn bilinear(
    isa: Isa,
    [batch, h, w, c]: [usize; 4],
    rows: &[Blend],
    cols: &[Blend],
    x: &[f32],
    y: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    check([batch, h, w, c], [rows.len(), cols.len()], x.len(), y.len())?;
    inside("row", rows.iter().flat_map(|row| [&row.low, &row.high]), h)?;
    inside("column", cols.iter().flat_map(|col| [&col.low, &col.high]), w)?;
    pool.for_each_chunk_mut(y, (cols.len() * c).max(1), |line, y| {
        let (image, row) = (line / rows.len(), rows[line % rows.len()]);
        let [low, high] = [row.low, row.high].map(|row| &x[(image * h + row) * w * c..][..w * c]);
        dispatch(isa, Line { low, high, weight: row.weight, cols, c, y });
    });
    Ok(())
}

struct Line<'a> {
    low: &'a [f32],
    high: &'a [f32],
    weight: f32,
    cols: &'a [Blend],
    c: usize,
    y: &'a mut [f32],
}

impl Kernel for Line<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let down = s.splat(self.weight);
        for (pixel, col) in self.y.chunks_exact_mut(self.c).zip(self.cols) {
            let right = s.splat(col.weight);
            for (block, out) in pixel.chunks_mut(S::LANES).enumerate() {
                let at = block * S::LANES;
                let low = between(s, &self.low[at..], col, self.c, out.len(), right);
                let high = between(s, &self.high[at..], col, self.c, out.len(), right);
                let value = mix(s, low, high, down);
                s.store_tail(out, value);
            }
        }
    }
}

/// Mixes `count` channels of two pixels of a line.
#[inline(always)]
fn between<S: Simd>(s: S, line: &[f32], col: &Blend, c: usize, count: usize, weight: S::V) -> S::V {
    let (low, high) = (&line[col.low * c..][..count], &line[col.high * c..][..count]);
    mix(s, s.load_tail(low), s.load_tail(high), weight)
}

/// `a + (b - a) * weight`
#[inline(always)]
fn mix<S: Simd>(s: S, a: S::V, b: S::V, weight: S::V) -> S::V {
    s.fma(s.sub(b, a), weight, a)
}

fn check([batch, h, w, c]: [usize; 4], [rows, cols]: [usize; 2], x: usize, y: usize) -> Result<(), KernelError> {
    let product =
        |sizes: [usize; 4]| sizes.iter().try_fold(1usize, |all, size| all.checked_mul(*size)).unwrap_or(usize::MAX);
    expect_len("input", x, product([batch, h, w, c]))?;
    expect_len("output", y, product([batch, rows, cols, c]))
}

fn inside<'a>(what: &str, mut indices: impl Iterator<Item = &'a usize>, size: usize) -> Result<(), KernelError> {
    match indices.find(|index| **index >= size) {
        Some(index) => Err(KernelError::Geometry(format!("{what} {index} of an image with {size}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::testing::noise;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn pixels_come_from_where_they_should(
            batch in 1..=2usize, h in 1..=6usize, w in 1..=6usize, c in 1..=37usize,
            rows in prop::collection::vec((0..100usize, 0..100usize, 0..=4u8), 1..9),
            cols in prop::collection::vec((0..100usize, 0..100usize, 0..=4u8), 1..9),
        ) {
            let blends = |list: &[(usize, usize, u8)], size: usize| -> Vec<Blend> {
                list.iter().map(|(a, b, t)| Blend { low: a % size, high: b % size, weight: f32::from(*t) / 4.0 }).collect()
            };
            let (rows, cols) = (blends(&rows, h), blends(&cols, w));
            let x = noise(1, batch * h * w * c);
            let at = |n: usize, i: usize, j: usize, k: usize| x[((n * h + i) * w + j) * c + k];
            let place = |i: usize| (i / c / cols.len() / rows.len(), i / c / cols.len() % rows.len(), i / c % cols.len(), i % c);
            let len = batch * rows.len() * cols.len() * c;
            for threads in 1..=3 {
                let pool = Pool::kept(threads);
                for isa in Isa::available() {
                    let mut y = vec![f32::NAN; len];
                    bilinear(isa, [batch, h, w, c], &rows, &cols, &x, &mut y, &pool).unwrap();
                    for (i, y) in y.iter().enumerate() {
                        let (n, row, col, k) = place(i);
                        let (row, col) = (rows[row], cols[col]);
                        let line = |r: usize| at(n, r, col.low, k) * (1.0 - col.weight) + at(n, r, col.high, k) * col.weight;
                        let expected = line(row.low) * (1.0 - row.weight) + line(row.high) * row.weight;
                        prop_assert!((y - expected).abs() < 1e-6, "{} {} {}", isa.name(), y, expected);
                    }
                }
                let mut y = vec![f32::NAN; len];
                let (low_rows, high_cols): (Vec<_>, Vec<_>) = (rows.iter().map(|r| r.low).collect(), cols.iter().map(|c| c.high).collect());
                nearest([batch, h, w, c], &low_rows, &high_cols, &x, &mut y, &pool).unwrap();
                for (i, y) in y.iter().enumerate() {
                    let (n, row, col, k) = place(i);
                    prop_assert_eq!(*y, at(n, low_rows[row], high_cols[col], k));
                }
            }
        }
    }

    #[test]
    fn indices_outside_the_image_are_refused() {
        let pool = Pool::new(1);
        assert!(nearest([1, 2, 2, 1], &[2], &[0], &[0u8; 4], &mut [0], &pool).is_err());
        assert!(nearest([1, 2, 2, 1], &[1], &[0], &[0u8; 3], &mut [0], &pool).is_err());
        let blend = |high| [Blend { low: 0, high, weight: 0.5 }];
        assert!(bilinear(Isa::Scalar, [1, 2, 2, 1], &blend(1), &blend(2), &[0.0; 4], &mut [0.0], &pool).is_err());
        assert!(bilinear(Isa::Scalar, [1, 2, 2, 1], &blend(1), &blend(1), &[0.0; 4], &mut [0.0; 2], &pool).is_err());
    }
}

//! The microkernel: a few rows by one panel of results, kept in registers over the whole reduction.

use super::{MAX_ROWS, PADDING};
use crate::float::Clamp;
use crate::float::simd::{Kernel, Simd};

/// One block of results and what it is made of. See [`super::Product`] for the fields.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) left: *const f32,
    /// For each tap, for each row of this tile.
    pub(super) offsets: *const u32,
    pub(super) zeros: *const f32,
    pub(super) taps: usize,
    pub(super) depth: usize,
    pub(super) right: *const f32,
    /// What is wanted in the cache next, so many values further at each step of the reduction. Need not be readable.
    pub(super) ahead: *const f32,
    pub(super) ahead_step: usize,
    /// Null for none.
    pub(super) bias: *const f32,
    pub(super) out: *mut f32,
    /// Null for none.
    pub(super) residual: *const f32,
    pub(super) stride: usize,
    pub(super) cols: usize,
    pub(super) clamp: Clamp,
    /// Whether a row that is alone is summed like rows of other tiles, in the order of the reduction.
    pub(super) in_order: bool,
}

impl Tile {
    /// Computes `rows` rows, at most [`Simd::ROWS`].
    ///
    /// # Safety
    /// All that the fields point to must be there: `taps * rows` offsets, `depth` values at each of them, as many steps of the
    /// panel as `taps * depth`, and `rows` × `cols` results.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(&self, simd: S, rows: usize) {
        if self.cols > S::LANES {
            self.run_rows::<S, 2>(simd, rows);
        } else {
            self.run_rows::<S, 1>(simd, rows);
        }
    }

    #[inline(always)]
    fn run_rows<S: Simd, const NV: usize>(&self, simd: S, rows: usize) {
        const { assert!(S::ROWS <= MAX_ROWS) };
        // A tile of its own function, because one function with all of them would fight over registers.
        macro_rules! with {
            ($($n:literal)*) => {
                match rows {
                    1 if self.in_order => simd.vectorize(Block::<1, NV>(self)),
                    1 => simd.vectorize(Single::<NV>(self)),
                    $($n if $n <= S::ROWS => simd.vectorize(Block::<$n, NV>(self)),)*
                    _ => unreachable!("a tile of {rows} rows"),
                }
            };
        }
        with!(2 3 4 5 6 7 8 9 10 11 12 13 14);
    }

    /// Where row `row` of tap `tap` starts, in a tile of `rows` rows.
    ///
    /// # Safety
    /// As for [`Tile::run`].
    #[inline(always)]
    unsafe fn row(&self, rows: usize, tap: usize, row: usize) -> *const f32 {
        // SAFETY: the offset is in the table and leads into the left operand.
        unsafe {
            match *self.offsets.add(tap * rows + row) {
                PADDING => self.zeros,
                offset => self.left.add(offset as usize),
            }
        }
    }

    /// The `i`-th vector of the bias.
    #[inline(always)]
    unsafe fn bias<S: Simd>(&self, simd: S, i: usize) -> S::V {
        if self.bias.is_null() {
            simd.splat(0.0)
        } else {
            // SAFETY: the bias is padded to whole vectors.
            unsafe { simd.load_ptr(self.bias.add(i * S::LANES)) }
        }
    }

    /// Asks for the lines of the results, and of what is added to them, before they are needed: long sums leave time enough to fetch them.
    #[inline(always)]
    fn prefetch_results<S: Simd, const MR: usize, const NV: usize>(&self, simd: S) {
        if self.taps * self.depth < LONG_SUM {
            return;
        }
        for (i, j) in (0..MR).flat_map(|i| (0..NV).map(move |j| (i, j))) {
            let at = i * self.stride + j * S::LANES;
            simd.prefetch(self.out.wrapping_add(at));
            if !self.residual.is_null() {
                simd.prefetch(self.residual.wrapping_add(at));
            }
        }
    }

    /// Adds the residual, clamps and stores.
    ///
    /// # Safety
    /// As for [`Tile::run`], of `MR` rows.
    #[inline(always)]
    unsafe fn finish<S: Simd, const MR: usize, const NV: usize>(&self, simd: S, values: [[S::V; NV]; MR]) {
        let (lo, hi) = (simd.splat(self.clamp.lo), simd.splat(self.clamp.hi));
        // SAFETY: the rows, and the columns that are not left out, are part of the tile.
        unsafe {
            // What a tile is like is asked once, not for every vector.
            if self.cols == NV * S::LANES {
                let mut out = self.out;
                if self.residual.is_null() {
                    for row in values {
                        for (j, value) in row.into_iter().enumerate() {
                            simd.store_ptr(out.add(j * S::LANES), simd.clamp(value, lo, hi));
                        }
                        out = out.wrapping_add(self.stride);
                    }
                } else {
                    let mut residual = self.residual;
                    for row in values {
                        for (j, value) in row.into_iter().enumerate() {
                            let value = simd.add(value, simd.load_ptr(residual.add(j * S::LANES)));
                            simd.store_ptr(out.add(j * S::LANES), simd.clamp(value, lo, hi));
                        }
                        out = out.wrapping_add(self.stride);
                        residual = residual.wrapping_add(self.stride);
                    }
                }
                return;
            }
            for (i, row) in values.into_iter().enumerate() {
                for (j, mut value) in row.into_iter().enumerate() {
                    let at = i * self.stride + j * S::LANES;
                    let cols = (self.cols - j * S::LANES).min(S::LANES);
                    if !self.residual.is_null() {
                        value = simd.add(value, simd.load_first(self.residual.add(at), cols));
                    }
                    simd.store_first(self.out.add(at), cols, simd.clamp(value, lo, hi));
                }
            }
        }
    }
}

/// The shortest sum during which results are fetched.
const LONG_SUM: usize = 32;

/// `MR` rows by `NV` vectors.
struct Block<'a, const MR: usize, const NV: usize>(&'a Tile);

impl<const MR: usize, const NV: usize> Kernel for Block<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let tile = self.0;
        tile.prefetch_results::<S, MR, NV>(simd);
        // SAFETY: a `Block` is made by `Tile::run` only, under its contract.
        unsafe {
            let mut acc = [[simd.splat(0.0); NV]; MR];
            for j in 0..NV {
                let bias = tile.bias(simd, j);
                for row in &mut acc {
                    row[j] = bias;
                }
            }
            let (mut right, mut ahead) = (tile.right, tile.ahead);
            for tap in 0..tile.taps {
                let mut rows = [tile.left; MR];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = tile.row(MR, tap, i);
                }
                for k in 0..tile.depth {
                    let mut b = [simd.splat(0.0); NV];
                    for (j, b) in b.iter_mut().enumerate() {
                        *b = simd.load_ptr(right.add(j * S::LANES));
                    }
                    right = right.add(NV * S::LANES);
                    simd.prefetch(ahead);
                    ahead = ahead.wrapping_add(tile.ahead_step);
                    for i in 0..MR {
                        let a = simd.splat(*rows[i].add(k));
                        for j in 0..NV {
                            acc[i][j] = simd.fma(a, b[j], acc[i][j]);
                        }
                    }
                }
            }
            tile.finish(simd, acc);
        }
    }
}

/// One row: four steps at a time into sums of their own, so that additions do not wait for each other.
struct Single<'a, const NV: usize>(&'a Tile);

impl<const NV: usize> Kernel for Single<'_, NV> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        const STEPS: usize = 4;
        let tile = self.0;
        // SAFETY: a `Single` is made by `Tile::run` only, under its contract.
        unsafe {
            let mut acc = [[simd.splat(0.0); NV]; STEPS];
            for (j, sum) in acc[0].iter_mut().enumerate() {
                *sum = tile.bias(simd, j);
            }
            let mut right = tile.right;
            for tap in 0..tile.taps {
                let row = tile.row(1, tap, 0);
                let whole = tile.depth / STEPS * STEPS;
                let mut k = 0;
                while k < whole {
                    for step in 0..STEPS {
                        let a = simd.splat(*row.add(k + step));
                        for j in 0..NV {
                            let b = simd.load_ptr(right.add((step * NV + j) * S::LANES));
                            acc[step][j] = simd.fma(a, b, acc[step][j]);
                        }
                    }
                    right = right.add(STEPS * NV * S::LANES);
                    k += STEPS;
                }
                while k < tile.depth {
                    let a = simd.splat(*row.add(k));
                    for j in 0..NV {
                        let b = simd.load_ptr(right.add(j * S::LANES));
                        acc[0][j] = simd.fma(a, b, acc[0][j]);
                    }
                    right = right.add(NV * S::LANES);
                    k += 1;
                }
            }
            let mut sum = acc[0];
            for j in 0..NV {
                sum[j] = simd.add(simd.add(acc[0][j], acc[1][j]), simd.add(acc[2][j], acc[3][j]));
            }
            tile.finish(simd, [sum]);
        }
    }
}

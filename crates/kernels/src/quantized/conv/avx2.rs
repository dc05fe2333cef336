//! The matrix kernel with AVX2: 6 rows by 16 columns of sums, products of 16-bit numbers.
//!
//! The instruction that multiplies bytes (`vpmaddubsw`) adds pairs of products with saturation and so is not exact;
//! here bytes are widened first. Of four neighbouring input bytes, the even and the odd ones are taken apart by a
//! mask and a shift, and the weights are stored in the same order.

use std::arch::x86_64::*;

use super::panels::{Block, Target};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx2::Clamp;

const ROWS: usize = 6;

/// Computes a block.
///
/// # Safety
/// The machine has AVX2; the block's slices hold what its sizes say; `y` may be written at the block's columns of
/// each of its rows, `y_stride` apart.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn block(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    let tiles = b.rows.div_ceil(ROWS);
    let mut column = b.from;
    while column < b.to {
        let wide = b.bias.len() - column >= 16;
        let mut row = 0;
        for tile in 0..tiles {
            let rows = (b.rows - row).div_ceil(tiles - tile);
            // SAFETY: `row` and `column` lie inside the block.
            unsafe {
                let call = Tile::at(b, row, column, y, y_stride);
                match (wide, rows) {
                    (true, 6) => call.run::<6, 2>(),
                    (true, 5) => call.run::<5, 2>(),
                    (true, 4) => call.run::<4, 2>(),
                    (true, 3) => call.run::<3, 2>(),
                    (true, 2) => call.run::<2, 2>(),
                    (true, _) => call.run::<1, 2>(),
                    (false, 6) => call.run::<6, 1>(),
                    (false, 5) => call.run::<5, 1>(),
                    (false, 4) => call.run::<4, 1>(),
                    (false, 3) => call.run::<3, 1>(),
                    (false, 2) => call.run::<2, 1>(),
                    (false, _) => call.run::<1, 1>(),
                }
            }
            row += rows;
        }
        column += if wide { 16 } else { 8 };
    }
}

/// A tile of the block: addresses of its first row and column.
struct Tile<'a> {
    a: *const u8,
    stride: usize,
    steps: usize,
    weights: *const i8,
    bias: *const i32,
    scale: *const f32,
    /// Columns from here to the end of the block.
    columns: usize,
    y: Target<'a>,
    y_stride: usize,
}

impl<'a> Tile<'a> {
    /// # Safety
    /// `row` and `column` lie inside the block.
    #[inline(always)]
    unsafe fn at(b: &Block<'_>, row: usize, column: usize, y: Target<'a>, y_stride: usize) -> Self {
        let offset = row * y_stride + (column - b.from);
        // SAFETY: inside the block's slices by the caller's promise; a weight takes two bytes.
        unsafe {
            Tile {
                a: b.a.as_ptr().add(row * b.stride),
                stride: b.stride,
                steps: b.steps,
                weights: b.weights.as_ptr().add(column * 8 * b.steps),
                bias: b.bias.as_ptr().add(column),
                scale: b.scale.as_ptr().add(column),
                columns: b.to - column,
                y: match y {
                    Target::U8(y, to) => Target::U8(y.add(offset), to),
                    Target::F32(y) => Target::F32(y.add(offset)),
                },
                y_stride,
            }
        }
    }

    /// # Safety
    /// `M` rows and `N` vectors of columns are inside the block, and the machine has the instructions.
    #[target_feature(enable = "avx2")]
    unsafe fn run<const M: usize, const N: usize>(&self) {
        // SAFETY: all addresses are of `M` rows and `N` vectors of the block, by the caller's promise.
        unsafe {
            let sums = self.sums::<M, N>();
            match self.y {
                Target::U8(y, to) => self.store_u8(&sums, y, to),
                Target::F32(y) => self.store_f32(&sums, y),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sums<const M: usize, const N: usize>(&self) -> [[__m256i; N]; M] {
        // SAFETY: see `run`.
        unsafe {
            let even_bytes = _mm256_set1_epi16(0xff);
            let mut sums = [[_mm256_setzero_si256(); N]; M];
            for n in 0..N {
                let bias = _mm256_loadu_si256(self.bias.add(8 * n).cast());
                for m in 0..M {
                    sums[m][n] = bias;
                }
            }
            let (mut a, mut weights) = (self.a, self.weights);
            for _ in 0..self.steps {
                for m in 0..M {
                    let x = a.add(m * self.stride).cast::<i32>().read_unaligned();
                    let x = _mm256_set1_epi32(x);
                    let (even, odd) = (_mm256_and_si256(x, even_bytes), _mm256_srli_epi16::<8>(x));
                    for n in 0..N {
                        let w = _mm256_loadu_si256(weights.add(32 * n).cast());
                        sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_madd_epi16(even, w));
                        let w = _mm256_loadu_si256(weights.add(32 * (N + n)).cast());
                        sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_madd_epi16(odd, w));
                    }
                }
                a = a.add(4);
                weights = weights.add(64 * N);
            }
            sums
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store_u8<const M: usize, const N: usize>(&self, sums: &[[__m256i; N]; M], y: *mut u8, to: &Requantize) {
        // SAFETY: see `run`; only columns of the block are written.
        unsafe {
            let clamp = Clamp::new(to);
            let count = self.columns.min(8 * N);
            for m in 0..M {
                let mut values = [_mm256_setzero_si256(); 4];
                for n in 0..N {
                    let scale = _mm256_loadu_ps(self.scale.add(8 * n));
                    values[n] = clamp.round(sums[m][n], scale);
                }
                let bytes = _mm256_castsi256_si128(clamp.narrow(values));
                let row = y.add(m * self.y_stride);
                if count == 16 {
                    _mm_storeu_si128(row.cast(), bytes);
                } else if N == 1 && count == 8 {
                    _mm_storel_epi64(row.cast(), bytes);
                } else {
                    let mut whole = [0u8; 16];
                    _mm_storeu_si128(whole.as_mut_ptr().cast(), bytes);
                    std::ptr::copy_nonoverlapping(whole.as_ptr(), row, count);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store_f32<const M: usize, const N: usize>(&self, sums: &[[__m256i; N]; M], y: *mut f32) {
        // SAFETY: see `run`; masked stores write only columns of the block.
        unsafe {
            for n in 0..N {
                let scale = _mm256_loadu_ps(self.scale.add(8 * n));
                let left = self.columns.saturating_sub(8 * n).min(8) as i32;
                let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), numbers);
                for m in 0..M {
                    let value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[m][n]), scale);
                    _mm256_maskstore_ps(y.wrapping_add(m * self.y_stride + 8 * n), mask, value);
                }
            }
        }
    }
}

//! The matrix kernel with VNNI: 14 rows by 32 columns of sums in registers, four products per lane and step.

use std::arch::x86_64::*;

use super::panels::{Block, Target};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx512::Clamp;

/// Rows of sums held in registers; with two vectors of columns they take 28 of the 32 registers.
const ROWS: usize = 14;

/// Computes a block.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI; the block's slices hold what its sizes say; `y` may be written
/// at the block's columns of each of its rows, `y_stride` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn block(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    let tiles = b.rows.div_ceil(ROWS);
    let mut column = b.from;
    while column < b.to {
        let wide = b.bias.len() - column >= 32;
        let mut row = 0;
        for tile in 0..tiles {
            // Tiles of nearly equal height: a last tile of one row would leave the multipliers waiting.
            let rows = (b.rows - row).div_ceil(tiles - tile);
            // SAFETY: `row` and `column` lie inside the block.
            unsafe {
                let call = Tile::at(b, row, column, y, y_stride);
                match (wide, rows) {
                    (true, 14) => call.run::<14, 2>(),
                    (true, 13) => call.run::<13, 2>(),
                    (true, 12) => call.run::<12, 2>(),
                    (true, 11) => call.run::<11, 2>(),
                    (true, 10) => call.run::<10, 2>(),
                    (true, 9) => call.run::<9, 2>(),
                    (true, 8) => call.run::<8, 2>(),
                    (true, 7) => call.run::<7, 2>(),
                    (true, 6) => call.run::<6, 2>(),
                    (true, 5) => call.run::<5, 2>(),
                    (true, 4) => call.run::<4, 2>(),
                    (true, 3) => call.run::<3, 2>(),
                    (true, 2) => call.run::<2, 2>(),
                    (true, _) => call.run::<1, 2>(),
                    (false, 14) => call.run::<14, 1>(),
                    (false, 13) => call.run::<13, 1>(),
                    (false, 12) => call.run::<12, 1>(),
                    (false, 11) => call.run::<11, 1>(),
                    (false, 10) => call.run::<10, 1>(),
                    (false, 9) => call.run::<9, 1>(),
                    (false, 8) => call.run::<8, 1>(),
                    (false, 7) => call.run::<7, 1>(),
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
        column += if wide { 32 } else { 16 };
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
        // SAFETY: inside the block's slices by the caller's promise.
        unsafe {
            Tile {
                a: b.a.as_ptr().add(row * b.stride),
                stride: b.stride,
                steps: b.steps,
                weights: b.weights.as_ptr().add(column * 4 * b.steps),
                bias: b.bias.as_ptr().add(column),
                scale: b.scale.as_ptr().add(column),
                columns: b.to - column,
                y: y.add(offset),
                y_stride,
            }
        }
    }

    /// # Safety
    /// `M` rows and `N` vectors of columns are inside the block, and the machine has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn sums<const M: usize, const N: usize>(&self) -> [[__m512i; N]; M] {
        // SAFETY: see `run`.
        unsafe {
            let mut sums = [[_mm512_setzero_si512(); N]; M];
            for n in 0..N {
                let bias = _mm512_loadu_si512(self.bias.add(16 * n).cast());
                for m in 0..M {
                    sums[m][n] = bias;
                }
            }
            let (mut a, mut weights) = (self.a, self.weights);
            for _ in 0..self.steps {
                let mut w = [_mm512_setzero_si512(); N];
                for n in 0..N {
                    w[n] = _mm512_loadu_si512(weights.add(64 * n).cast());
                }
                for m in 0..M {
                    let x = _mm512_set1_epi32(a.add(m * self.stride).cast::<i32>().read_unaligned());
                    for n in 0..N {
                        sums[m][n] = _mm512_dpbusd_epi32(sums[m][n], x, w[n]);
                    }
                }
                a = a.add(4);
                weights = weights.add(64 * N);
            }
            sums
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn store_u8<const M: usize, const N: usize>(&self, sums: &[[__m512i; N]; M], y: *mut u8, to: &Requantize) {
        // SAFETY: see `run`; masked stores write only columns of the block.
        unsafe {
            let mut scale = [_mm512_setzero_ps(); N];
            for n in 0..N {
                scale[n] = _mm512_loadu_ps(self.scale.add(16 * n));
            }
            let clamp = Clamp::new(to);
            let full = self.columns >= 16 * N;
            let rows = 4 / N;
            for first in (0..M).step_by(rows) {
                let at = |i: usize| {
                    let m = (first + i / N).min(M - 1);
                    clamp.round(sums[m][i % N], scale[i % N])
                };
                let bytes = clamp.narrow([at(0), at(1), at(2), at(3)]);
                for i in 0..rows.min(M - first) {
                    let row = y.add((first + i) * self.y_stride);
                    if N == 2 {
                        let bytes =
                            if i == 0 { _mm512_castsi512_si256(bytes) } else { _mm512_extracti64x4_epi64::<1>(bytes) };
                        if full {
                            _mm256_storeu_si256(row.cast(), bytes);
                        } else {
                            let mask = (1u64 << self.columns) - 1;
                            _mm256_mask_storeu_epi8(row.cast(), mask as u32, bytes);
                        }
                    } else {
                        let bytes = match i {
                            0 => _mm512_castsi512_si128(bytes),
                            1 => _mm512_extracti32x4_epi32::<1>(bytes),
                            2 => _mm512_extracti32x4_epi32::<2>(bytes),
                            _ => _mm512_extracti32x4_epi32::<3>(bytes),
                        };
                        if full {
                            _mm_storeu_si128(row.cast(), bytes);
                        } else {
                            let mask = (1u32 << self.columns) - 1;
                            _mm_mask_storeu_epi8(row.cast(), mask as u16, bytes);
                        }
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn store_f32<const M: usize, const N: usize>(&self, sums: &[[__m512i; N]; M], y: *mut f32) {
        // SAFETY: see `run`; masked stores write only columns of the block.
        unsafe {
            for n in 0..N {
                let scale = _mm512_loadu_ps(self.scale.add(16 * n));
                let left = self.columns.saturating_sub(16 * n).min(16);
                let mask = ((1u32 << left) - 1) as u16;
                for m in 0..M {
                    let value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[m][n]), scale);
                    _mm512_mask_storeu_ps(y.add(m * self.y_stride + 16 * n), mask, value);
                }
            }
        }
    }
}

//! The matrix kernel with VNNI: up to 28 vectors of sums in registers, four products per lane and step. A tile is as wide as
//! a cache line of the output where there are that many channels, so that each line is written, and read for a residual, once.

use std::arch::x86_64::*;

use super::panels::{Block, Finish, Target};
use crate::cpu::has_vbmi;
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx512::{Clamp, Sum};
use crate::quantized::lookup::avx512::Table;

/// The most rows of a tile with so many vectors of columns: with the weights of a step and a value of the input, the sums
/// take at most the 32 registers.
const ROWS: [usize; 5] = [0, 14, 14, 9, 6];

/// Computes a block.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI; the block's slices hold what its sizes say; `y` may be written
/// at the block's columns of each of its rows, `y_stride` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn block(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    let mut column = b.from;
    while column < b.to {
        let vectors = ((b.bias.len() - column) / 16).clamp(1, 4);
        let tiles = b.rows.div_ceil(ROWS[vectors]);
        let mut row = 0;
        for tile in 0..tiles {
            // Tiles of nearly equal height: a last tile of one row would leave the multipliers waiting.
            let rows = (b.rows - row).div_ceil(tiles - tile);
            // SAFETY: `row` and `column` lie inside the block.
            unsafe {
                let call = Tile::at(b, row, column, y, y_stride);
                macro_rules! with {
                    ($($n:literal: $($m:literal)*;)*) => {
                        match (vectors, rows) {
                            $($(($n, $m) => call.run::<$m, $n>(),)*)*
                            _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                        }
                    };
                }
                with! {
                    4: 1 2 3 4 5 6;
                    3: 1 2 3 4 5 6 7 8 9;
                    2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
                    1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
                }
            }
            row += rows;
        }
        column += 16 * vectors;
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
            let Target::U8(y, Finish { to, residual }) = self.y else {
                if let Target::F32(y) = self.y {
                    self.store_f32(&sums, y);
                }
                return;
            };
            match (to.table.as_deref().filter(|_| has_vbmi()), residual) {
                (None, None) => self.store_u8(&sums, y, to, |bytes, _| bytes),
                (None, Some((values, add))) => {
                    let sum = Sum::new(add);
                    self.store_u8(&sums, y, to, |bytes, first| sum.apply(bytes, self.load::<M, N>(values, first)));
                }
                (Some(table), residual) => {
                    let table = Table::load(table);
                    let residual = residual.map(|(values, add)| (values, Sum::new(add)));
                    self.store_u8(&sums, y, to, |bytes, first| {
                        let bytes = table.find(bytes);
                        match &residual {
                            Some((values, sum)) => sum.apply(bytes, self.load::<M, N>(*values, first)),
                            None => bytes,
                        }
                    });
                }
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

    /// Stores the sums as bytes. `last` gets them as they lie in a register, from which row on, before they are stored.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn store_u8<const M: usize, const N: usize>(
        &self,
        sums: &[[__m512i; N]; M],
        y: *mut u8,
        to: &Requantize,
        last: impl Fn(__m512i, usize) -> __m512i,
    ) {
        // SAFETY: see `run`; masked stores write only columns of the block.
        unsafe {
            let mut scale = [_mm512_setzero_ps(); N];
            for n in 0..N {
                scale[n] = _mm512_loadu_ps(self.scale.add(16 * n));
            }
            let clamp = Clamp::new(to);
            for first in (0..M).step_by(4 / N) {
                let at = |i: usize| {
                    if i >= 4 / N * N {
                        return _mm512_setzero_si512();
                    }
                    let m = (first + i / N).min(M - 1);
                    clamp.round(sums[m][i % N], scale[i % N])
                };
                let bytes = last(clamp.narrow([at(0), at(1), at(2), at(3)]), first);
                self.store::<M, N>(y, first, bytes);
            }
        }
    }

    /// Which bytes of a row of `N` vectors lie in the block.
    #[inline(always)]
    fn mask<const N: usize>(&self) -> u64 {
        if self.columns >= 16 * N { u64::MAX >> (64 - 16 * N) } else { (1 << self.columns) - 1 }
    }

    /// Stores `4 / N` rows of a tile of `M`, from row `first` on, that lie one after the other in a register.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn store<const M: usize, const N: usize>(&self, y: *mut u8, first: usize, bytes: __m512i) {
        let full = self.columns >= 16 * N;
        for i in 0..(4 / N).min(M - first) {
            // SAFETY: see `run`; the mask keeps the store to the block's columns.
            unsafe {
                let row = y.add((first + i) * self.y_stride);
                match (N, i, full) {
                    (4, _, true) => _mm512_storeu_si512(row.cast(), bytes),
                    (4 | 3, _, _) => _mm512_mask_storeu_epi8(row.cast(), self.mask::<N>(), bytes),
                    (2, ..) => {
                        let bytes = match i {
                            0 => _mm512_castsi512_si256(bytes),
                            _ => _mm512_extracti64x4_epi64::<1>(bytes),
                        };
                        if full {
                            _mm256_storeu_si256(row.cast(), bytes);
                        } else {
                            _mm256_mask_storeu_epi8(row.cast(), self.mask::<N>() as u32, bytes);
                        }
                    }
                    _ => {
                        let bytes = match i {
                            0 => _mm512_castsi512_si128(bytes),
                            1 => _mm512_extracti32x4_epi32::<1>(bytes),
                            2 => _mm512_extracti32x4_epi32::<2>(bytes),
                            _ => _mm512_extracti32x4_epi32::<3>(bytes),
                        };
                        if full {
                            _mm_storeu_si128(row.cast(), bytes);
                        } else {
                            _mm_mask_storeu_epi8(row.cast(), self.mask::<N>() as u16, bytes);
                        }
                    }
                }
            }
        }
    }

    /// Loads what [`store`](Self::store) would store to.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load<const M: usize, const N: usize>(&self, x: *const u8, first: usize) -> __m512i {
        let mut bytes = _mm512_setzero_si512();
        for i in 0..(4 / N).min(M - first) {
            // SAFETY: the residual is as long as the output; the mask keeps the load to the block's columns.
            unsafe {
                let row = x.add((first + i) * self.y_stride);
                bytes = match N {
                    3 | 4 => _mm512_maskz_loadu_epi8(self.mask::<N>(), row.cast()),
                    2 => {
                        let piece = _mm256_maskz_loadu_epi8(self.mask::<N>() as u32, row.cast());
                        if i == 0 { _mm512_castsi256_si512(piece) } else { _mm512_inserti64x4::<1>(bytes, piece) }
                    }
                    _ => {
                        let piece = _mm_maskz_loadu_epi8(self.mask::<N>() as u16, row.cast());
                        match i {
                            0 => _mm512_castsi128_si512(piece),
                            1 => _mm512_inserti32x4::<1>(bytes, piece),
                            2 => _mm512_inserti32x4::<2>(bytes, piece),
                            _ => _mm512_inserti32x4::<3>(bytes, piece),
                        }
                    }
                };
            }
        }
        bytes
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

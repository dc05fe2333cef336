//! The matrix kernels with AVX2: 6 rows by 16 columns of sums.
//!
//! The instruction of AVX2 that multiplies bytes (`vpmaddubsw`) adds pairs of products with saturation and so is not
//! exact; without AVX-VNNI both sides are 16-bit numbers. Bytes are widened once, when rows are gathered, so that between two
//! products there is an addition and nothing else.

use std::arch::x86_64::*;

use super::panels::{Block, Finish, Target};
use super::walk::{self, Micro, Tile};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx2::Clamp;

/// Computes a block.
///
/// # Safety
/// The machine has AVX2; the block's slices hold what its sizes say; `y` may be written at the block's columns of
/// each of its rows, `y_stride` apart.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn block(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    // SAFETY: by the caller's promise.
    unsafe { walk::block::<Words>(b, y, y_stride) }
}

/// Computes a block.
///
/// # Safety
/// As [`block`], and the machine has AVX-VNNI.
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn block_vnni(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    // SAFETY: by the caller's promise.
    unsafe { walk::block::<Vnni>(b, y, y_stride) }
}

/// Products of 16-bit numbers.
struct Words;

impl Micro for Words {
    const ROWS: usize = 6;
    const LANES: usize = 8;
    const WEIGHT: usize = 4;

    #[inline(always)]
    unsafe fn tile<const M: usize, const N: usize>(tile: &Tile<'_>) {
        // SAFETY: by the caller's promise.
        unsafe { words::<M, N>(tile) }
    }
}

/// Four products of bytes in one instruction.
struct Vnni;

impl Micro for Vnni {
    const ROWS: usize = 6;
    const LANES: usize = 8;
    const WEIGHT: usize = 4;

    #[inline(always)]
    unsafe fn tile<const M: usize, const N: usize>(tile: &Tile<'_>) {
        // SAFETY: by the caller's promise.
        unsafe { vnni::<M, N>(tile) }
    }
}

/// # Safety
/// See [`Micro::tile`].
#[target_feature(enable = "avx2")]
unsafe fn words<const M: usize, const N: usize>(tile: &Tile<'_>) {
    // SAFETY: all addresses are of `M` rows and `N` vectors of the block, by the caller's promise.
    unsafe {
        let mut sums = bias::<M, N>(tile);
        let (mut a, mut weights) = (tile.a, tile.weights);
        for _ in 0..tile.steps {
            let mut w = [_mm256_setzero_si256(); N];
            for n in 0..N {
                w[n] = _mm256_loadu_si256(weights.add(32 * n).cast());
            }
            for m in 0..M {
                let x = _mm256_set1_epi32(a.add(m * tile.stride).cast::<i32>().read_unaligned());
                for n in 0..N {
                    sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_madd_epi16(x, w[n]));
                }
            }
            a = a.add(4);
            weights = weights.add(32 * N);
        }
        store(tile, &sums);
    }
}

/// # Safety
/// See [`Micro::tile`].
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn vnni<const M: usize, const N: usize>(tile: &Tile<'_>) {
    // SAFETY: all addresses are of `M` rows and `N` vectors of the block, by the caller's promise.
    unsafe {
        let mut sums = bias::<M, N>(tile);
        let (mut a, mut weights) = (tile.a, tile.weights);
        for _ in 0..tile.steps {
            let mut w = [_mm256_setzero_si256(); N];
            for n in 0..N {
                w[n] = _mm256_loadu_si256(weights.add(32 * n).cast());
            }
            for m in 0..M {
                let x = _mm256_set1_epi32(a.add(m * tile.stride).cast::<i32>().read_unaligned());
                for n in 0..N {
                    sums[m][n] = _mm256_dpbusd_avx_epi32(sums[m][n], x, w[n]);
                }
            }
            a = a.add(4);
            weights = weights.add(32 * N);
        }
        store(tile, &sums);
    }
}

/// The sums before the first product.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn bias<const M: usize, const N: usize>(tile: &Tile<'_>) -> [[__m256i; N]; M] {
    let mut sums = [[_mm256_setzero_si256(); N]; M];
    for n in 0..N {
        // SAFETY: the tile has `N` vectors of columns.
        let bias = unsafe { _mm256_loadu_si256(tile.bias.add(8 * n).cast()) };
        for row in &mut sums {
            row[n] = bias;
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const M: usize, const N: usize>(tile: &Tile<'_>, sums: &[[__m256i; N]; M]) {
    // SAFETY: see `Micro::tile`.
    unsafe {
        match tile.y {
            Target::U8(y, Finish { to, .. }) => store_u8(tile, sums, y, to),
            Target::F32(y) => store_f32(tile, sums, y),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_u8<const M: usize, const N: usize>(
    tile: &Tile<'_>,
    sums: &[[__m256i; N]; M],
    y: *mut u8,
    to: &Requantize,
) {
    // SAFETY: see `Micro::tile`; only columns of the block are written.
    unsafe {
        let clamp = Clamp::new(to);
        let count = tile.columns.min(8 * N);
        for m in 0..M {
            let mut values = [_mm256_setzero_si256(); 4];
            for n in 0..N {
                let scale = _mm256_loadu_ps(tile.scale.add(8 * n));
                values[n] = clamp.round(sums[m][n], scale);
            }
            let bytes = _mm256_castsi256_si128(clamp.narrow(values));
            let row = y.add(m * tile.y_stride);
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
unsafe fn store_f32<const M: usize, const N: usize>(tile: &Tile<'_>, sums: &[[__m256i; N]; M], y: *mut f32) {
    // SAFETY: see `Micro::tile`; masked stores write only columns of the block.
    unsafe {
        for n in 0..N {
            let scale = _mm256_loadu_ps(tile.scale.add(8 * n));
            let left = tile.columns.saturating_sub(8 * n).min(8) as i32;
            let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), numbers);
            for m in 0..M {
                let value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[m][n]), scale);
                _mm256_maskstore_ps(y.wrapping_add(m * tile.y_stride + 8 * n), mask, value);
            }
        }
    }
}

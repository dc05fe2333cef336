//! The matrix kernel of WebAssembly: 4 rows by 8 columns of sums, products of 16-bit numbers.
//!
//! Of four neighbouring input bytes, the even and the odd ones are taken apart by a mask and a shift, and the weights
//! are stored in the same order.

use std::arch::wasm32::*;

use super::panels::{Block, Target};
use super::walk::{self, Micro, Tile};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::wasm::Clamp;

/// Computes a block.
///
/// # Safety
/// The block's slices hold what its sizes say; `y` may be written at the block's columns of each of its rows,
/// `y_stride` apart.
pub(super) unsafe fn block(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    // SAFETY: by the caller's promise.
    unsafe { walk::block::<Words>(b, y, y_stride) }
}

/// Products of 16-bit numbers.
struct Words;

impl Micro for Words {
    const ROWS: usize = 4;
    const LANES: usize = 4;
    const WEIGHT: usize = 8;

    unsafe fn tile<const M: usize, const N: usize>(tile: &Tile<'_>) {
        // SAFETY: all addresses are of `M` rows and `N` vectors of the block, by the caller's promise.
        unsafe {
            let even_bytes = u16x8_splat(0xff);
            let mut sums = [[i32x4_splat(0); N]; M];
            for n in 0..N {
                let bias = v128_load(tile.bias.add(4 * n).cast());
                for row in &mut sums {
                    row[n] = bias;
                }
            }
            let (mut a, mut weights) = (tile.a, tile.weights);
            for _ in 0..tile.steps {
                let mut w = [[i32x4_splat(0); N]; 2];
                for n in 0..N {
                    w[0][n] = v128_load(weights.add(16 * n).cast());
                    w[1][n] = v128_load(weights.add(16 * (N + n)).cast());
                }
                for m in 0..M {
                    let x = v128_load32_splat(a.add(m * tile.stride).cast());
                    let (even, odd) = (v128_and(x, even_bytes), u16x8_shr(x, 8));
                    for n in 0..N {
                        sums[m][n] = i32x4_add(sums[m][n], i32x4_dot_i16x8(even, w[0][n]));
                        sums[m][n] = i32x4_add(sums[m][n], i32x4_dot_i16x8(odd, w[1][n]));
                    }
                }
                a = a.add(4);
                weights = weights.add(32 * N);
            }
            match tile.y {
                Target::U8(y, finish) => store_u8(tile, &sums, y, finish.to),
                Target::F32(y) => store_f32(tile, &sums, y),
            }
        }
    }
}

/// # Safety
/// See [`Micro::tile`].
#[inline(always)]
unsafe fn store_u8<const M: usize, const N: usize>(
    tile: &Tile<'_>,
    sums: &[[v128; N]; M],
    y: *mut u8,
    to: &Requantize,
) {
    // SAFETY: see `Micro::tile`; only columns of the block are written.
    unsafe {
        let clamp = Clamp::new(to);
        let count = tile.columns.min(4 * N);
        for m in 0..M {
            let mut values = [i32x4_splat(0); 4];
            for n in 0..N {
                values[n] = clamp.round(sums[m][n], v128_load(tile.scale.add(4 * n).cast()));
            }
            let bytes = clamp.narrow(values);
            let row = y.add(m * tile.y_stride);
            if count == 8 {
                v128_store64_lane::<0>(bytes, row.cast());
            } else if count == 4 {
                v128_store32_lane::<0>(bytes, row.cast());
            } else {
                let mut whole = [0u8; 16];
                v128_store(whole.as_mut_ptr().cast(), bytes);
                std::ptr::copy_nonoverlapping(whole.as_ptr(), row, count);
            }
        }
    }
}

/// # Safety
/// See [`Micro::tile`].
#[inline(always)]
unsafe fn store_f32<const M: usize, const N: usize>(tile: &Tile<'_>, sums: &[[v128; N]; M], y: *mut f32) {
    // SAFETY: see `Micro::tile`; only columns of the block are written.
    unsafe {
        for n in 0..N {
            let scale = v128_load(tile.scale.add(4 * n).cast());
            let left = tile.columns.saturating_sub(4 * n).min(4);
            for m in 0..M {
                let value = f32x4_mul(f32x4_convert_i32x4(sums[m][n]), scale);
                let row = y.add(m * tile.y_stride);
                if left == 4 {
                    v128_store(row.add(4 * n).cast(), value);
                } else if left > 0 {
                    let mut whole = [0f32; 4];
                    v128_store(whole.as_mut_ptr().cast(), value);
                    std::ptr::copy_nonoverlapping(whole.as_ptr(), row.add(4 * n), left);
                }
            }
        }
    }
}

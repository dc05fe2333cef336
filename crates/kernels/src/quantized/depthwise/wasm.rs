//! Depthwise convolution in WebAssembly: taps two by two, 16 channels at a time, products of 16-bit numbers.

use std::arch::wasm32::*;

use super::walk::{self, BLOCK, Micro};
use super::{Row, Weights};
use crate::quantized::epilogue::wasm::Clamp;
use crate::quantized::epilogue::{Epilogue, Requantize};

/// Computes blocks `blocks` of one row of output.
///
/// # Safety
/// `row.y` may be written at the blocks' channels of each of its pixels.
pub(super) unsafe fn row(
    row: &Row<'_>,
    weights: &Weights,
    epilogue: &Epilogue,
    blocks: std::ops::Range<usize>,
    scratch: &mut [u8],
) {
    // SAFETY: by the caller's promise.
    unsafe { walk::row::<Simd128>(row, weights, epilogue, blocks, scratch) }
}

struct Simd128;

impl Micro for Simd128 {
    const TAPS: usize = 2;
    type Sums = [v128; 4];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> [v128; 4] {
        // SAFETY: 16 values by the caller's promise.
        std::array::from_fn(|i| unsafe { v128_load(bias.add(4 * i).cast()) })
    }

    #[inline(always)]
    unsafe fn add(sums: &mut [v128; 4], taps: &[*const u8], weights: *const i8) {
        // SAFETY: 16 bytes of each tap and 32 weights by the caller's promise.
        unsafe {
            let (a, b) = (v128_load(taps[0].cast()), v128_load(taps[1].cast()));
            let low = i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b);
            let high = i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b);
            let pairs = [
                u16x8_extend_low_u8x16(low),
                u16x8_extend_high_u8x16(low),
                u16x8_extend_low_u8x16(high),
                u16x8_extend_high_u8x16(high),
            ];
            for (i, (sum, pair)) in sums.iter_mut().zip(pairs).enumerate() {
                *sum = i32x4_add(*sum, i32x4_dot_i16x8(pair, v128_load(weights.add(16 * i).cast())));
            }
        }
    }

    #[inline(always)]
    unsafe fn store_u8(sums: [v128; 4], scale: *const f32, to: &Requantize, y: *mut u8, count: usize) {
        let clamp = Clamp::new(to);
        // SAFETY: four vectors of factors by the caller's promise; `count` bytes, 16 only where `count` is 16.
        unsafe {
            let mut values = sums;
            for (i, value) in values.iter_mut().enumerate() {
                *value = clamp.round(*value, v128_load(scale.add(4 * i).cast()));
            }
            let bytes = clamp.narrow(values);
            if count == BLOCK {
                v128_store(y.cast(), bytes);
            } else {
                let mut whole = [0u8; BLOCK];
                v128_store(whole.as_mut_ptr().cast(), bytes);
                std::ptr::copy_nonoverlapping(whole.as_ptr(), y, count);
            }
        }
    }

    #[inline(always)]
    unsafe fn store_f32(sums: [v128; 4], scale: *const f32, y: *mut f32, count: usize) {
        let mut whole = [0f32; BLOCK];
        // SAFETY: the array holds four registers, `y` has room for `count` values.
        unsafe {
            for i in 0..4 {
                let real = f32x4_mul(f32x4_convert_i32x4(sums[i]), v128_load(scale.add(4 * i).cast()));
                v128_store(whole.as_mut_ptr().add(4 * i).cast(), real);
            }
            std::ptr::copy_nonoverlapping(whole.as_ptr(), y, count);
        }
    }
}

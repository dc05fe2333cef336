//! Depthwise convolution with NEON: one tap after the other, 16 channels at a time, products of 16-bit numbers.

use std::arch::aarch64::*;

use super::walk::{self, BLOCK, Micro};
use super::{Row, Weights};
use crate::quantized::epilogue::neon::Clamp;
use crate::quantized::epilogue::{Epilogue, Requantize};

/// Computes blocks `blocks` of one row of output.
///
/// # Safety
/// The machine has NEON. `row.y` may be written at the blocks' channels of each of its pixels.
#[target_feature(enable = "neon")]
pub(super) unsafe fn row(
    row: &Row<'_>,
    weights: &Weights,
    epilogue: &Epilogue,
    blocks: std::ops::Range<usize>,
    scratch: &mut [u8],
) {
    // SAFETY: by the caller's promise.
    unsafe { walk::row::<Neon>(row, weights, epilogue, blocks, scratch) }
}

struct Neon;

impl Micro for Neon {
    const TAPS: usize = 1;
    type Sums = [int32x4_t; 4];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> [int32x4_t; 4] {
        // SAFETY: by the caller's promise.
        unsafe { [vld1q_s32(bias), vld1q_s32(bias.add(4)), vld1q_s32(bias.add(8)), vld1q_s32(bias.add(12))] }
    }

    #[inline(always)]
    unsafe fn add(sums: &mut [int32x4_t; 4], taps: &[*const u8], weights: *const i8) {
        // SAFETY: by the caller's promise.
        unsafe { add(sums, taps[0], weights.cast()) }
    }

    #[inline(always)]
    unsafe fn store_u8(sums: [int32x4_t; 4], scale: *const f32, to: &Requantize, y: *mut u8, count: usize) {
        // SAFETY: by the caller's promise.
        unsafe { store_u8(sums, scale, to, y, count) }
    }

    #[inline(always)]
    unsafe fn store_f32(sums: [int32x4_t; 4], scale: *const f32, y: *mut f32, count: usize) {
        // SAFETY: by the caller's promise.
        unsafe { store_f32(sums, scale, y, count) }
    }
}

/// # Safety
/// See [`Micro::add`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add(sums: &mut [int32x4_t; 4], tap: *const u8, weights: *const i16) {
    // SAFETY: by the caller's promise.
    unsafe {
        let x = vld1q_u8(tap);
        let x = [vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))), vreinterpretq_s16_u16(vmovl_high_u8(x))];
        for i in 0..2 {
            let w = vld1q_s16(weights.add(8 * i));
            sums[2 * i] = vmlal_s16(sums[2 * i], vget_low_s16(x[i]), vget_low_s16(w));
            sums[2 * i + 1] = vmlal_high_s16(sums[2 * i + 1], x[i], w);
        }
    }
}

/// # Safety
/// See [`Micro::store_u8`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_u8(sums: [int32x4_t; 4], scale: *const f32, to: &Requantize, y: *mut u8, count: usize) {
    let clamp = Clamp::new(to);
    // SAFETY: four vectors of factors by the caller's promise; `count` bytes, 16 only where `count` is 16.
    unsafe {
        let mut values = sums;
        for (i, value) in values.iter_mut().enumerate() {
            *value = clamp.round(*value, vld1q_f32(scale.add(4 * i)));
        }
        let bytes = vcombine_u8(clamp.narrow(values[0], values[1]), clamp.narrow(values[2], values[3]));
        if count == BLOCK {
            vst1q_u8(y, bytes);
        } else {
            let mut whole = [0u8; BLOCK];
            vst1q_u8(whole.as_mut_ptr(), bytes);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), y, count);
        }
    }
}

/// # Safety
/// See [`Micro::store_f32`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_f32(sums: [int32x4_t; 4], scale: *const f32, y: *mut f32, count: usize) {
    let mut whole = [0f32; BLOCK];
    // SAFETY: the array holds four registers, `y` has room for `count` values.
    unsafe {
        for i in 0..4 {
            let real = vmulq_f32(vcvtq_f32_s32(sums[i]), vld1q_f32(scale.add(4 * i)));
            vst1q_f32(whole.as_mut_ptr().add(4 * i), real);
        }
        std::ptr::copy_nonoverlapping(whole.as_ptr(), y, count);
    }
}

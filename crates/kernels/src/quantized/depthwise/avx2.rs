//! Depthwise convolution with AVX2: taps two by two, 16 channels at a time, products of 16-bit numbers.

use std::arch::x86_64::*;

use super::walk::{self, BLOCK, Micro};
use super::{Row, Weights};
use crate::quantized::epilogue::avx2::Clamp;
use crate::quantized::epilogue::{Epilogue, Requantize};

/// The place in a block's packed order that a channel takes: interleaving 16-bit numbers leaves channels 0–3 and
/// 8–11 in one register and the others in the second.
pub(super) fn place(channel: usize) -> usize {
    let (lane, within) = (channel / 8, channel % 8);
    within / 4 * 8 + lane * 4 + within % 4
}

/// Computes blocks `blocks` of one row of output.
///
/// # Safety
/// The machine has AVX2. `row.y` may be written at the blocks' channels of each of its pixels.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn row(
    row: &Row<'_>,
    weights: &Weights,
    epilogue: &Epilogue,
    blocks: std::ops::Range<usize>,
    scratch: &mut [u8],
) {
    // SAFETY: by the caller's promise.
    unsafe { walk::row::<Avx2>(row, weights, epilogue, blocks, scratch) }
}

struct Avx2;

impl Micro for Avx2 {
    const TAPS: usize = 2;
    type Sums = [__m256i; 2];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> [__m256i; 2] {
        // SAFETY: by the caller's promise.
        unsafe { [load(bias), load(bias.add(8))] }
    }

    #[inline(always)]
    unsafe fn add(sums: &mut [__m256i; 2], taps: &[*const u8], weights: *const i8) {
        // SAFETY: by the caller's promise.
        unsafe { add_pair(sums, taps[0], taps[1], weights) }
    }

    #[inline(always)]
    unsafe fn store_u8(sums: [__m256i; 2], scale: *const f32, to: &Requantize, y: *mut u8, count: usize) {
        // SAFETY: by the caller's promise.
        unsafe { store_u8(sums, scale, to, y, count) }
    }

    #[inline(always)]
    unsafe fn store_f32(sums: [__m256i; 2], scale: *const f32, y: *mut f32, count: usize) {
        // SAFETY: by the caller's promise.
        unsafe { store_f32(sums, scale, y, count) }
    }
}

/// Adds two taps times their weights.
///
/// # Safety
/// See [`Micro::add`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_pair(sums: &mut [__m256i; 2], a: *const u8, b: *const u8, weights: *const i8) {
    // SAFETY: by the caller's promise.
    unsafe {
        let (a, b) = (widen(a), widen(b));
        let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), load(weights));
        let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), load(weights.add(32)));
        sums[0] = _mm256_add_epi32(sums[0], low);
        sums[1] = _mm256_add_epi32(sums[1], high);
    }
}

/// 16 bytes as 16-bit numbers.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen(pixel: *const u8) -> __m256i {
    // SAFETY: by the caller's promise.
    unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(pixel.cast())) }
}

/// 32 bytes of numbers of any size.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load<T>(values: *const T) -> __m256i {
    // SAFETY: by the caller's promise.
    unsafe { _mm256_loadu_si256(values.cast()) }
}

/// # Safety
/// See [`Micro::store_u8`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_u8(sums: [__m256i; 2], scale: *const f32, to: &Requantize, y: *mut u8, count: usize) {
    let clamp = Clamp::new(to);
    // SAFETY: two vectors of factors by the caller's promise; `count` bytes, 16 only where `count` is 16.
    unsafe {
        let scale = [_mm256_loadu_ps(scale), _mm256_loadu_ps(scale.add(8))];
        let values = [clamp.round(sums[0], scale[0]), clamp.round(sums[1], scale[1])];
        // Lane by lane: eight bytes of channels 0–7 and then, in the other lane, of channels 8–15.
        let lanes = clamp.narrow_lanes([values[0], values[1], values[0], values[1]]);
        let bytes = _mm_unpacklo_epi64(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
        if count == BLOCK {
            _mm_storeu_si128(y.cast(), bytes);
        } else {
            let mut whole = [0u8; BLOCK];
            _mm_storeu_si128(whole.as_mut_ptr().cast(), bytes);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), y, count);
        }
    }
}

/// # Safety
/// See [`Micro::store_f32`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_f32(sums: [__m256i; 2], scale: *const f32, y: *mut f32, count: usize) {
    let mut whole = [0f32; BLOCK];
    // SAFETY: the array holds two registers, `y` has room for `count` values.
    unsafe {
        for i in 0..2 {
            let real = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[i]), _mm256_loadu_ps(scale.add(8 * i)));
            _mm256_storeu_ps(whole.as_mut_ptr().add(8 * i), real);
        }
        for channel in 0..count {
            *y.add(channel) = whole[place(channel)];
        }
    }
}

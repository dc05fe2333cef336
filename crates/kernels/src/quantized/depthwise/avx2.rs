//! Depthwise convolution with AVX2: taps two by two, 16 channels at a time, products of 16-bit numbers.

use std::arch::x86_64::*;

use super::{Pixels, Row, Weights};
use crate::quantized::epilogue::avx2::Clamp;
use crate::quantized::epilogue::{Epilogue, Requantize};

/// Channels of a block.
pub(super) const BLOCK: usize = 16;

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
pub(super) unsafe fn row(row: &Row<'_>, weights: &Weights, epilogue: &Epilogue, blocks: std::ops::Range<usize>) {
    let window = row.window;
    let taps = window.kernel[0] * window.kernel[1];
    let pairs = taps.div_ceil(2);
    let zeros = [row.x_zero; BLOCK];
    for block in blocks {
        let channel = block * BLOCK;
        let count = (window.channels - channel).min(BLOCK);
        let packed = &weights.packed[block * pairs * 64..(block + 1) * pairs * 64];
        let bias = &weights.bias[block * BLOCK..(block + 1) * BLOCK];
        let scale = &weights.scale[block * BLOCK..(block + 1) * BLOCK];
        for output in 0..window.out_w {
            let mut sums: [__m256i; 2] = [load(&bias[..8]), load(&bias[8..])];
            // A tap without a partner, and every tap in the padding, reads zeros.
            let mut waiting: Option<__m256i> = None;
            let mut pair = packed.chunks_exact(64);
            for ky in 0..window.kernel[0] {
                let line = row.line(ky);
                for kx in 0..window.kernel[1] {
                    let column = (output * window.step + kx * window.dilation).wrapping_sub(window.pad_left);
                    let pixel = match line {
                        Some(line) if column < window.in_w => &line[column * window.channels + channel..][..count],
                        _ => &zeros[..count],
                    };
                    let tap = widen(pixel);
                    let Some(first) = waiting.take() else {
                        waiting = Some(tap);
                        continue;
                    };
                    add_pair(&mut sums, first, tap, pair.next().unwrap_or_default());
                }
            }
            if let Some(first) = waiting {
                add_pair(&mut sums, first, _mm256_setzero_si256(), pair.next().unwrap_or_default());
            }
            let offset = output * window.channels + channel;
            // SAFETY: the pixel's channels `channel..channel + count` may be written by the caller's promise.
            unsafe {
                match (epilogue, row.y) {
                    (Epilogue::Requantize(to), Pixels::U8(y)) => store_u8(sums, scale, to, y.add(offset), count),
                    (Epilogue::Dequantize { .. }, Pixels::F32(y)) => store_f32(sums, scale, y.add(offset), count),
                    _ => unreachable!("the output was checked against the epilogue"),
                }
            }
        }
    }
}

/// Adds two taps times their weights.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pair(sums: &mut [__m256i; 2], a: __m256i, b: __m256i, weights: &[i8]) {
    let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), load(&weights[..32]));
    let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), load(&weights[32..64]));
    sums[0] = _mm256_add_epi32(sums[0], low);
    sums[1] = _mm256_add_epi32(sums[1], high);
}

/// Up to 16 bytes as 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(pixel: &[u8]) -> __m256i {
    // SAFETY: each load reads 16 bytes of a slice or array that has them.
    unsafe {
        let bytes = if pixel.len() == BLOCK {
            _mm_loadu_si128(pixel.as_ptr().cast())
        } else {
            let mut whole = [0u8; BLOCK];
            whole[..pixel.len()].copy_from_slice(pixel);
            _mm_loadu_si128(whole.as_ptr().cast())
        };
        _mm256_cvtepu8_epi16(bytes)
    }
}

/// 32 bytes of numbers of any size.
#[inline]
#[target_feature(enable = "avx2")]
fn load<T: Copy>(values: &[T]) -> __m256i {
    assert!(std::mem::size_of_val(values) == 32);
    // SAFETY: the slice holds 32 bytes.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn real(sums: [__m256i; 2], scale: &[f32], i: usize) -> __m256 {
    _mm256_mul_ps(_mm256_cvtepi32_ps(sums[i]), _mm256_castsi256_ps(load(&scale[8 * i..8 * i + 8])))
}

/// # Safety
/// `count` bytes may be written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_u8(sums: [__m256i; 2], scale: &[f32], to: &Requantize, y: *mut u8, count: usize) {
    let clamp = Clamp::new(to);
    let scale: [__m256; 2] = [_mm256_castsi256_ps(load(&scale[..8])), _mm256_castsi256_ps(load(&scale[8..16]))];
    let values = [clamp.round(sums[0], scale[0]), clamp.round(sums[1], scale[1])];
    // Lane by lane: eight bytes of channels 0–7 and then, in the other lane, of channels 8–15.
    let lanes = clamp.narrow_lanes([values[0], values[1], values[0], values[1]]);
    let bytes = _mm_unpacklo_epi64(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
    // SAFETY: `count` bytes by the caller's promise, 16 only where `count` is 16.
    unsafe {
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
/// `count` floats may be written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_f32(sums: [__m256i; 2], scale: &[f32], y: *mut f32, count: usize) {
    let mut whole = [0f32; BLOCK];
    // SAFETY: the array holds two registers, `y` has room for `count` values.
    unsafe {
        for i in 0..2 {
            _mm256_storeu_ps(whole.as_mut_ptr().add(8 * i), real(sums, scale, i));
        }
        for channel in 0..count {
            *y.add(channel) = whole[place(channel)];
        }
    }
}

//! The kernel with AVX2: population counts of bytes by a table of sixteen entries, two pixels by sixteen columns.

use std::arch::x86_64::*;

use super::strip::{Strip, Target};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx2::Clamp;

/// Pixels at a time.
const PIXELS: usize = 2;
/// Counts of at most eight that a byte can sum.
const ROUNDS: usize = 31;

/// Computes a strip.
///
/// # Safety
/// The machine has AVX2; the strip has been checked; `target` may be written at the columns of the strip's panels, for
/// each of its pixels.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn strip(s: &Strip<'_>, target: &Target<'_>) {
    let mut pixel = 0;
    while pixel < s.count {
        let pixels = PIXELS.min(s.count - pixel);
        // SAFETY: `pixels` from `pixel` on lie inside the strip.
        unsafe {
            match (pixels, s.digits.ternary) {
                (2, true) => run::<2, true>(s, target, pixel),
                (2, false) => run::<2, false>(s, target, pixel),
                (_, true) => run::<1, true>(s, target, pixel),
                (_, false) => run::<1, false>(s, target, pixel),
            }
        }
        pixel += pixels;
    }
}

/// # Safety
/// `M` pixels from `pixel` on are inside the strip, and the machine has the instructions.
#[target_feature(enable = "avx2")]
unsafe fn run<const M: usize, const TERNARY: bool>(s: &Strip<'_>, target: &Target<'_>, pixel: usize) {
    // SAFETY: all addresses are of `M` pixels and the strip's panels, by the caller's promise and the strip's check.
    unsafe {
        let mut words = [[0u32; 4]; M];
        for panel in 0..s.panels() {
            let sums = sums::<M, TERNARY>(s, pixel, panel);
            let first = s.column + 16 * panel;
            let columns = (s.columns - first.min(s.columns)).min(16);
            let scale =
                [_mm256_loadu_ps(s.scale.as_ptr().add(first)), _mm256_loadu_ps(s.scale.as_ptr().add(first + 8))];
            for m in 0..M {
                match target {
                    Target::U8 { y, stride, to } => {
                        let bytes = narrow(sums[m], scale, to);
                        let y = y.add((pixel + m) * stride + 16 * panel);
                        if columns == 16 {
                            _mm_storeu_si128(y.cast(), bytes);
                        } else {
                            let mut whole = [0u8; 16];
                            _mm_storeu_si128(whole.as_mut_ptr().cast(), bytes);
                            std::ptr::copy_nonoverlapping(whole.as_ptr(), y, columns);
                        }
                    }
                    Target::F32 { y, stride } => {
                        for n in 0..2 {
                            let left = columns.saturating_sub(8 * n).min(8) as i32;
                            let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), numbers);
                            let value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[m][n]), scale[n]);
                            let y = y.add((pixel + m) * stride).wrapping_add(16 * panel + 8 * n);
                            _mm256_maskstore_ps(y, mask, value);
                        }
                    }
                    Target::Planes { planes, to, .. } => {
                        let codes = narrow(sums[m], scale, to);
                        let mask = (1u32 << columns) - 1;
                        for (i, word) in words[m][..*planes].iter_mut().enumerate() {
                            let bits = _mm_movemask_epi8(_mm_sll_epi16(codes, _mm_cvtsi32_si128(7 - i as i32))) as u32;
                            *word |= (bits & mask) << (16 * panel);
                        }
                    }
                }
            }
        }
        if let Target::Planes { y, stride, plane, planes, .. } = target {
            for m in 0..M {
                for (i, word) in words[m][..*planes].iter().enumerate() {
                    y.add((pixel + m) * stride + i * plane).cast::<u32>().write_unaligned(*word);
                }
            }
        }
    }
}

/// Sums of `M` pixels by the columns of a panel, bias included.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sums<const M: usize, const TERNARY: bool>(s: &Strip<'_>, pixel: usize, panel: usize) -> [[__m256i; 2]; M] {
    // SAFETY: see `run`.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; M];
        let d = s.digits;
        let first = d.panel_words(s.column / 16 + panel);
        let kinds = if TERNARY { 2 } else { 1 };
        let step = s.step;
        let low = _mm256_set1_epi8(15);
        let counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
        let (one8, one16) = (_mm256_set1_epi8(1), _mm256_set1_epi16(1));
        for pass in s.passes {
            if pass.shift > 0 {
                shift(&mut sums, pass.shift);
            }
            let mut weights = first.add(pass.digit * d.digit_len());
            let start = s.x.as_ptr().add(s.start + pass.plane * s.plane + pixel * step);
            let mut bytes = [[_mm256_setzero_si256(); 2]; M];
            let mut rounds = 0;
            for segment in s.segments {
                let mut x = start.add(*segment);
                let mut left = s.run;
                while left > 0 {
                    let some = left.min(ROUNDS - rounds);
                    for _ in 0..some {
                        for m in 0..M {
                            let bits = _mm256_set1_epi32(x.add(m * step).read() as i32);
                            for n in 0..2 {
                                let negative = _mm256_load_si256(weights.add(8 * n).cast());
                                let mut counted = _mm256_xor_si256(bits, negative);
                                if TERNARY {
                                    let present = _mm256_load_si256(weights.add(16 + 8 * n).cast());
                                    counted = _mm256_and_si256(counted, present);
                                }
                                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(counted), low);
                                let both = _mm256_add_epi8(
                                    _mm256_shuffle_epi8(counts, _mm256_and_si256(counted, low)),
                                    _mm256_shuffle_epi8(counts, high),
                                );
                                bytes[m][n] = _mm256_add_epi8(bytes[m][n], both);
                            }
                        }
                        x = x.add(1);
                        weights = weights.add(16 * kinds);
                    }
                    left -= some;
                    rounds += some;
                    if rounds == ROUNDS {
                        widen(&mut sums, &mut bytes, one8, one16);
                        rounds = 0;
                    }
                }
            }
            widen(&mut sums, &mut bytes, one8, one16);
        }
        if s.scale_shift > 0 {
            shift(&mut sums, s.scale_shift);
        }
        for m in 0..M {
            let bias = s.bias_of(pixel + m).add(16 * panel);
            for n in 0..2 {
                sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_loadu_si256(bias.add(8 * n).cast()));
            }
        }
        sums
    }
}

/// Moves the counts of bytes into the sums.
#[inline]
#[target_feature(enable = "avx2")]
fn widen<const M: usize>(sums: &mut [[__m256i; 2]; M], bytes: &mut [[__m256i; 2]; M], one8: __m256i, one16: __m256i) {
    for m in 0..M {
        for n in 0..2 {
            let pairs = _mm256_maddubs_epi16(bytes[m][n], one8);
            sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_madd_epi16(pairs, one16));
            bytes[m][n] = _mm256_setzero_si256();
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn shift<const M: usize>(sums: &mut [[__m256i; 2]; M], by: u32) {
    let by = _mm_cvtsi32_si128(by as i32);
    for row in sums {
        for sum in row {
            *sum = _mm256_sll_epi32(*sum, by);
        }
    }
}

/// Sixteen columns of a pixel as bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(sums: [__m256i; 2], scale: [__m256; 2], to: &Requantize) -> __m128i {
    let clamp = Clamp::new(to);
    let values = [clamp.round(sums[0], scale[0]), clamp.round(sums[1], scale[1])];
    _mm256_castsi256_si128(clamp.narrow([values[0], values[1], values[0], values[1]]))
}

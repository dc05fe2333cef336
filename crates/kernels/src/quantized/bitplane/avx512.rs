//! The kernel with AVX-512 and its population counts: up to eight pixels by 32 columns of sums in registers.

use std::arch::x86_64::*;

use super::strip::{Strip, Target};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx512::Clamp;

/// Pixels of sums held in registers.
const PIXELS: usize = 8;

/// Computes a strip.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VPOPCNTDQ; the strip has been checked; `target` may be written at the
/// columns of the strip's panels, for each of its pixels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq")]
pub(super) unsafe fn strip(s: &Strip<'_>, target: &Target<'_>) {
    let tiles = s.count.div_ceil(PIXELS);
    let mut pixel = 0;
    for tile in 0..tiles {
        let pixels = (s.count - pixel).div_ceil(tiles - tile);
        // SAFETY: `pixels` from `pixel` on lie inside the strip, and it has that many panels.
        unsafe {
            match (s.panels(), s.digits.ternary) {
                (2, true) => tile_of::<2, true>(s, target, pixel, pixels),
                (2, false) => tile_of::<2, false>(s, target, pixel, pixels),
                (_, true) => tile_of::<1, true>(s, target, pixel, pixels),
                (_, false) => tile_of::<1, false>(s, target, pixel, pixels),
            }
        }
        pixel += pixels;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq")]
unsafe fn tile_of<const N: usize, const TERNARY: bool>(
    s: &Strip<'_>,
    target: &Target<'_>,
    pixel: usize,
    pixels: usize,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        match pixels {
            8 => run::<8, N, TERNARY>(s, target, pixel),
            7 => run::<7, N, TERNARY>(s, target, pixel),
            6 => run::<6, N, TERNARY>(s, target, pixel),
            5 => run::<5, N, TERNARY>(s, target, pixel),
            4 => run::<4, N, TERNARY>(s, target, pixel),
            3 => run::<3, N, TERNARY>(s, target, pixel),
            2 => run::<2, N, TERNARY>(s, target, pixel),
            _ => run::<1, N, TERNARY>(s, target, pixel),
        }
    }
}

/// # Safety
/// `M` pixels from `pixel` on and `N` panels are inside the strip, and the machine has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq")]
unsafe fn run<const M: usize, const N: usize, const TERNARY: bool>(s: &Strip<'_>, target: &Target<'_>, pixel: usize) {
    // SAFETY: all addresses are of `M` pixels and `N` panels, by the caller's promise and the strip's check.
    unsafe { store(&sums::<M, N, TERNARY>(s, pixel), s, target, pixel) }
}

/// Brings the sums of `M` pixels from `pixel` on, by `N` panels, to where they are wanted.
///
/// # Safety
/// As [`strip`]; the pixels and panels are inside the strip.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn store<const M: usize, const N: usize>(
    sums: &[[__m512i; N]; M],
    s: &Strip<'_>,
    target: &Target<'_>,
    pixel: usize,
) {
    // SAFETY: masked stores write only columns of the strip.
    unsafe {
        let mut scale = [_mm512_setzero_ps(); N];
        for n in 0..N {
            scale[n] = _mm512_loadu_ps(s.scale.as_ptr().add(s.column + 16 * n));
        }
        let columns = (s.columns - s.column).min(16 * N);
        match target {
            Target::U8 { y, stride, to } => {
                let mask = (u64::MAX >> (64 - columns)) as u32;
                narrow::<M, N>(sums, &scale, to, |m, bytes| {
                    _mm256_mask_storeu_epi8(y.add((pixel + m) * stride).cast(), mask, bytes);
                });
            }
            Target::F32 { y, stride } => {
                for m in 0..M {
                    for n in 0..N {
                        let left = columns - (16 * n).min(columns);
                        let mask = ((1u32 << left.min(16)) - 1) as u16;
                        let value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[m][n]), scale[n]);
                        _mm512_mask_storeu_ps(y.add((pixel + m) * stride).wrapping_add(16 * n), mask, value);
                    }
                }
            }
            Target::Planes { y, stride, plane, planes, to } => {
                let mask = (u64::MAX >> (64 - columns)) as u32;
                narrow::<M, N>(sums, &scale, to, |m, codes| {
                    for i in 0..*planes {
                        let word = _mm256_mask_test_epi8_mask(mask, codes, _mm256_set1_epi8(1 << i));
                        y.add((pixel + m) * stride + i * plane).cast::<u32>().write_unaligned(word);
                    }
                });
            }
        }
    }
}

/// Sums of `M` pixels by `N` panels, bias included.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq")]
unsafe fn sums<const M: usize, const N: usize, const TERNARY: bool>(s: &Strip<'_>, pixel: usize) -> [[__m512i; N]; M] {
    // SAFETY: see `run`.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); N]; M];
        let d = s.digits;
        let panel_len = d.panel_len();
        let first = d.panel_words(s.column / 16);
        let kinds = if TERNARY { 2 } else { 1 };
        let step = s.step;
        for pass in s.passes {
            if pass.shift > 0 {
                shift::<M, N>(&mut sums, pass.shift);
            }
            let mut weights = first.add(pass.digit * d.digit_len());
            let start = s.x.as_ptr().add(s.start + pass.plane * s.plane + pixel * step);
            for segment in s.segments {
                let mut x = start.add(*segment);
                for _ in 0..s.run {
                    let mut negative = [_mm512_setzero_si512(); N];
                    let mut present = [_mm512_setzero_si512(); N];
                    for n in 0..N {
                        let w = weights.add(n * panel_len);
                        negative[n] = _mm512_load_si512(w.cast());
                        if TERNARY {
                            present[n] = _mm512_load_si512(w.add(16).cast());
                        }
                    }
                    for m in 0..M {
                        let bits = _mm512_set1_epi32(x.add(m * step).read() as i32);
                        for n in 0..N {
                            let counted = if TERNARY {
                                // (bits ^ negative) & present
                                let bits = if n == 0 { bits } else { again(x.add(m * step)) };
                                _mm512_ternarylogic_epi32::<0x28>(bits, negative[n], present[n])
                            } else {
                                _mm512_xor_si512(bits, negative[n])
                            };
                            sums[m][n] = _mm512_add_epi32(sums[m][n], _mm512_popcnt_epi32(counted));
                        }
                    }
                    x = x.add(1);
                    weights = weights.add(16 * kinds);
                }
            }
        }
        if s.scale_shift > 0 {
            shift::<M, N>(&mut sums, s.scale_shift);
        }
        for m in 0..M {
            let bias = s.bias_of(pixel + m);
            for n in 0..N {
                sums[m][n] = _mm512_add_epi32(sums[m][n], _mm512_loadu_si512(bias.add(16 * n).cast()));
            }
        }
        sums
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn shift<const M: usize, const N: usize>(sums: &mut [[__m512i; N]; M], by: u32) {
    let by = _mm_cvtsi32_si128(by as i32);
    for row in sums {
        for sum in row {
            *sum = _mm512_sll_epi32(*sum, by);
        }
    }
}

/// Brings sums to bytes and hands out the columns of every pixel, in the lower half if there is one panel.
#[inline(always)]
unsafe fn narrow<const M: usize, const N: usize>(
    sums: &[[__m512i; N]; M],
    scale: &[__m512; N],
    to: &Requantize,
    mut each: impl FnMut(usize, __m256i),
) {
    // SAFETY: called only from functions compiled for these instructions.
    unsafe {
        let clamp = Clamp::new(to);
        let pixels = 4 / N;
        for first in (0..M).step_by(pixels) {
            let mut values = [_mm512_setzero_si512(); 4];
            for (i, value) in values.iter_mut().enumerate() {
                let m = (first + i / N).min(M - 1);
                *value = clamp.round(sums[m][i % N], scale[i % N]);
            }
            let bytes = clamp.narrow(values);
            for i in 0..pixels.min(M - first) {
                let part = if N == 2 {
                    if i == 0 { _mm512_castsi512_si256(bytes) } else { _mm512_extracti64x4_epi64::<1>(bytes) }
                } else {
                    let part = match i {
                        0 => _mm512_castsi512_si128(bytes),
                        1 => _mm512_extracti32x4_epi32::<1>(bytes),
                        2 => _mm512_extracti32x4_epi32::<2>(bytes),
                        _ => _mm512_extracti32x4_epi32::<3>(bytes),
                    };
                    _mm256_zextsi128_si256(part)
                };
                each(first + i, part);
            }
        }
    }
}

/// A word in all lanes, read anew. The logic operation on three registers overwrites one of them, and a load is cheaper
/// than the copy that the compiler would make to keep the word.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn again(x: *const u32) -> __m512i {
    let bits: __m512i;
    // SAFETY: reads four bytes that the caller may read; called only where the machine has AVX-512.
    unsafe {
        std::arch::asm!(
            "vpbroadcastd {bits}, dword ptr [{x}]",
            bits = out(zmm_reg) bits,
            x = in(reg) x,
            options(readonly, nostack, preserves_flags)
        );
    }
    bits
}

//! The kernel with NEON: population counts of bytes, two pixels by two panels of columns or four by one.
//!
//! Where there are dot products, one with ones adds the counts of four bytes to a sum; elsewhere counts are summed as bytes
//! for as long as these have room.

use std::arch::aarch64::*;
use std::arch::asm;

use super::digits::LANES;
use super::strip::{Strip, Target};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::neon::Clamp;

/// Vectors of sums of a panel.
const VECTORS: usize = 4;
/// Counts of at most eight that a byte can sum.
const ROUNDS: usize = 31;

/// Sums of pixels by panels.
type Sums<const M: usize, const P: usize> = [[[uint32x4_t; VECTORS]; P]; M];

/// Computes a strip.
///
/// # Safety
/// The machine has NEON and, with `DOT`, dot products; the strip has been checked; `target` may be written at the columns of
/// the strip's panels, for each of its pixels.
#[target_feature(enable = "neon")]
pub(super) unsafe fn strip<const DOT: bool>(s: &Strip<'_>, target: &Target<'_>) {
    // SAFETY: by the caller's promise.
    unsafe {
        match (s.panels(), s.digits.ternary) {
            (2, true) => walk::<2, true, DOT>(s, target),
            (2, false) => walk::<2, false, DOT>(s, target),
            (_, true) => walk::<1, true, DOT>(s, target),
            (_, false) => walk::<1, false, DOT>(s, target),
        }
    }
}

/// # Safety
/// As [`strip`]; the strip has `P` panels.
#[target_feature(enable = "neon")]
unsafe fn walk<const P: usize, const TERNARY: bool, const DOT: bool>(s: &Strip<'_>, target: &Target<'_>) {
    let most = if P == 2 { 2 } else { 4 };
    let mut pixel = 0;
    while pixel < s.count {
        let left = s.count - pixel;
        // SAFETY: `pixels` from `pixel` on lie inside the strip.
        let pixels = unsafe {
            match left.min(most) {
                4 => run::<4, P, TERNARY, DOT>(s, target, pixel),
                2 | 3 => run::<2, P, TERNARY, DOT>(s, target, pixel),
                _ => run::<1, P, TERNARY, DOT>(s, target, pixel),
            }
        };
        pixel += pixels;
    }
}

/// Computes `M` pixels.
///
/// # Safety
/// They are inside the strip from `pixel` on, it has `P` panels, and the machine has the instructions.
#[target_feature(enable = "neon")]
unsafe fn run<const M: usize, const P: usize, const TERNARY: bool, const DOT: bool>(
    s: &Strip<'_>,
    target: &Target<'_>,
    pixel: usize,
) -> usize {
    // SAFETY: all addresses are of `M` pixels and `P` panels, by the caller's promise and the strip's check.
    unsafe { store(&sums::<M, P, TERNARY, DOT>(s, pixel), s, target, pixel) };
    M
}

/// Sums of `M` pixels by `P` panels, bias included.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn sums<const M: usize, const P: usize, const TERNARY: bool, const DOT: bool>(
    s: &Strip<'_>,
    pixel: usize,
) -> Sums<M, P> {
    // SAFETY: see `run`.
    unsafe {
        let mut sums = [[[vdupq_n_u32(0); VECTORS]; P]; M];
        let d = s.digits;
        let panel_len = d.panel_len();
        let first = d.panel_words(s.column / LANES);
        let kinds = if TERNARY { 2 } else { 1 };
        let step = s.step;
        let ones = vdupq_n_u8(1);
        for pass in s.passes {
            if pass.shift > 0 {
                shift(&mut sums, pass.shift);
            }
            let mut weights = first.add(pass.digit * d.digit_len());
            let start = s.x.as_ptr().add(s.start + pass.plane * s.plane + pixel * step);
            let mut bytes = [[[vdupq_n_u8(0); VECTORS]; P]; M];
            let mut rounds = 0;
            for segment in s.segments {
                let mut x = start.add(*segment);
                let mut left = s.run;
                while left > 0 {
                    let some = if DOT { left } else { left.min(ROUNDS - rounds) };
                    for _ in 0..some {
                        let mut bits = [vdupq_n_u32(0); M];
                        for m in 0..M {
                            bits[m] = vld1q_dup_u32(x.add(m * step));
                        }
                        for p in 0..P {
                            for n in 0..VECTORS {
                                let w = weights.add(p * panel_len + 4 * n);
                                let negative = vld1q_u32(w);
                                let present = if TERNARY { vld1q_u32(w.add(LANES)) } else { negative };
                                for m in 0..M {
                                    let mut counted = veorq_u32(bits[m], negative);
                                    if TERNARY {
                                        counted = vandq_u32(counted, present);
                                    }
                                    let counts = vcntq_u8(vreinterpretq_u8_u32(counted));
                                    if DOT {
                                        sums[m][p][n] = udot(sums[m][p][n], counts, ones);
                                    } else {
                                        bytes[m][p][n] = vaddq_u8(bytes[m][p][n], counts);
                                    }
                                }
                            }
                        }
                        x = x.add(1);
                        weights = weights.add(LANES * kinds);
                    }
                    left -= some;
                    rounds += some;
                    if !DOT && rounds == ROUNDS {
                        widen(&mut sums, &mut bytes);
                        rounds = 0;
                    }
                }
            }
            if !DOT {
                widen(&mut sums, &mut bytes);
            }
        }
        if s.scale_shift > 0 {
            shift(&mut sums, s.scale_shift);
        }
        for m in 0..M {
            let bias = s.bias_of(pixel + m).cast::<u32>();
            for p in 0..P {
                for n in 0..VECTORS {
                    sums[m][p][n] = vaddq_u32(sums[m][p][n], vld1q_u32(bias.add(LANES * p + 4 * n)));
                }
            }
        }
        sums
    }
}

/// Adds four products of bytes to every lane.
///
/// # Safety
/// The machine has dot products.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn udot(sums: uint32x4_t, a: uint8x16_t, b: uint8x16_t) -> uint32x4_t {
    let mut sums = sums;
    // SAFETY: the instruction only reads and writes its registers; the machine has it, by the caller's promise.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "udot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Moves the counts of bytes into the sums.
#[inline]
#[target_feature(enable = "neon")]
fn widen<const M: usize, const P: usize>(sums: &mut Sums<M, P>, bytes: &mut [[[uint8x16_t; VECTORS]; P]; M]) {
    for (sums, bytes) in sums.iter_mut().flatten().flatten().zip(bytes.iter_mut().flatten().flatten()) {
        *sums = vpadalq_u16(*sums, vpaddlq_u8(*bytes));
        *bytes = vdupq_n_u8(0);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn shift<const M: usize, const P: usize>(sums: &mut Sums<M, P>, by: u32) {
    let by = vdupq_n_s32(by as i32);
    for sum in sums.iter_mut().flatten().flatten() {
        *sum = vshlq_u32(*sum, by);
    }
}

/// Brings the sums of `M` pixels from `pixel` on to where they are wanted.
///
/// # Safety
/// As [`run`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store<const M: usize, const P: usize>(sums: &Sums<M, P>, s: &Strip<'_>, target: &Target<'_>, pixel: usize) {
    // SAFETY: scales reach over all panels; only columns of the strip are written.
    unsafe {
        let mut scale = [[vdupq_n_f32(0.0); VECTORS]; P];
        for p in 0..P {
            for n in 0..VECTORS {
                scale[p][n] = vld1q_f32(s.scale.as_ptr().add(s.column + LANES * p + 4 * n));
            }
        }
        for m in 0..M {
            store_pixel(&sums[m], &scale, (s.columns - s.column).min(LANES * P), target, pixel + m);
        }
    }
}

/// Brings the sums of a pixel to where they are wanted: the first `columns` of its panels.
///
/// # Safety
/// The target may be written there.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store_pixel<const P: usize>(
    sums: &[[uint32x4_t; VECTORS]; P],
    scale: &[[float32x4_t; VECTORS]; P],
    columns: usize,
    target: &Target<'_>,
    pixel: usize,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        match target {
            Target::U8 { y, stride, to } => {
                for p in 0..P {
                    let bytes = narrow(&sums[p], &scale[p], to);
                    let y = y.add(pixel * stride).wrapping_add(LANES * p);
                    let count = columns.saturating_sub(LANES * p);
                    if count >= LANES {
                        vst1q_u8(y, bytes);
                    } else {
                        let mut whole = [0u8; LANES];
                        vst1q_u8(whole.as_mut_ptr(), bytes);
                        std::ptr::copy_nonoverlapping(whole.as_ptr(), y, count);
                    }
                }
            }
            Target::F32 { y, stride } => {
                let mut whole = [[[0f32; 4]; VECTORS]; P];
                for p in 0..P {
                    for n in 0..VECTORS {
                        let sum = vcvtq_f32_s32(vreinterpretq_s32_u32(sums[p][n]));
                        vst1q_f32(whole[p][n].as_mut_ptr(), vmulq_f32(sum, scale[p][n]));
                    }
                }
                std::ptr::copy_nonoverlapping(whole.as_ptr().cast(), y.add(pixel * stride), columns);
            }
            Target::Planes { y, stride, plane, planes, to } => {
                let mut codes = [vdupq_n_u8(0); 2];
                for p in 0..P {
                    codes[p] = narrow(&sums[p], &scale[p], to);
                }
                let mask = (u64::MAX >> (64 - columns)) as u32;
                for i in 0..*planes {
                    let bit = vdupq_n_u8(1 << i);
                    let word = word([vtstq_u8(codes[0], bit), vtstq_u8(codes[1], bit)]) & mask;
                    y.add(pixel * stride + i * plane).cast::<u32>().write_unaligned(word);
                }
            }
        }
    }
}

/// Sixteen columns of a pixel as bytes.
#[inline]
#[target_feature(enable = "neon")]
fn narrow(sums: &[uint32x4_t; VECTORS], scale: &[float32x4_t; VECTORS], to: &Requantize) -> uint8x16_t {
    let clamp = Clamp::new(to);
    let round = |n: usize| clamp.round(vreinterpretq_s32_u32(sums[n]), scale[n]);
    vcombine_u8(clamp.narrow(round(0), round(1)), clamp.narrow(round(2), round(3)))
}

/// One bit of each of 32 bytes, which are 0 or 255.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn word(bytes: [uint8x16_t; 2]) -> u32 {
    // Every byte of eight becomes its bit, and bits that are apart are added.
    let places = vcreate_u8(0x8040_2010_0804_0201);
    let places = vcombine_u8(places, places);
    let pairs = vpaddq_u8(vandq_u8(bytes[0], places), vandq_u8(bytes[1], places));
    let fours = vpaddq_u8(pairs, pairs);
    vgetq_lane_u32::<0>(vreinterpretq_u32_u8(vpaddq_u8(fours, fours)))
}

//! The kernel of WebAssembly: population counts of bytes, two pixels by eight columns.

use std::arch::wasm32::*;

use super::digits::LANES;
use super::strip::{Strip, Target};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::wasm::Clamp;

/// Vectors of sums of a panel, and of those that are computed at a time: not all runtimes have more than sixteen registers.
const VECTORS: usize = 4;
const HALF: usize = VECTORS / 2;
/// Pixels at a time.
const PIXELS: usize = 2;
/// Counts of at most eight that a byte can sum.
const ROUNDS: usize = 31;

/// Computes a strip.
///
/// # Safety
/// The strip has been checked; `target` may be written at the columns of the strip's panels, for each of its pixels.
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
/// `M` pixels from `pixel` on are inside the strip.
unsafe fn run<const M: usize, const TERNARY: bool>(s: &Strip<'_>, target: &Target<'_>, pixel: usize) {
    // SAFETY: all addresses are of `M` pixels and the strip's panels, by the caller's promise and the strip's check; only
    // columns of the strip are written.
    unsafe {
        let mut words = [[0u32; 4]; M];
        for panel in 0..s.panels() {
            let first = s.column + LANES * panel;
            let columns = (s.columns - first).min(LANES);
            let scale = [0, 4, 8, 12].map(|n| v128_load(s.scale.as_ptr().add(first + n).cast()));
            let halves = [sums::<M, TERNARY>(s, pixel, first, 0), sums::<M, TERNARY>(s, pixel, first, HALF)];
            for m in 0..M {
                let sums = [halves[0][m][0], halves[0][m][1], halves[1][m][0], halves[1][m][1]];
                store_panel(sums, scale, [panel, columns], target, pixel + m, &mut words[m]);
            }
        }
        for m in 0..M {
            store_words(&words[m], target, pixel + m);
        }
    }
}

/// Brings the sums of a pixel by a panel to where they are wanted, as many as there are columns; bits of planes to `words`.
///
/// # Safety
/// The target may be written there.
#[inline(always)]
pub(super) unsafe fn store_panel(
    sums: [v128; VECTORS],
    scale: [v128; VECTORS],
    [panel, columns]: [usize; 2],
    target: &Target<'_>,
    pixel: usize,
    words: &mut [u32; 4],
) {
    // SAFETY: by the caller's promise.
    unsafe {
        match target {
            Target::U8 { y, stride, to } => {
                let bytes = narrow(sums, scale, to);
                let y = y.add(pixel * stride + LANES * panel);
                if columns == LANES {
                    v128_store(y.cast(), bytes);
                } else {
                    let mut whole = [0u8; LANES];
                    v128_store(whole.as_mut_ptr().cast(), bytes);
                    std::ptr::copy_nonoverlapping(whole.as_ptr(), y, columns);
                }
            }
            Target::F32 { y, stride } => {
                let mut whole = [[0f32; 4]; VECTORS];
                for n in 0..VECTORS {
                    let value = f32x4_mul(f32x4_convert_i32x4(sums[n]), scale[n]);
                    v128_store(whole[n].as_mut_ptr().cast(), value);
                }
                let y = y.add(pixel * stride + LANES * panel);
                std::ptr::copy_nonoverlapping(whole.as_ptr().cast(), y, columns);
            }
            Target::Planes { planes, to, .. } => {
                let codes = narrow(sums, scale, to);
                let mask = (1u32 << columns) - 1;
                for (i, word) in words[..*planes].iter_mut().enumerate() {
                    let bits = u32::from(i8x16_bitmask(i16x8_shl(codes, 7 - i as u32)));
                    *word |= (bits & mask) << (LANES * panel);
                }
            }
        }
    }
}

/// Writes a pixel's word of every plane, where planes are wanted.
///
/// # Safety
/// The target may be written there.
#[inline(always)]
pub(super) unsafe fn store_words(words: &[u32; 4], target: &Target<'_>, pixel: usize) {
    if let Target::Planes { y, stride, plane, planes, .. } = target {
        for (i, word) in words[..*planes].iter().enumerate() {
            // SAFETY: two panels are one word of every plane.
            unsafe { y.add(pixel * stride + i * plane).cast::<u32>().write_unaligned(*word) };
        }
    }
}

/// Sums of `M` pixels by the columns of half a panel, bias included: those of its vectors from `vector` on.
///
/// # Safety
/// As [`run`]; `first` is the first column of one of the strip's panels.
#[inline]
unsafe fn sums<const M: usize, const TERNARY: bool>(
    s: &Strip<'_>,
    pixel: usize,
    first: usize,
    vector: usize,
) -> [[v128; HALF]; M] {
    // SAFETY: see `run`.
    unsafe {
        let zero = u8x16_splat(0);
        let mut sums = [[zero; HALF]; M];
        let d = s.digits;
        let panel = d.panel_words(first / LANES).add(4 * vector);
        let kinds = if TERNARY { 2 } else { 1 };
        let step = s.step;
        for pass in s.passes {
            shift(&mut sums, pass.shift);
            let mut weights = panel.add(pass.digit * d.digit_len());
            let start = s.x.as_ptr().add(s.start + pass.plane * s.plane + pixel * step);
            let mut bytes = [[zero; HALF]; M];
            let mut rounds = 0;
            for segment in s.segments {
                let mut x = start.add(*segment);
                let mut left = s.run;
                while left > 0 {
                    let some = left.min(ROUNDS - rounds);
                    for _ in 0..some {
                        for m in 0..M {
                            let bits = v128_load32_splat(x.add(m * step).cast());
                            for n in 0..HALF {
                                let mut counted = v128_xor(bits, v128_load(weights.add(4 * n).cast()));
                                if TERNARY {
                                    counted = v128_and(counted, v128_load(weights.add(LANES + 4 * n).cast()));
                                }
                                bytes[m][n] = u8x16_add(bytes[m][n], u8x16_popcnt(counted));
                            }
                        }
                        x = x.add(1);
                        weights = weights.add(LANES * kinds);
                    }
                    left -= some;
                    rounds += some;
                    if rounds == ROUNDS {
                        widen(&mut sums, &mut bytes);
                        rounds = 0;
                    }
                }
            }
            widen(&mut sums, &mut bytes);
        }
        shift(&mut sums, s.scale_shift);
        for m in 0..M {
            let bias = s.bias_of(pixel + m).add(first - s.column + 4 * vector);
            for n in 0..HALF {
                sums[m][n] = i32x4_add(sums[m][n], v128_load(bias.add(4 * n).cast()));
            }
        }
        sums
    }
}

/// Moves the counts of bytes into the sums.
#[inline(always)]
fn widen<const M: usize>(sums: &mut [[v128; HALF]; M], bytes: &mut [[v128; HALF]; M]) {
    for (sum, bytes) in sums.iter_mut().flatten().zip(bytes.iter_mut().flatten()) {
        *sum = i32x4_add(*sum, u32x4_extadd_pairwise_u16x8(u16x8_extadd_pairwise_u8x16(*bytes)));
        *bytes = u8x16_splat(0);
    }
}

#[inline(always)]
fn shift<const M: usize>(sums: &mut [[v128; HALF]; M], by: u32) {
    for sum in sums.iter_mut().flatten() {
        *sum = i32x4_shl(*sum, by);
    }
}

/// Sixteen columns of a pixel as bytes.
#[inline(always)]
fn narrow(sums: [v128; VECTORS], scale: [v128; VECTORS], to: &Requantize) -> v128 {
    let clamp = Clamp::new(to);
    clamp.narrow(std::array::from_fn(|n| clamp.round(sums[n], scale[n])))
}

//! The kernel with AVX-512 for weights of ±1 and windows three wide: the bits of three taps are added before they are
//! counted.
//!
//! For the differences `p`, `q` and `r` of three words a full adder gives one word of sums, `s = p ^ q ^ r`, and one of
//! carries, `c = majority(p, q, r)`, and `popcount(s) + 2·popcount(c)` takes two counts instead of three. The adder pays
//! because `s` needs no differences: it is the exclusive or of all three words of the pixels, computed once for a pixel
//! ([`super::planes::triples`]), and of all three of the weights. With `s`, `p` and `q` the carry is one more logic
//! operation. Eight instructions take the place of nine.

use std::arch::x86_64::*;

use super::avx512::{shift, store};
use super::strip::{Strip, Target};

/// Pixels of sums held in registers.
const PIXELS: usize = 8;

/// Computes a strip of triples.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ, VNNI, VPOPCNTDQ and BITALG; the strip has been checked, has digits of ±1
/// alone, and its windows are three wide; `target` may be written at the columns of the strip's panels,
/// for each of its pixels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vpopcntdq,avx512bitalg")]
pub(super) unsafe fn strip(s: &Strip<'_>, target: &Target<'_>) {
    let tiles = s.count.div_ceil(PIXELS);
    let mut pixel = 0;
    for tile in 0..tiles {
        let pixels = (s.count - pixel).div_ceil(tiles - tile);
        // SAFETY: `pixels` from `pixel` on lie inside the strip, and it has that many panels.
        unsafe {
            match s.panels() {
                2 => tile_of::<2>(s, target, pixel, pixels),
                _ => tile_of::<1>(s, target, pixel, pixels),
            }
        }
        pixel += pixels;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vpopcntdq,avx512bitalg")]
unsafe fn tile_of<const N: usize>(s: &Strip<'_>, target: &Target<'_>, pixel: usize, pixels: usize) {
    // SAFETY: by the caller's promise.
    unsafe {
        match pixels {
            8 => store(&sums::<8, N>(s, pixel), s, target, pixel),
            7 => store(&sums::<7, N>(s, pixel), s, target, pixel),
            6 => store(&sums::<6, N>(s, pixel), s, target, pixel),
            5 => store(&sums::<5, N>(s, pixel), s, target, pixel),
            4 => store(&sums::<4, N>(s, pixel), s, target, pixel),
            3 => store(&sums::<3, N>(s, pixel), s, target, pixel),
            2 => store(&sums::<2, N>(s, pixel), s, target, pixel),
            _ => store(&sums::<1, N>(s, pixel), s, target, pixel),
        }
    }
}

/// Sums of `M` pixels by `N` panels, bias included.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vpopcntdq,avx512bitalg")]
unsafe fn sums<const M: usize, const N: usize>(s: &Strip<'_>, pixel: usize) -> [[__m512i; N]; M] {
    // SAFETY: all addresses are of `M` pixels and `N` panels, by the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); N]; M];
        let panel_len = s.digits.panel_len();
        let first = s.digits.panel_words(s.column / 16);
        let two = _mm512_set1_epi8(2);
        let all = |x: *const u32| _mm512_set1_epi32(x.read() as i32);
        for pass in s.passes {
            if pass.shift > 0 {
                shift::<M, N>(&mut sums, pass.shift);
            }
            let start = s.x.as_ptr().add(s.start + pixel * s.step + pass.plane * s.plane);
            let mut weights = first.add(pass.digit * s.digits.digit_len());
            for segment in s.segments {
                let mut x = start.add(*segment);
                for _ in 0..s.run / 3 {
                    for m in 0..M {
                        let x = x.add(m * s.step);
                        let (p, q, t) = (all(x), all(x.add(1)), all(x.add(2)));
                        for n in 0..N {
                            let w = |i: usize| _mm512_load_si512(weights.add(n * panel_len + 16 * i).cast());
                            let (p, q, sum) =
                                (_mm512_xor_si512(p, w(0)), _mm512_xor_si512(q, w(1)), _mm512_xor_si512(t, w(2)));
                            // p where p and q agree, else what they and the sum leave for the third: not the sum.
                            let carry = _mm512_ternarylogic_epi32::<0xd4>(p, q, sum);
                            sums[m][n] = _mm512_add_epi32(sums[m][n], _mm512_popcnt_epi32(sum));
                            sums[m][n] = _mm512_dpbusd_epi32(sums[m][n], _mm512_popcnt_epi8(carry), two);
                        }
                    }
                    x = x.add(3);
                    weights = weights.add(48);
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

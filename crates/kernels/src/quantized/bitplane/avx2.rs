//! The kernel with AVX2: one pixel by sixteen columns. Words are added to each other bit by bit, and every fourth one is counted, by a table
//! of sixteen entries (as Muła, Kurz and Lemire, "Faster Population Counts Using AVX2 Instructions", 2018, do it).

use std::arch::x86_64::*;

use super::strip::{Strip, Target};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx2::Clamp;

/// Counts of at most eight that a byte can sum.
const ROUNDS: usize = 31;

/// Computes a strip.
///
/// # Safety
/// The machine has AVX2; the strip has been checked; `target` may be written at the columns of the strip's panels, for
/// each of its pixels.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn strip(s: &Strip<'_>, target: &Target<'_>) {
    for pixel in 0..s.count {
        // SAFETY: the pixel lies inside the strip.
        unsafe {
            if s.digits.ternary {
                run::<true>(s, target, pixel);
            } else {
                run::<false>(s, target, pixel);
            }
        }
    }
}

/// # Safety
/// `pixel` is inside the strip, and the machine has the instructions.
#[target_feature(enable = "avx2")]
unsafe fn run<const TERNARY: bool>(s: &Strip<'_>, target: &Target<'_>, pixel: usize) {
    // SAFETY: all addresses are of the pixel and the strip's panels, by the caller's promise and the strip's check.
    unsafe {
        let mut words = [0u32; 4];
        for panel in 0..s.panels() {
            let sums = sums::<TERNARY>(s, pixel, panel);
            let first = s.column + 16 * panel;
            let columns = (s.columns - first.min(s.columns)).min(16);
            let scale =
                [_mm256_loadu_ps(s.scale.as_ptr().add(first)), _mm256_loadu_ps(s.scale.as_ptr().add(first + 8))];
            match target {
                Target::U8 { y, stride, to } => {
                    let bytes = narrow(sums, scale, to);
                    let y = y.add(pixel * stride + 16 * panel);
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
                        let value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[n]), scale[n]);
                        let y = y.add(pixel * stride).wrapping_add(16 * panel + 8 * n);
                        _mm256_maskstore_ps(y, mask, value);
                    }
                }
                Target::Planes { planes, to, .. } => {
                    let codes = narrow(sums, scale, to);
                    let mask = (1u32 << columns) - 1;
                    for (i, word) in words[..*planes].iter_mut().enumerate() {
                        let bits = _mm_movemask_epi8(_mm_sll_epi16(codes, _mm_cvtsi32_si128(7 - i as i32))) as u32;
                        *word |= (bits & mask) << (16 * panel);
                    }
                }
            }
        }
        if let Target::Planes { y, stride, plane, planes, .. } = target {
            for (i, word) in words[..*planes].iter().enumerate() {
                y.add(pixel * stride + i * plane).cast::<u32>().write_unaligned(*word);
            }
        }
    }
}

/// Sums of a pixel by the columns of a panel, bias included.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sums<const TERNARY: bool>(s: &Strip<'_>, pixel: usize, panel: usize) -> [__m256i; 2] {
    // SAFETY: see `run`.
    unsafe {
        let mut sums = [_mm256_setzero_si256(); 2];
        let d = s.digits;
        let first = d.panel_words(s.column / 16 + panel);
        let kinds = if TERNARY { 2 } else { 1 };
        for pass in s.passes {
            if pass.shift > 0 {
                sums = shift(sums, pass.shift);
            }
            let mut weights = first.add(pass.digit * d.digit_len());
            let start = s.x.as_ptr().add(s.start + pass.plane * s.plane + pixel * s.step);
            let mut tally = Tally::new();
            for segment in s.segments {
                let mut x = start.add(*segment);
                for _ in 0..s.run / 2 {
                    let a = counted::<TERNARY>(x, weights);
                    let b = counted::<TERNARY>(x.add(1), weights.add(16 * kinds));
                    tally.add(a, b, &mut sums);
                    x = x.add(2);
                    weights = weights.add(32 * kinds);
                }
                if s.run % 2 == 1 {
                    tally.add(counted::<TERNARY>(x, weights), [_mm256_setzero_si256(); 2], &mut sums);
                    weights = weights.add(16 * kinds);
                }
            }
            tally.finish(&mut sums);
        }
        if s.scale_shift > 0 {
            sums = shift(sums, s.scale_shift);
        }
        let bias = s.bias_of(pixel).add(16 * panel);
        for n in 0..2 {
            sums[n] = _mm256_add_epi32(sums[n], _mm256_loadu_si256(bias.add(8 * n).cast()));
        }
        sums
    }
}

/// The bits to be counted of a word of a pixel, for sixteen columns.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn counted<const TERNARY: bool>(x: *const u32, weights: *const u32) -> [__m256i; 2] {
    // SAFETY: both are inside the strip, by the caller's promise; weights are aligned.
    unsafe {
        let bits = _mm256_set1_epi32(x.read() as i32);
        let of = |n: usize| {
            let differ = _mm256_xor_si256(bits, _mm256_load_si256(weights.add(8 * n).cast()));
            if TERNARY { _mm256_and_si256(differ, _mm256_load_si256(weights.add(16 + 8 * n).cast())) } else { differ }
        };
        [of(0), of(1)]
    }
}

/// Ones of many words at every position of a byte, for sixteen columns: those left of the sums of bits, and counts of fours.
struct Tally {
    ones: [__m256i; 2],
    twos: [__m256i; 2],
    /// Twos of a pair whose other pair is still to come.
    pending: [__m256i; 2],
    paired: bool,
    /// Counts of fours in bytes, and how many were added.
    bytes: [__m256i; 2],
    rounds: usize,
}

impl Tally {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new() -> Tally {
        let zero = [_mm256_setzero_si256(); 2];
        Tally { ones: zero, twos: zero, pending: zero, paired: true, bytes: zero, rounds: 0 }
    }

    /// Adds two words; `sums` takes over what bytes cannot hold.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(&mut self, a: [__m256i; 2], b: [__m256i; 2], sums: &mut [__m256i; 2]) {
        let mut carries = [_mm256_setzero_si256(); 2];
        for n in 0..2 {
            (self.ones[n], carries[n]) = add_bits(self.ones[n], a[n], b[n]);
        }
        if self.paired {
            (self.pending, self.paired) = (carries, false);
            return;
        }
        self.paired = true;
        for n in 0..2 {
            let fours;
            (self.twos[n], fours) = add_bits(self.twos[n], self.pending[n], carries[n]);
            self.bytes[n] = _mm256_add_epi8(self.bytes[n], count(fours));
        }
        self.rounds += 1;
        if self.rounds == ROUNDS {
            self.flush(sums);
        }
    }

    /// Moves the counts of fours into the sums.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn flush(&mut self, sums: &mut [__m256i; 2]) {
        for n in 0..2 {
            sums[n] = _mm256_add_epi32(sums[n], _mm256_slli_epi32::<2>(widen(self.bytes[n])));
            self.bytes[n] = _mm256_setzero_si256();
        }
        self.rounds = 0;
    }

    /// Moves all that is left into the sums.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn finish(mut self, sums: &mut [__m256i; 2]) {
        self.flush(sums);
        for n in 0..2 {
            let mut twos = count(self.twos[n]);
            if !self.paired {
                twos = _mm256_add_epi8(twos, count(self.pending[n]));
            }
            // At most 8 ones and 16 twos.
            let left = _mm256_add_epi8(count(self.ones[n]), _mm256_add_epi8(twos, twos));
            sums[n] = _mm256_add_epi32(sums[n], widen(left));
        }
    }
}

/// Sum and carry of three bits, at every position.
#[inline]
#[target_feature(enable = "avx2")]
fn add_bits(a: __m256i, b: __m256i, c: __m256i) -> (__m256i, __m256i) {
    let differ = _mm256_xor_si256(b, c);
    let carry = _mm256_or_si256(_mm256_and_si256(b, c), _mm256_and_si256(differ, a));
    (_mm256_xor_si256(differ, a), carry)
}

/// Ones of every byte.
#[inline]
#[target_feature(enable = "avx2")]
fn count(bits: __m256i) -> __m256i {
    let low = _mm256_set1_epi8(15);
    let counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bits), low);
    _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(bits, low)), _mm256_shuffle_epi8(counts, high))
}

/// Sums of four neighbouring bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(bytes: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

#[inline]
#[target_feature(enable = "avx2")]
fn shift(sums: [__m256i; 2], by: u32) -> [__m256i; 2] {
    let by = _mm_cvtsi32_si128(by as i32);
    [_mm256_sll_epi32(sums[0], by), _mm256_sll_epi32(sums[1], by)]
}

/// Sixteen columns of a pixel as bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(sums: [__m256i; 2], scale: [__m256; 2], to: &Requantize) -> __m128i {
    let clamp = Clamp::new(to);
    let values = [clamp.round(sums[0], scale[0]), clamp.round(sums[1], scale[1])];
    _mm256_castsi256_si128(clamp.narrow([values[0], values[1], values[0], values[1]]))
}

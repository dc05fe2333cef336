//! The products in AVX-512 with VNNI, which multiplies unsigned bytes by signed ones: keys and values are packed less 128, and what that
//! changes is added to the sums.
//!
//! `Σ (q − z)(k − y) = Σ q (k − 128) + (128 − y) Σ q − z Σ (k − y)`

use std::arch::x86_64::*;

pub(in crate::quantized) use super::LANES;
use super::{Padded, Place, QAttention, Scratch};
use crate::quantized::epilogue::Requantize;

/// Rows of a block of sums.
const ROWS: usize = 4;

/// Puts four values of a key in a word, words of the keys side by side: `[size / 4, keys]`; and a column's values of four keys in a
/// word: `[keys / 4, value size]`. Sums for each key and for each column are weighted and ready to be added.
///
/// # Safety
/// The machine must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pack(a: &QAttention, padded: Padded, keys: &[u8], values: &[u8], scratch: &mut Scratch<'_>) {
    let heads = &a.heads;
    let [q_zero, k_zero, v_zero] = a.zeros.map(i32::from);
    let words: &mut [u32] = bytemuck::cast_slice_mut(&mut scratch.keys[..padded.keys * padded.size]);
    for j in 0..padded.keys {
        let mut sum = 0;
        if j < heads.keys {
            let key = &keys[j * heads.k.row..][..heads.size];
            sum = key.iter().map(|k| i32::from(*k)).sum::<i32>() - heads.size as i32 * k_zero;
            let mut parts = key.chunks_exact(4);
            for (c, part) in (&mut parts).enumerate() {
                let word = u32::from_le_bytes([part[0], part[1], part[2], part[3]]);
                words[c * padded.keys + j] = word ^ 0x8080_8080;
            }
            if !parts.remainder().is_empty() {
                let mut part = [0; 4];
                part[..parts.remainder().len()].copy_from_slice(parts.remainder());
                words[heads.size / 4 * padded.keys + j] = u32::from_le_bytes(part) ^ 0x8080_8080;
            }
        } else {
            (0..padded.size / 4).for_each(|c| words[c * padded.keys + j] = 0);
        }
        scratch.key_sums[j] = -q_zero * sum;
    }
    let words: &mut [u32] = bytemuck::cast_slice_mut(&mut scratch.values[..padded.keys * padded.value_size]);
    let sums = &mut scratch.value_sums[..padded.value_size];
    let zeros = (v_zero, i32::from(a.weights.zero));
    pack_lines(values, heads.v.row, (heads.keys, heads.value_size), zeros, words, sums);
}

/// Packs `depth` lines of `width` bytes, `stride` apart, whose zero is `zeros.0`: words of four lines, less 128, zeros behind the last. To
/// the sums of columns less zero `sums` is set, times `−zeros.1`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(in crate::quantized) fn pack_lines(
    lines: &[u8],
    stride: usize,
    (depth, width): (usize, usize),
    (zero, other): (i32, i32),
    words: &mut [u32],
    sums: &mut [i32],
) {
    sums.fill(0);
    for (group, words) in words.chunks_exact_mut(sums.len()).enumerate() {
        // What stands for lines that do not exist is multiplied by zeros.
        let line = |i: usize| {
            let i = 4 * group + i;
            if i < depth { &lines[i * stride..][..width] } else { &[] }
        };
        let four = [line(0), line(1), line(2), line(3)];
        for (block, (words, sums)) in words.chunks_exact_mut(LANES).zip(sums.chunks_exact_mut(LANES)).enumerate() {
            let at = block * LANES;
            let count = LANES.min(width - at.min(width));
            let mask = ((1u32 << count) - 1) as __mmask16;
            let mut bytes = [_mm_setzero_si128(); 4];
            let mut total = _mm512_setzero_si512();
            for (byte, line) in bytes.iter_mut().zip(four) {
                if line.is_empty() {
                    continue;
                }
                // SAFETY: only the lanes of the mask are read, and the line has that many from here.
                *byte = unsafe { _mm_maskz_loadu_epi8(mask, line.as_ptr().add(at).cast()) };
                let real = _mm512_sub_epi32(_mm512_cvtepu8_epi32(*byte), _mm512_set1_epi32(zero));
                total = _mm512_add_epi32(total, _mm512_maskz_mov_epi32(mask, real));
                *byte = _mm_xor_si128(*byte, _mm_set1_epi8(-128));
            }
            let (low01, high01) = (_mm_unpacklo_epi8(bytes[0], bytes[1]), _mm_unpackhi_epi8(bytes[0], bytes[1]));
            let (low23, high23) = (_mm_unpacklo_epi8(bytes[2], bytes[3]), _mm_unpackhi_epi8(bytes[2], bytes[3]));
            let quarters = [
                _mm_unpacklo_epi16(low01, low23),
                _mm_unpackhi_epi16(low01, low23),
                _mm_unpacklo_epi16(high01, high23),
                _mm_unpackhi_epi16(high01, high23),
            ];
            for (to, from) in words.chunks_exact_mut(4).zip(quarters) {
                // SAFETY: four words are writable.
                unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), from) };
            }
            // SAFETY: sixteen sums are readable and writable.
            unsafe {
                let before = _mm512_loadu_si512(sums.as_ptr().cast());
                let share = _mm512_mullo_epi32(total, _mm512_set1_epi32(-other));
                _mm512_storeu_si512(sums.as_mut_ptr().cast(), _mm512_add_epi32(before, share));
            }
        }
    }
}

/// `Σ left · right` for `R` rows of stored bytes and `NV` vectors of words, added to what each column starts with.
///
/// # Safety
/// `left` must be `R` rows `left_stride` bytes apart with `steps` words each, `right` `steps` lines `right_stride` words apart with
/// `NV` vectors each, and `starts` `NV` vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(in crate::quantized) unsafe fn sums<const R: usize, const NV: usize>(
    left: *const u8,
    left_stride: usize,
    right: *const u32,
    right_stride: usize,
    steps: usize,
    starts: *const i32,
) -> [[__m512i; NV]; R] {
    let mut all = [[_mm512_setzero_si512(); NV]; R];
    for n in 0..NV {
        // SAFETY: promised by the caller.
        let start = unsafe { _mm512_loadu_si512(starts.add(n * LANES).cast()) };
        for row in &mut all {
            row[n] = start;
        }
    }
    for step in 0..steps {
        let mut words = [_mm512_setzero_si512(); NV];
        for (n, word) in words.iter_mut().enumerate() {
            // SAFETY: as above.
            *word = unsafe { _mm512_loadu_si512(right.add(step * right_stride + n * LANES).cast()) };
        }
        for (i, row) in all.iter_mut().enumerate() {
            // SAFETY: as above.
            let four = unsafe { left.add(i * left_stride + 4 * step).cast::<i32>().read_unaligned() };
            let four = _mm512_set1_epi32(four);
            for (sum, word) in row.iter_mut().zip(words) {
                *sum = _mm512_dpbusd_epi32(*sum, four, word);
            }
        }
    }
    all
}

/// Sums of products of a block of queries and all keys, as floats.
///
/// # Safety
/// The machine must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn scores(a: &QAttention, padded: Padded, count: usize, scratch: &mut Scratch<'_>) {
    let shift = 128 - i32::from(a.zeros[1]);
    let words: &[u32] = bytemuck::cast_slice(scratch.keys);
    let words = &words[..padded.keys * padded.size / 4];
    let starts = &scratch.key_sums[..padded.keys];
    for first in (0..count).step_by(ROWS) {
        let queries = &scratch.queries[first * padded.size..(first + ROWS) * padded.size];
        let mut shifts = [_mm512_setzero_si512(); ROWS];
        for (query, to) in queries.chunks_exact(padded.size).zip(&mut shifts) {
            *to = _mm512_set1_epi32(shift * query.iter().map(|q| i32::from(*q)).sum::<i32>());
        }
        let out = &mut scratch.scores[first * padded.keys..(first + ROWS) * padded.keys];
        let mut at = 0;
        while at < padded.keys {
            macro_rules! columns {
                ($n:literal) => {{
                    // SAFETY: the operands were cut to whole rows and lines above, and `$n` vectors are left of each.
                    let all = unsafe {
                        sums::<ROWS, $n>(
                            queries.as_ptr(),
                            padded.size,
                            words[at..].as_ptr(),
                            padded.keys,
                            padded.size / 4,
                            starts[at..].as_ptr(),
                        )
                    };
                    for (i, (row, shift)) in all.into_iter().zip(shifts).enumerate() {
                        for (n, sum) in row.into_iter().enumerate() {
                            let to = &mut out[i * padded.keys + at + n * LANES..][..LANES];
                            let real = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, shift));
                            // SAFETY: sixteen floats are writable.
                            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), real) };
                        }
                    }
                    at += $n * LANES;
                }};
            }
            if padded.keys - at >= 4 * LANES { columns!(4) } else { columns!(1) }
        }
    }
}

/// Results of a block of queries.
///
/// # Safety
/// The machine must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn results(a: &QAttention, padded: Padded, count: usize, scratch: &Scratch<'_>, place: &Place<'_>) {
    let shift = 128 - i32::from(a.zeros[2]);
    let words: &[u32] = bytemuck::cast_slice(scratch.values);
    let words = &words[..padded.keys * padded.value_size / 4];
    let starts = &scratch.value_sums[..padded.value_size];
    let to = &a.output;
    for first in (0..count).step_by(ROWS) {
        let weights = &scratch.weights[first * padded.keys..(first + ROWS) * padded.keys];
        let rows = ROWS.min(count - first);
        let mut at = 0;
        while at < padded.value_size {
            macro_rules! columns {
                ($n:literal) => {{
                    // SAFETY: the operands were cut to whole rows and lines above, and `$n` vectors are left of each.
                    let all = unsafe {
                        sums::<ROWS, $n>(
                            weights.as_ptr(),
                            padded.keys,
                            words[at..].as_ptr(),
                            padded.value_size,
                            padded.keys / 4,
                            starts[at..].as_ptr(),
                        )
                    };
                    for (i, row) in all.into_iter().take(rows).enumerate() {
                        let shift = _mm512_set1_epi32(shift * scratch.row_sums[first + i]);
                        let y = place.row(first + i, a.heads.value_size);
                        for (n, sum) in row.into_iter().enumerate() {
                            let from = (at + n * LANES).min(y.len());
                            let end = (from + LANES).min(y.len());
                            store(to, _mm512_add_epi32(sum, shift), &mut y[from..end]);
                        }
                    }
                    at += $n * LANES;
                }};
            }
            if padded.value_size - at >= 2 * LANES { columns!(2) } else { columns!(1) }
        }
    }
}

/// Requantizes sums and stores as many as there is room for, at most sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store(to: &Requantize, sums: __m512i, y: &mut [u8]) {
    let real = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(to.scale[0]));
    // The bounds are whole numbers, so limiting before rounding is the same, and what is limited fits an integer.
    let (zero, lo, hi) = (f32::from(to.zero), f32::from(to.lo), f32::from(to.hi));
    let real = _mm512_max_ps(_mm512_min_ps(real, _mm512_set1_ps(hi - zero)), _mm512_set1_ps(lo - zero));
    let whole = _mm512_add_epi32(_mm512_cvtps_epi32(real), _mm512_set1_epi32(i32::from(to.zero)));
    let mask = ((1u32 << y.len()) - 1) as __mmask16;
    // SAFETY: only the lanes of the mask are written, as many as the slice has.
    unsafe { _mm_mask_storeu_epi8(y.as_mut_ptr().cast(), mask, _mm512_cvtepi32_epi8(whole)) };
    if let Some(table) = &to.table {
        y.iter_mut().for_each(|y| *y = table[usize::from(*y)]);
    }
}

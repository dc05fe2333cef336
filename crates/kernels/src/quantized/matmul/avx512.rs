//! Products of bytes by bytes in AVX-512 with VNNI: the right side is packed into words of four steps, less 128, as attention packs
//! values.

use std::arch::x86_64::*;

use super::{Part, QMatMul};
use crate::quantized::attention::avx512::{LANES, pack_lines, sums};
use crate::quantized::epilogue::{Epilogue, Requantize};

/// Words and sums of a packed right side.
pub(super) fn packed_len(depth: usize, columns: usize) -> (usize, usize) {
    let columns = columns.next_multiple_of(LANES);
    (depth.div_ceil(4) * columns, columns)
}

/// Multiplies rows of one product.
///
/// # Safety
/// The machine must have the instructions; `depth` must be a multiple of four, and the lengths be those of the product.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(p: &QMatMul, a: &[u8], b: &[u8], packed: &mut [u32], mut y: Part<'_>) {
    let QMatMul { depth, columns, a_zero, b_zero, .. } = *p;
    let (words, padded) = packed_len(depth, columns);
    let (words, rest) = packed.split_at_mut(words);
    let starts: &mut [i32] = bytemuck::cast_slice_mut(&mut rest[..padded]);
    pack_lines(b, columns, (depth, columns), (i32::from(b_zero), i32::from(a_zero)), words, starts);
    let shift = 128 - i32::from(b_zero);
    let rows = a.len() / depth;
    let mut row = 0;
    while row < rows {
        macro_rules! block {
            ($r:literal, $n:literal, $at:expr) => {{
                let left = &a[row * depth..(row + $r) * depth];
                // SAFETY: the operands were cut to whole rows and lines, and `$n` vectors are left of each.
                let all = unsafe {
                    sums::<$r, $n>(
                        left.as_ptr(),
                        depth,
                        words[$at..].as_ptr(),
                        padded,
                        depth / 4,
                        starts[$at..].as_ptr(),
                    )
                };
                for (i, (line, left)) in all.into_iter().zip(left.chunks_exact(depth)).enumerate() {
                    let total: i32 = left.iter().map(|a| i32::from(*a)).sum();
                    let shift = _mm512_set1_epi32(shift * total);
                    for (n, sum) in line.into_iter().enumerate() {
                        let column = $at + n * LANES;
                        let count = LANES.min(columns - column.min(columns));
                        finish(
                            p,
                            &mut y,
                            (row + i) * columns + column.min(columns),
                            column,
                            count,
                            _mm512_add_epi32(sum, shift),
                        );
                    }
                }
            }};
        }
        let four = rows - row >= 4;
        let mut at = 0;
        while at < padded {
            let wide = padded - at >= 4 * LANES;
            match (four, wide) {
                (true, true) => block!(4, 4, at),
                (true, false) => block!(4, 1, at),
                (false, true) => block!(1, 4, at),
                (false, false) => block!(1, 1, at),
            }
            at += if wide { 4 * LANES } else { LANES };
        }
        row += if four { 4 } else { 1 };
    }
}

/// Stores `count` results from place `at` on, those of column `column` and what follows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn finish(p: &QMatMul, y: &mut Part<'_>, at: usize, column: usize, count: usize, sums: __m512i) {
    let mask = ((1u32 << count) - 1) as __mmask16;
    let scale = &p.epilogue.scale()[column.min(p.columns)..][..count];
    // SAFETY: only the lanes of the mask are read, as many as the slice has.
    let scale = unsafe { _mm512_maskz_loadu_ps(mask, scale.as_ptr()) };
    let real = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale);
    match (&p.epilogue, y) {
        (Epilogue::Requantize(to), Part::U8(y)) => store(to, real, &mut y[at..at + count]),
        (Epilogue::Dequantize { .. }, Part::F32(y)) => {
            let y = &mut y[at..at + count];
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, real) };
        }
        _ => unreachable!("the output was checked against the epilogue"),
    }
}

/// Rounds scaled sums and stores as many as there is room for, at most sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store(to: &Requantize, real: __m512, y: &mut [u8]) {
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

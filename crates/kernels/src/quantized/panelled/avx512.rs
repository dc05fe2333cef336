//! What follows the sums of a tile with AVX-512.

use std::arch::x86_64::*;

use crate::quantized::epilogue::avx512::Clamp;

/// Writes `columns` bytes of each row from rounded sums.
///
/// # Safety
/// The machine has the instructions, and `y` may be written at the columns of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::quantized) unsafe fn store_bytes<const M: usize, const N: usize>(
    values: &[[__m512i; N]; M],
    clamp: &Clamp,
    y: *mut u8,
    stride: usize,
    columns: usize,
) {
    let mask = u64::MAX >> (64 - columns);
    let rows = 4 / N;
    for first in (0..M).step_by(rows) {
        let mut four = [_mm512_setzero_si512(); 4];
        for (i, value) in four.iter_mut().enumerate() {
            *value = values[(first + i / N).min(M - 1)][i % N];
        }
        // SAFETY: this is compiled for the instructions.
        let bytes = unsafe { clamp.narrow(four) };
        for i in 0..rows.min(M - first) {
            // A row's bytes come down to the front.
            let row = match (N, i) {
                (_, 0) => bytes,
                (2, _) => _mm512_shuffle_i64x2::<0b1110>(bytes, bytes),
                (_, 1) => _mm512_shuffle_i64x2::<0b01>(bytes, bytes),
                (_, 2) => _mm512_shuffle_i64x2::<0b10>(bytes, bytes),
                (_, _) => _mm512_shuffle_i64x2::<0b11>(bytes, bytes),
            };
            // SAFETY: masked stores write only the block's columns.
            unsafe { _mm512_mask_storeu_epi8(y.add((first + i) * stride).cast(), mask, row) };
        }
    }
}

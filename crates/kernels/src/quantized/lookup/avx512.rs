//! 64 lookups at a time: the table fills four registers and two permutations search half of it each.

use std::arch::x86_64::*;

/// Replaces every value by its entry in the table.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn in_place(table: &[u8; 256], values: &mut [u8]) {
    // SAFETY: the loads cover the table's 256 bytes.
    let t: [__m512i; 4] =
        std::array::from_fn(|quarter| unsafe { _mm512_loadu_si512(table.as_ptr().add(64 * quarter).cast()) });
    let find = |x: __m512i| {
        let low = _mm512_permutex2var_epi8(t[0], x, t[1]);
        let high = _mm512_permutex2var_epi8(t[2], x, t[3]);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high)
    };
    let (whole, rest) = values.as_chunks_mut::<64>();
    for piece in whole {
        let address = piece.as_mut_ptr();
        // SAFETY: a piece holds 64 bytes.
        unsafe {
            let x = _mm512_loadu_si512(address.cast());
            _mm512_storeu_si512(address.cast(), find(x));
        }
    }
    if !rest.is_empty() {
        let mask = (1u64 << rest.len()) - 1;
        // SAFETY: the mask keeps the load and the store inside the rest.
        unsafe {
            let x = _mm512_maskz_loadu_epi8(mask, rest.as_ptr().cast());
            _mm512_mask_storeu_epi8(rest.as_mut_ptr().cast(), mask, find(x));
        }
    }
}

//! 64 lookups at a time: the table fills four registers and two permutations search half of it each.

use std::arch::x86_64::*;

/// A table in four registers.
pub(in crate::quantized) struct Table([__m512i; 4]);

impl Table {
    /// # Safety
    /// The machine has AVX-512 F.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn load(table: &[u8; 256]) -> Table {
        // SAFETY: by the caller's promise; the loads cover the table's 256 bytes.
        Table(std::array::from_fn(|quarter| unsafe { _mm512_loadu_si512(table.as_ptr().add(64 * quarter).cast()) }))
    }

    /// The entries of 64 values.
    ///
    /// # Safety
    /// The machine has VBMI. Kernels that it becomes part of are compiled for machines without it as well.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::quantized) unsafe fn find(&self, x: __m512i) -> __m512i {
        let [first, second, third, fourth] = self.0;
        let (mut low, mut high) = (x, x);
        // SAFETY: by the caller's promise; registers are all that is touched.
        unsafe {
            std::arch::asm!(
                "vpermi2b {low}, {first}, {second}",
                "vpermi2b {high}, {third}, {fourth}",
                low = inout(zmm_reg) low, high = inout(zmm_reg) high,
                first = in(zmm_reg) first, second = in(zmm_reg) second,
                third = in(zmm_reg) third, fourth = in(zmm_reg) fourth,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high)
    }
}

/// Replaces every value by its entry in the table.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn in_place(table: &[u8; 256], values: &mut [u8]) {
    // SAFETY: this function is compiled for AVX-512.
    let table = unsafe { Table::load(table) };
    // SAFETY: this function is compiled for VBMI.
    let find = |x: __m512i| unsafe { table.find(x) };
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

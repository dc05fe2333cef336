//! Requantization of whole 512-bit registers.

use std::arch::x86_64::*;

use super::Requantize;

/// The constants of a requantization in registers.
pub(in crate::quantized) struct Clamp {
    top: __m512,
    zero: __m512i,
    lo: __m512i,
    order: __m512i,
}

impl Clamp {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::quantized) fn new(to: &Requantize) -> Clamp {
        Clamp {
            top: _mm512_set1_ps(f32::from(to.hi) - f32::from(to.zero)),
            zero: _mm512_set1_epi16(i16::from(to.zero)),
            lo: _mm512_set1_epi8(to.lo as i8),
            order: _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        }
    }

    /// `rint(f32(sum) ⊗ scale)`, at most `hi − zero`. Below, the conversion gives the least integer for whatever
    /// it cannot hold, which the narrowing turns into `lo`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::quantized) fn round(&self, sum: __m512i, scale: __m512) -> __m512i {
        let real = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
        _mm512_cvtps_epi32(_mm512_min_ps(real, self.top))
    }

    /// Adds the zero and narrows four vectors to bytes, lane by lane: 16 bytes of a lane are the lane's four
    /// values of each vector in turn.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::quantized) fn narrow_lanes(&self, values: [__m512i; 4]) -> __m512i {
        let low = _mm512_adds_epi16(_mm512_packs_epi32(values[0], values[1]), self.zero);
        let high = _mm512_adds_epi16(_mm512_packs_epi32(values[2], values[3]), self.zero);
        _mm512_max_epu8(_mm512_packus_epi16(low, high), self.lo)
    }

    /// Adds the zero and narrows four vectors to bytes, one vector after the other.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::quantized) fn narrow(&self, values: [__m512i; 4]) -> __m512i {
        let bytes = self.narrow_lanes(values);
        _mm512_permutexvar_epi32(self.order, bytes)
    }
}

//! Requantization of whole 256-bit registers.

use std::arch::x86_64::*;

use super::Requantize;

/// The constants of a requantization in registers.
pub(in crate::quantized) struct Clamp {
    top: __m256,
    zero: __m256i,
    lo: __m256i,
    order: __m256i,
}

impl Clamp {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::quantized) fn new(to: &Requantize) -> Clamp {
        Clamp {
            top: _mm256_set1_ps(f32::from(to.hi) - f32::from(to.zero)),
            zero: _mm256_set1_epi16(i16::from(to.zero)),
            lo: _mm256_set1_epi8(to.lo as i8),
            order: _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7),
        }
    }

    /// `rint(f32(sum) ⊗ scale)`, at most `hi − zero`. Below, the conversion gives the least integer for whatever
    /// it cannot hold, which the narrowing turns into `lo`.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::quantized) fn round(&self, sum: __m256i, scale: __m256) -> __m256i {
        let real = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale);
        _mm256_cvtps_epi32(_mm256_min_ps(real, self.top))
    }

    /// Adds the zero and narrows four vectors to bytes, lane by lane: 16 bytes of a lane are the lane's four
    /// values of each vector in turn.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::quantized) fn narrow_lanes(&self, values: [__m256i; 4]) -> __m256i {
        let low = _mm256_adds_epi16(_mm256_packs_epi32(values[0], values[1]), self.zero);
        let high = _mm256_adds_epi16(_mm256_packs_epi32(values[2], values[3]), self.zero);
        _mm256_max_epu8(_mm256_packus_epi16(low, high), self.lo)
    }

    /// Adds the zero and narrows four vectors to bytes, one vector after the other.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::quantized) fn narrow(&self, values: [__m256i; 4]) -> __m256i {
        let bytes = self.narrow_lanes(values);
        _mm256_permutevar8x32_epi32(bytes, self.order)
    }
}

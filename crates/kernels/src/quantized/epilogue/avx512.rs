//! Requantization of whole 512-bit registers.

use std::arch::x86_64::*;

use super::{Clip, Requantize};
use crate::quantized::elementwise::{QAdd, QPRelu};

/// Where [`Requantize::saturates`].
///
/// Like everything here that is part of a loop these functions must become part of their caller, which is compiled for the
/// instructions: a call would carry its registers through memory.
pub(in crate::quantized) mod saturate {
    use std::arch::x86_64::*;

    /// `rint(f32(sum) ⊗ scale)`.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn round(sum: __m512i, scale: __m512) -> __m512i {
        // SAFETY: by the caller's promise.
        unsafe { _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale)) }
    }

    /// Narrows four vectors to bytes, lane by lane; see [`super::Clamp::narrow_lanes`].
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn narrow_lanes(values: [__m512i; 4]) -> __m512i {
        // SAFETY: by the caller's promise.
        unsafe {
            let (low, high) = (_mm512_packs_epi32(values[0], values[1]), _mm512_packs_epi32(values[2], values[3]));
            _mm512_packus_epi16(low, high)
        }
    }

    /// Narrows four vectors to bytes, one vector after the other.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn narrow(values: [__m512i; 4]) -> __m512i {
        // SAFETY: by the caller's promise.
        unsafe { super::in_order(narrow_lanes(values)) }
    }
}

/// Four bytes of each of four vectors, lane by lane, as one vector after the other.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
pub(in crate::quantized) unsafe fn in_order(bytes: __m512i) -> __m512i {
    // SAFETY: by the caller's promise.
    unsafe {
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_permutexvar_epi32(order, bytes)
    }
}

/// The constants of a requantization in registers.
pub(in crate::quantized) struct Clamp {
    top: __m512,
    zero: __m512i,
    lo: __m512i,
}

impl Clamp {
    /// # Safety
    /// The machine has AVX-512 F and BW; so for the others.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn new(to: &Requantize) -> Clamp {
        // SAFETY: by the caller's promise.
        unsafe { Clamp::of(Clip { zero: to.zero, lo: to.lo, hi: to.hi }) }
    }

    #[inline(always)]
    pub(in crate::quantized) unsafe fn of(to: Clip) -> Clamp {
        // SAFETY: by the caller's promise.
        unsafe {
            Clamp {
                top: _mm512_set1_ps(f32::from(to.hi) - f32::from(to.zero)),
                zero: _mm512_set1_epi16(i16::from(to.zero)),
                lo: _mm512_set1_epi8(to.lo as i8),
            }
        }
    }

    /// `rint(f32(sum) ⊗ scale)`, at most `hi − zero`. Below, the conversion gives the least integer for whatever
    /// it cannot hold, which the narrowing turns into `lo`.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn round(&self, sum: __m512i, scale: __m512) -> __m512i {
        // SAFETY: by the caller's promise.
        unsafe {
            let real = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
            _mm512_cvtps_epi32(_mm512_min_ps(real, self.top))
        }
    }

    /// Adds the zero and narrows four vectors to bytes, lane by lane: 16 bytes of a lane are the lane's four
    /// values of each vector in turn.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn narrow_lanes(&self, values: [__m512i; 4]) -> __m512i {
        // SAFETY: by the caller's promise.
        unsafe {
            let low = _mm512_adds_epi16(_mm512_packs_epi32(values[0], values[1]), self.zero);
            let high = _mm512_adds_epi16(_mm512_packs_epi32(values[2], values[3]), self.zero);
            _mm512_max_epu8(_mm512_packus_epi16(low, high), self.lo)
        }
    }

    /// Adds the zero and narrows four vectors to bytes, one vector after the other.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn narrow(&self, values: [__m512i; 4]) -> __m512i {
        // SAFETY: by the caller's promise.
        unsafe { in_order(self.narrow_lanes(values)) }
    }
}

/// The constants of a PReLU in registers.
pub(in crate::quantized) struct Bend {
    /// The least value that its input is clamped to, less the zero.
    lo: __m512i,
    above: __m512,
    /// Of its results.
    pub(in crate::quantized) clamp: Clamp,
}

impl Bend {
    /// `to` is what its input is requantized with.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW; so for `apply`.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn new(to: &Requantize, prelu: &QPRelu) -> Bend {
        // SAFETY: by the caller's promise.
        unsafe {
            Bend {
                lo: _mm512_set1_epi32(i32::from(to.lo) - i32::from(to.zero)),
                above: _mm512_set1_ps(prelu.above),
                clamp: Clamp::of(prelu.clip),
            }
        }
    }

    /// Of what [`Clamp::round`] gave, what goes to the narrowing of `clamp`.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn apply(&self, value: __m512i, below: __m512) -> __m512i {
        // SAFETY: by the caller's promise.
        unsafe {
            let value = _mm512_max_epi32(value, self.lo);
            let negative = _mm512_cmplt_epi32_mask(value, _mm512_setzero_si512());
            let factor = _mm512_mask_blend_ps(negative, self.above, below);
            self.clamp.round(value, factor)
        }
    }
}

/// The constants of an addition in registers.
pub(in crate::quantized) struct Sum {
    /// `m_a` and `m_b` side by side.
    factors: __m512i,
    /// `−a_zero·m_a − b_zero·m_b`.
    start: __m512i,
    scale: __m512,
    clamp: Clamp,
}

impl Sum {
    /// # Safety
    /// The machine has AVX-512 F, BW and VNNI; so for `apply`.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn new(add: &QAdd) -> Sum {
        let QAdd { a_zero, b_zero, m_a, m_b, scale, clip } = *add;
        // SAFETY: by the caller's promise.
        unsafe {
            Sum {
                factors: _mm512_set1_epi32(m_b << 16 | m_a),
                start: _mm512_set1_epi32(-(i32::from(a_zero) * m_a + i32::from(b_zero) * m_b)),
                scale: _mm512_set1_ps(scale),
                clamp: Clamp::of(clip),
            }
        }
    }

    /// The sums of 64 pairs of stored values.
    #[inline(always)]
    pub(in crate::quantized) unsafe fn apply(&self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: by the caller's promise.
        unsafe {
            let zero = _mm512_setzero_si512();
            let (a_low, a_high) = (_mm512_unpacklo_epi8(a, zero), _mm512_unpackhi_epi8(a, zero));
            let (b_low, b_high) = (_mm512_unpacklo_epi8(b, zero), _mm512_unpackhi_epi8(b, zero));
            let mut values = [
                _mm512_unpacklo_epi16(a_low, b_low),
                _mm512_unpackhi_epi16(a_low, b_low),
                _mm512_unpacklo_epi16(a_high, b_high),
                _mm512_unpackhi_epi16(a_high, b_high),
            ];
            for value in &mut values {
                let sum = _mm512_dpwssd_epi32(self.start, *value, self.factors);
                *value = self.clamp.round(sum, self.scale);
            }
            self.clamp.narrow_lanes(values)
        }
    }
}

//! Requantization of 128-bit registers with NEON.

use std::arch::aarch64::*;

use super::Requantize;

/// The constants of a requantization in registers.
pub(in crate::quantized) struct Clamp {
    zero: int16x8_t,
    lo: uint8x8_t,
    hi: uint8x8_t,
}

impl Clamp {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(in crate::quantized) fn new(to: &Requantize) -> Clamp {
        Clamp { zero: vdupq_n_s16(i16::from(to.zero)), lo: vdup_n_u8(to.lo), hi: vdup_n_u8(to.hi) }
    }

    /// `rint(f32(sum) ⊗ scale)`, limited to what 32 bits hold.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(in crate::quantized) fn round(&self, sum: int32x4_t, scale: float32x4_t) -> int32x4_t {
        vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sum), scale))
    }

    /// Adds the zero to eight values, limits them and narrows them to bytes. What does not fit on the way is far outside
    /// the limits.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(in crate::quantized) fn narrow(&self, low: int32x4_t, high: int32x4_t) -> uint8x8_t {
        let words = vqaddq_s16(vcombine_s16(vqmovn_s32(low), vqmovn_s32(high)), self.zero);
        vmax_u8(vmin_u8(vqmovun_s16(words), self.hi), self.lo)
    }
}

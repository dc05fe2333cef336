//! Requantization of 128-bit registers in WebAssembly.

use std::arch::wasm32::*;

use super::Requantize;

/// The constants of a requantization in registers.
pub(in crate::quantized) struct Clamp {
    zero: v128,
    lo: v128,
    hi: v128,
}

impl Clamp {
    #[inline(always)]
    pub(in crate::quantized) fn new(to: &Requantize) -> Clamp {
        Clamp { zero: i16x8_splat(i16::from(to.zero)), lo: u8x16_splat(to.lo), hi: u8x16_splat(to.hi) }
    }

    /// `rint(f32(sum) ⊗ scale)`, limited to what 32 bits hold.
    #[inline(always)]
    pub(in crate::quantized) fn round(&self, sum: v128, scale: v128) -> v128 {
        i32x4_trunc_sat_f32x4(f32x4_nearest(f32x4_mul(f32x4_convert_i32x4(sum), scale)))
    }

    /// Adds the zero to 16 values, limits them and narrows them to bytes. What does not fit on the way is far outside
    /// the limits.
    #[inline(always)]
    pub(in crate::quantized) fn narrow(&self, values: [v128; 4]) -> v128 {
        let low = i16x8_add_sat(i16x8_narrow_i32x4(values[0], values[1]), self.zero);
        let high = i16x8_add_sat(i16x8_narrow_i32x4(values[2], values[3]), self.zero);
        u8x16_max(u8x16_min(u8x16_narrow_i16x8(low, high), self.hi), self.lo)
    }
}

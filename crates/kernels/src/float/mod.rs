//! Kernels on 32-bit floats, channels last.
//!
//! Unlike integer kernels, whose instructions differ too much, these are written once over a vector type and compiled for every
//! instruction set; what differs between sets is in the files of `simd`. Sums round in the order of their set, so results of
//! different sets agree within a tolerance, not to the bit.

mod ahead;
pub mod attention;
pub mod batch_norm;
pub mod bf16;
pub mod block;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
pub mod learned;
pub mod matmul;
pub mod peak;
pub mod permute;
pub mod pooling;
pub mod pooling_grad;
mod product;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod rows;
pub(crate) mod simd;
#[cfg(test)]
mod testing;
mod winograd;

/// The range that a kernel's results are limited to before they are stored: how ReLU and clip are fused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamp {
    /// Least result.
    pub lo: f32,
    /// Largest result.
    pub hi: f32,
}

impl Clamp {
    /// No limits.
    pub const NONE: Clamp = Clamp { lo: f32::NEG_INFINITY, hi: f32::INFINITY };
    /// `max(x, 0)`
    pub const RELU: Clamp = Clamp { lo: 0.0, hi: f32::INFINITY };
    /// `min(max(x, 0), 6)`
    pub const RELU6: Clamp = Clamp { lo: 0.0, hi: 6.0 };

    /// `min(hi, max(lo, x))`; NaN stays NaN.
    #[must_use]
    pub fn apply(self, x: f32) -> f32 {
        if x < self.lo {
            self.lo
        } else if x > self.hi {
            self.hi
        } else {
            x
        }
    }
}

impl Default for Clamp {
    fn default() -> Clamp {
        Clamp::NONE
    }
}

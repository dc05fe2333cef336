//! Four floats with NEON.

use std::arch::aarch64::*;

use super::{Kernel, Simd};

/// Proof that the machine has NEON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// The proof.
    ///
    /// # Safety
    /// The machine must have NEON.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Neon {
        Neon(())
    }
}

/// An intrinsic of the set.
macro_rules! have {
    ($call:expr) => {
        // SAFETY: a `Neon` exists only on machines that have the instructions.
        unsafe { $call }
    };
}

#[target_feature(enable = "neon")]
fn compiled<K: Kernel>(simd: Neon, kernel: K) -> K::Output {
    kernel.run(simd)
}

impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    // 24 of the 32 registers for sums.
    const ROWS: usize = 12;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        have!(compiled(self, kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        have!(vdupq_n_f32(x))
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> float32x4_t {
        // SAFETY: the caller promises four readable values.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: float32x4_t) {
        // SAFETY: the caller promises four writable values.
        unsafe { vst1q_f32(to, v) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> float32x4_t {
        let mut whole = [0.0; 4];
        // SAFETY: the caller promises `count` readable values; the array has four.
        unsafe {
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), count);
            vld1q_f32(whole.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, v: float32x4_t) {
        let mut whole = [0.0; 4];
        // SAFETY: the array has four values; the caller promises `count` writable ones.
        unsafe {
            vst1q_f32(whole.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), to, count);
        }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        have!(vaddq_f32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        have!(vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        have!(vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        have!(vdivq_f32(a, b))
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // Not `fmin`, which gives NaN where either is.
        have!(vbslq_f32(vcltq_f32(a, b), a, b))
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        have!(vbslq_f32(vcgtq_f32(a, b), a, b))
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        have!(vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn sqrt(self, a: float32x4_t) -> float32x4_t {
        have!(vsqrtq_f32(a))
    }

    #[inline(always)]
    fn abs(self, a: float32x4_t) -> float32x4_t {
        have!(vabsq_f32(a))
    }

    #[inline(always)]
    fn copysign(self, a: float32x4_t, sign: float32x4_t) -> float32x4_t {
        have!(vbslq_f32(vdupq_n_u32(1 << 31), sign, a))
    }

    #[inline(always)]
    fn select_lt(self, a: float32x4_t, b: float32x4_t, x: float32x4_t, y: float32x4_t) -> float32x4_t {
        have!(vbslq_f32(vcltq_f32(a, b), x, y))
    }

    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        have!(vrndnq_f32(a))
    }

    #[inline(always)]
    fn scale(self, a: float32x4_t, n: float32x4_t) -> float32x4_t {
        // In two steps, because 2^n itself may be out of range where the product is not.
        have!({
            let n = vcvtq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))));
            vmulq_f32(vmulq_f32(a, power(half)), power(vsubq_s32(n, half)))
        })
    }

    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        have!(vaddvq_f32(a))
    }

    #[inline(always)]
    fn largest(self, a: float32x4_t) -> f32 {
        have!(vmaxvq_f32(a))
    }
}

//! Four floats in WebAssembly.

use std::arch::wasm32::*;

use super::{Kernel, Simd};

/// WebAssembly with 128-bit vectors: modules that contain this file need them anyway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Simd128;

impl Simd for Simd128 {
    type V = v128;
    const LANES: usize = 4;
    const ROWS: usize = 6;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> v128 {
        f32x4_splat(x)
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> v128 {
        // SAFETY: the caller promises four readable values.
        unsafe { v128_load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: v128) {
        // SAFETY: the caller promises four writable values.
        unsafe { v128_store(to.cast(), v) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> v128 {
        let mut whole = [0.0f32; 4];
        // SAFETY: the caller promises `count` readable values; the array has four.
        unsafe {
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), count);
            v128_load(whole.as_ptr().cast())
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, v: v128) {
        let mut whole = [0.0f32; 4];
        // SAFETY: the array has four values; the caller promises `count` writable ones.
        unsafe {
            v128_store(whole.as_mut_ptr().cast(), v);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), to, count);
        }
    }

    #[inline(always)]
    fn add(self, a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }

    #[inline(always)]
    fn sub(self, a: v128, b: v128) -> v128 {
        f32x4_sub(a, b)
    }

    #[inline(always)]
    fn mul(self, a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }

    #[inline(always)]
    fn div(self, a: v128, b: v128) -> v128 {
        f32x4_div(a, b)
    }

    #[inline(always)]
    fn min(self, a: v128, b: v128) -> v128 {
        // `pmin(b, a)` is `a < b ? a : b`.
        f32x4_pmin(b, a)
    }

    #[inline(always)]
    fn max(self, a: v128, b: v128) -> v128 {
        f32x4_pmax(b, a)
    }

    #[inline(always)]
    fn fma(self, a: v128, b: v128, c: v128) -> v128 {
        f32x4_add(f32x4_mul(a, b), c)
    }

    #[inline(always)]
    fn sqrt(self, a: v128) -> v128 {
        f32x4_sqrt(a)
    }

    #[inline(always)]
    fn abs(self, a: v128) -> v128 {
        f32x4_abs(a)
    }

    #[inline(always)]
    fn copysign(self, a: v128, sign: v128) -> v128 {
        v128_bitselect(sign, a, f32x4_splat(-0.0))
    }

    #[inline(always)]
    fn select_lt(self, a: v128, b: v128, x: v128, y: v128) -> v128 {
        v128_bitselect(x, y, f32x4_lt(a, b))
    }

    #[inline(always)]
    fn round(self, a: v128) -> v128 {
        f32x4_nearest(a)
    }

    #[inline(always)]
    fn scale(self, a: v128, n: v128) -> v128 {
        // In two steps, because 2^n itself may be out of range where the product is not.
        let n = i32x4_trunc_sat_f32x4(n);
        let half = i32x4_shr(n, 1);
        let power = |n| i32x4_shl(i32x4_add(n, i32x4_splat(127)), 23);
        f32x4_mul(f32x4_mul(a, power(half)), power(i32x4_sub(n, half)))
    }

    #[inline(always)]
    fn sum(self, a: v128) -> f32 {
        let two = f32x4_add(a, i32x4_shuffle::<2, 3, 0, 1>(a, a));
        f32x4_extract_lane::<0>(two) + f32x4_extract_lane::<1>(two)
    }

    #[inline(always)]
    fn largest(self, a: v128) -> f32 {
        let two = self.max(a, i32x4_shuffle::<2, 3, 0, 1>(a, a));
        f32x4_extract_lane::<0>(two).max(f32x4_extract_lane::<1>(two))
    }
}

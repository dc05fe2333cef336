//! Eight floats in AVX2 with FMA.

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof that the machine has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The proof.
    ///
    /// # Safety
    /// The machine must have AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Avx2 {
        Avx2(())
    }
}

/// An intrinsic of the set.
macro_rules! have {
    ($call:expr) => {
        // SAFETY: an `Avx2` exists only on machines that have the instructions.
        unsafe { $call }
    };
}

/// Lanes below `count` all ones, the others zero.
#[inline(always)]
fn first(count: usize) -> __m256i {
    have!(_mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
}

#[target_feature(enable = "avx,avx2,fma")]
fn compiled<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.run(simd)
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const ROWS: usize = 6;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        have!(compiled(self, kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        have!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m256 {
        // SAFETY: the caller promises eight readable values.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: __m256) {
        // SAFETY: the caller promises eight writable values.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m256 {
        // SAFETY: lanes outside the mask are not accessed.
        unsafe { _mm256_maskload_ps(from, first(count)) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, v: __m256) {
        // SAFETY: lanes outside the mask are not accessed.
        unsafe { _mm256_maskstore_ps(to, first(count), v) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        have!(_mm_prefetch::<_MM_HINT_T1>(at.cast()));
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        have!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        have!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        have!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        have!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        have!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        have!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        have!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        have!(_mm256_sqrt_ps(a))
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        have!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn copysign(self, a: __m256, sign: __m256) -> __m256 {
        let bit = self.splat(-0.0);
        have!(_mm256_or_ps(_mm256_andnot_ps(bit, a), _mm256_and_ps(bit, sign)))
    }

    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        have!(_mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        have!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn scale(self, a: __m256, n: __m256) -> __m256 {
        // In two steps, because 2^n itself may be out of range where the product is not.
        have!({
            let n = _mm256_cvttps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let power = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
            _mm256_mul_ps(_mm256_mul_ps(a, power(half)), power(_mm256_sub_epi32(n, half)))
        })
    }

    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        have!({
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        have!({
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn store_bytes(self, to: &mut [u8], v: __m256) {
        let words = have!(_mm256_cvtps_epi32(v));
        let (low, high) = (have!(_mm256_castsi256_si128(words)), have!(_mm256_extracti128_si256::<1>(words)));
        let halves = have!(_mm_packus_epi32(low, high));
        let bytes = have!(_mm_packus_epi16(halves, halves));
        let to = &mut to[..8];
        // SAFETY: eight bytes are writable.
        unsafe { _mm_storel_epi64(to.as_mut_ptr().cast(), bytes) };
    }
}

//! Vectors of floats, one file an instruction set.
//!
//! A kernel is written once, over [`Simd`], and compiled once for every implementation of it. A value of such a
//! type is the proof that the machine has the instructions, so arithmetic through it is safe code. To add an
//! instruction set is to add a file here and an arm to [`dispatch`].
//!
//! Instructions are only used in what is inlined into [`Simd::vectorize`]: functions and closures that handle vectors are
//! `#[inline(always)]`, and vectors are not handed to library functions such as `array::map`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

use crate::Isa;
#[cfg(target_arch = "x86_64")]
use crate::cpu::AVX512;

/// Work that is compiled for every instruction set.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;

    /// Does the work. Implementations must be `#[inline(always)]`: only what is inlined into
    /// [`Simd::vectorize`] is compiled with the instructions of the set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the instructions of `isa`, or with the best the machine has below them.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.or_supported() {
        // SAFETY: `or_supported` returns only sets that this machine runs.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if AVX512 => unsafe { avx512::Avx512::assume() }.vectorize(kernel),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::Avx2::assume() }.vectorize(kernel),
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => unsafe { neon::Neon::assume() }.vectorize(kernel),
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => wasm::Simd128.vectorize(kernel),
        // SAFETY: the whole build is for machines that have it.
        #[cfg(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "fma"))]
        _ => unsafe { avx2::Avx2::assume() }.vectorize(kernel),
        #[cfg(not(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "fma")))]
        _ => scalar::Scalar.vectorize(kernel),
    }
}

/// [`dispatch`] of what is only planned for vectors: no copy for [`Isa::Scalar`], which it must not be called with.
pub(crate) fn dispatch_vectors<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.or_supported() {
        Isa::Scalar => unreachable!("not planned for scalar code"),
        // SAFETY: `or_supported` returns only sets that this machine runs.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if AVX512 => unsafe { avx512::Avx512::assume() }.vectorize(kernel),
        // SAFETY: as above; every other set of this architecture has AVX2.
        #[cfg(target_arch = "x86_64")]
        _ => unsafe { avx2::Avx2::assume() }.vectorize(kernel),
        #[cfg(not(target_arch = "x86_64"))]
        isa => dispatch(isa, kernel),
    }
}

/// Operations on vectors of `LANES` floats.
///
/// Comparisons and extrema treat NaN as x86 does: `min(a, b)` and `max(a, b)` return `b` when either is NaN.
pub(crate) trait Simd: Copy + Send + Sync {
    /// The vector.
    type V: Copy;
    /// Floats in one vector.
    const LANES: usize;
    /// Rows of the matrix microkernel: with two vectors a row, as many accumulators as fit the registers.
    const ROWS: usize;

    /// Compiles and runs `kernel` with the instructions of this set.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;

    /// Reads `LANES` values.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_ptr(self, from: *const f32) -> Self::V;

    /// Writes `LANES` values.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store_ptr(self, to: *mut f32, v: Self::V);

    /// Reads the first `count <= LANES` values; the other lanes are 0.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::V;

    /// Writes the first `count <= LANES` values.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store_first(self, to: *mut f32, count: usize, v: Self::V);

    /// Asks for the cache line at `at`, which need not be readable, in the second-level cache.
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        let _ = at;
    }

    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a` without its sign.
    fn abs(self, a: Self::V) -> Self::V;
    /// The magnitude of `a` with the sign of `sign`.
    fn copysign(self, a: Self::V, sign: Self::V) -> Self::V;
    /// `a < b ? x : y`, lane by lane.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// To the nearest integer, ties to even, for magnitudes below 2^22.
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for integers `n` of magnitude at most 250.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// The sum of all lanes.
    fn sum(self, a: Self::V) -> f32;
    /// The largest lane.
    fn largest(self, a: Self::V) -> f32;

    /// The first `LANES` values of a slice.
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        assert!(from.len() >= Self::LANES);
        // SAFETY: the slice is long enough.
        unsafe { self.load_ptr(from.as_ptr()) }
    }

    /// Writes to the first `LANES` values of a slice.
    #[inline(always)]
    fn store(self, to: &mut [f32], v: Self::V) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: the slice is long enough.
        unsafe { self.store_ptr(to.as_mut_ptr(), v) }
    }

    /// A whole slice of at most `LANES` values; the other lanes are 0.
    #[inline(always)]
    fn load_tail(self, from: &[f32]) -> Self::V {
        assert!(from.len() <= Self::LANES);
        // SAFETY: the slice has that many values.
        unsafe { self.load_first(from.as_ptr(), from.len()) }
    }

    /// Fills a whole slice of at most `LANES` values.
    #[inline(always)]
    fn store_tail(self, to: &mut [f32], v: Self::V) {
        assert!(to.len() <= Self::LANES);
        // SAFETY: the slice has that many values.
        unsafe { self.store_first(to.as_mut_ptr(), to.len(), v) }
    }

    /// Writes the lanes, whole numbers in `0..=255`, as the first `LANES` bytes of a slice.
    #[inline(always)]
    fn store_bytes(self, to: &mut [u8], v: Self::V) {
        let mut lanes = [0.0; 64];
        self.store(&mut lanes, v);
        for (to, lane) in to[..Self::LANES].iter_mut().zip(lanes) {
            *to = lane as u8;
        }
    }

    /// `min(hi, max(lo, a))`; NaN stays NaN.
    #[inline(always)]
    fn clamp(self, a: Self::V, lo: Self::V, hi: Self::V) -> Self::V {
        self.min(hi, self.max(lo, a))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation on a few lanes, in one vector each, written out as floats.
    struct Probe<'a>(&'a [f32], &'a [f32]);

    impl Kernel for Probe<'_> {
        type Output = Vec<Vec<f32>>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let mut results: Vec<Vec<f32>> = vec![Vec::new(); 14];
            for (x, y) in self.0.chunks(S::LANES).zip(self.1.chunks(S::LANES)) {
                let (a, b) = (s.load_tail(x), s.load_tail(y));
                let values = [
                    s.add(a, b),
                    s.sub(a, b),
                    s.mul(a, b),
                    s.div(a, b),
                    s.min(a, b),
                    s.max(a, b),
                    s.sqrt(s.abs(a)),
                    s.abs(a),
                    s.copysign(a, b),
                    s.select_lt(a, b, s.splat(1.0), s.splat(2.0)),
                    s.round(a),
                    s.scale(s.splat(1.5), s.round(b)),
                    s.clamp(a, s.splat(-1.0), s.splat(6.0)),
                    s.fma(a, b, s.splat(0.5)),
                ];
                for (list, value) in results.iter_mut().zip(values) {
                    let mut out = vec![f32::NAN; x.len()];
                    s.store_tail(&mut out, value);
                    list.extend(out);
                }
                if x.len() == S::LANES {
                    let mut bytes = vec![0u8; S::LANES + 1];
                    s.store_bytes(&mut bytes, s.abs(s.round(a)));
                    assert!(bytes.iter().zip(x).all(|(byte, x)| f32::from(*byte) == x.round_ties_even().abs()));
                    assert_eq!(bytes[S::LANES], 0);
                    assert_eq!(s.sum(s.load(x)), x.iter().sum::<f32>());
                    assert_eq!(s.largest(a), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                }
            }
            results
        }
    }

    #[test]
    fn every_set_computes_what_plain_rust_does() {
        // Small multiples of 1/4, so that sums and fused products are exact in any order.
        let a: Vec<f32> = (0..53).map(|i| ((i * 37) % 101) as f32 * 0.25 - 12.0).collect();
        let b: Vec<f32> = (0..53).map(|i| ((i * 53) % 97) as f32 * 0.5 - 20.25).collect();
        let each = |f: &dyn Fn(f32, f32) -> f32| a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect::<Vec<f32>>();
        let expected = [
            each(&|a, b| a + b),
            each(&|a, b| a - b),
            each(&|a, b| a * b),
            each(&|a, b| a / b),
            each(&f32::min),
            each(&f32::max),
            each(&|a, _| a.abs().sqrt()),
            each(&|a, _| a.abs()),
            each(&f32::copysign),
            each(&|a, b| if a < b { 1.0 } else { 2.0 }),
            each(&|a, _| a.round_ties_even()),
            each(&|_, b| 1.5 * b.round_ties_even().exp2()),
            each(&|a, _| a.clamp(-1.0, 6.0)),
            each(&|a, b| a * b + 0.5),
        ];
        for isa in Isa::available() {
            let got = dispatch(isa, Probe(&a, &b));
            for (i, (got, want)) in got.iter().zip(&expected).enumerate() {
                assert_eq!(got, want, "operation {i} of {}", isa.name());
            }
        }
    }

    struct Edges;

    impl Kernel for Edges {
        type Output = [f32; 4];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; 4] {
            let first = |v: S::V| {
                let mut out = [0.0];
                // SAFETY: one value is writable.
                unsafe { s.store_first(out.as_mut_ptr(), 1, v) };
                out[0]
            };
            [
                first(s.clamp(s.splat(f32::NAN), s.splat(0.0), s.splat(6.0))),
                first(s.scale(s.splat(1.0), s.splat(128.0))),
                first(s.scale(s.splat(1.0), s.splat(-140.0))),
                first(s.max(s.splat(f32::NAN), s.splat(3.0))),
            ]
        }
    }

    #[test]
    fn edges_are_the_same_everywhere() {
        for isa in Isa::available() {
            let [nan, inf, tiny, second] = dispatch(isa, Edges);
            assert!(nan.is_nan(), "{}", isa.name());
            assert_eq!((inf, tiny, second), (f32::INFINITY, (-140f32).exp2(), 3.0), "{}", isa.name());
        }
    }
}

//! Four floats in plain Rust, which compilers turn into whatever the target has.

use super::{Kernel, Simd};

/// No instructions beyond the target's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

const LANES: usize = 4;
type V = [f32; LANES];

#[inline(always)]
fn each(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

/// 2^n for integers -126..=127.
#[inline(always)]
fn power(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23).cast_unsigned())
}

impl Simd for Scalar {
    type V = V;
    const LANES: usize = LANES;
    const ROWS: usize = 4;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> V {
        // SAFETY: the caller promises four readable values.
        unsafe { from.cast::<V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: V) {
        // SAFETY: the caller promises four writable values.
        unsafe { to.cast::<V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> V {
        let mut v = [0.0; LANES];
        for (i, lane) in v.iter_mut().enumerate().take(count) {
            // SAFETY: the caller promises `count` readable values.
            *lane = unsafe { *from.add(i) };
        }
        v
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, v: V) {
        for (i, lane) in v.iter().enumerate().take(count) {
            // SAFETY: the caller promises `count` writable values.
            unsafe { *to.add(i) = *lane };
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        each(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        each(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        // Not `mul_add`, which is a library call on targets without the instruction.
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        each(a, a, |a, _| a.sqrt())
    }

    #[inline(always)]
    fn abs(self, a: V) -> V {
        each(a, a, |a, _| a.abs())
    }

    #[inline(always)]
    fn copysign(self, a: V, sign: V) -> V {
        each(a, sign, f32::copysign)
    }

    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        let mut v = y;
        for i in 0..LANES {
            if a[i] < b[i] {
                v[i] = x[i];
            }
        }
        v
    }

    #[inline(always)]
    fn round(self, a: V) -> V {
        // Adding 1.5 · 2^23 leaves no bits for a fraction.
        const MAGIC: f32 = 12_582_912.0;
        each(a, a, |a, _| (a + MAGIC) - MAGIC)
    }

    #[inline(always)]
    fn scale(self, a: V, n: V) -> V {
        // In two steps, because 2^n itself may be out of range where the product is not.
        each(a, n, |a, n| {
            let n = n as i32;
            a * power(n >> 1) * power(n - (n >> 1))
        })
    }

    #[inline(always)]
    fn sum(self, a: V) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }

    #[inline(always)]
    fn largest(self, a: V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

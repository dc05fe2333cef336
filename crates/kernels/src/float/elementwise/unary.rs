//! Functions of one value.

use super::{BLOCK, functions};
use crate::float::Clamp;
use crate::float::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{Isa, KernelError, Pool, expect_len};

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Unary {
    /// `min(hi, max(lo, x))`: ReLU, ReLU6, clip.
    Clip(Clamp),
    /// `x < 0 ? slope * x : x`
    LeakyRelu(f32),
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `x * sigmoid(x)`
    Silu,
    /// `clamp(alpha * x + beta, 0, 1)`
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// `x * clamp(x / 6 + 1/2, 0, 1)`
    HardSwish,
    /// `x/2 * (1 + erf(x / √2))`
    Gelu,
    /// GELU by its approximation with a hyperbolic tangent.
    GeluTanh,
    /// The error function.
    Erf,
    /// `e^x`
    Exp,
    /// Square root.
    Sqrt,
    /// `1 / x`
    Reciprocal,
    /// Magnitude.
    Abs,
    /// `-x`
    Neg,
    /// `mul * x + add`
    Linear {
        /// Factor.
        mul: f32,
        /// What is added to the product.
        add: f32,
    },
}

/// `y = op(x)`
///
/// # Errors
/// [`KernelError::Length`] when `x` and `y` differ in length.
pub fn unary(isa: Isa, op: Unary, x: &[f32], y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
    expect_len("output", y.len(), x.len())?;
    run(isa, op, Some(x), y, pool);
    Ok(())
}

/// `y = op(y)`
pub fn unary_in_place(isa: Isa, op: Unary, y: &mut [f32], pool: &Pool) {
    run(isa, op, None, y, pool);
}

fn run(isa: Isa, op: Unary, x: Option<&[f32]>, y: &mut [f32], pool: &Pool) {
    let len = y.len();
    let step = if pool.threads() == 1 { len.max(1) } else { BLOCK };
    let y = SharedMut::new(y);
    pool.run(len.div_ceil(step), &|chunk| {
        let range = chunk * step..len.min((chunk + 1) * step);
        // SAFETY: chunks are distinct numbers, so their ranges do not overlap.
        let y = unsafe { y.slice(range.clone()) };
        dispatch(isa, Map { op, x: x.map(|x| &x[range]), y });
    });
}

struct Map<'a> {
    op: Unary,
    /// `None`: in place.
    x: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Kernel for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Map { op, x, y } = self;
        // A loop of its own for every function.
        macro_rules! each {
            (|$v:ident| $value:expr) => {
                map(
                    s,
                    x,
                    y,
                    #[inline(always)]
                    |$v| $value,
                )
            };
        }
        match op {
            Unary::Clip(Clamp { lo, hi }) => {
                let (lo, hi) = (s.splat(lo), s.splat(hi));
                each!(|v| s.clamp(v, lo, hi));
            }
            Unary::LeakyRelu(slope) => each!(|v| s.select_lt(v, s.splat(0.0), s.mul(v, s.splat(slope)), v)),
            Unary::Sigmoid => each!(|v| functions::sigmoid(s, v)),
            Unary::Tanh => each!(|v| functions::tanh(s, v)),
            Unary::Silu => each!(|v| s.mul(v, functions::sigmoid(s, v))),
            Unary::HardSigmoid { alpha, beta } => each!(|v| hard_sigmoid(s, v, alpha, beta)),
            Unary::HardSwish => each!(|v| s.mul(v, hard_sigmoid(s, v, 1.0 / 6.0, 0.5))),
            Unary::Gelu => each!(|v| {
                let erf = functions::erf_short(s, s.mul(v, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
                let half = s.mul(v, s.splat(0.5));
                s.fma(half, erf, half)
            }),
            Unary::GeluTanh => each!(|v| {
                // x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
                let cubic = s.fma(s.mul(s.mul(v, v), v), s.splat(0.044_715), v);
                s.mul(v, functions::sigmoid(s, s.mul(cubic, s.splat(1.595_769))))
            }),
            Unary::Erf => each!(|v| functions::erf(s, v)),
            Unary::Exp => each!(|v| functions::exp(s, v)),
            Unary::Sqrt => each!(|v| s.sqrt(v)),
            Unary::Reciprocal => each!(|v| s.div(s.splat(1.0), v)),
            Unary::Abs => each!(|v| s.abs(v)),
            Unary::Neg => each!(|v| s.mul(v, s.splat(-1.0))),
            Unary::Linear { mul, add } => each!(|v| s.fma(v, s.splat(mul), s.splat(add))),
        }
    }
}

#[inline(always)]
fn hard_sigmoid<S: Simd>(s: S, v: S::V, alpha: f32, beta: f32) -> S::V {
    s.clamp(s.fma(v, s.splat(alpha), s.splat(beta)), s.splat(0.0), s.splat(1.0))
}

/// `f` of every value. One loop with one copy of `f`, in place or not, the last vector whole or not: there are many functions.
#[inline(always)]
fn map<S: Simd>(s: S, x: Option<&[f32]>, y: &mut [f32], f: impl Fn(S::V) -> S::V) {
    let len = x.map_or(y.len(), <[f32]>::len).min(y.len());
    let to = y.as_mut_ptr();
    let from = x.map_or(to.cast_const(), <[f32]>::as_ptr);
    for i in (0..len).step_by(S::LANES) {
        let count = S::LANES.min(len - i);
        // SAFETY: `count` values from `i` on are inside both slices.
        unsafe {
            let v = if count == S::LANES { s.load_ptr(from.add(i)) } else { s.load_first(from.add(i), count) };
            let v = f(v);
            if count == S::LANES {
                s.store_ptr(to.add(i), v);
            } else {
                s.store_first(to.add(i), count, v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::testing::{erf64, noise};

    fn exact(op: Unary, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match op {
            Unary::Clip(c) => x.clamp(c.lo.into(), c.hi.into()),
            Unary::LeakyRelu(slope) => {
                if x < 0.0 {
                    x * f64::from(slope)
                } else {
                    x
                }
            }
            Unary::Sigmoid => sigmoid(x),
            Unary::Tanh => x.tanh(),
            Unary::Silu => x * sigmoid(x),
            Unary::HardSigmoid { alpha, beta } => (x * f64::from(alpha) + f64::from(beta)).clamp(0.0, 1.0),
            Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Unary::Gelu => 0.5 * x * (1.0 + erf64(x * std::f64::consts::FRAC_1_SQRT_2)),
            Unary::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
            }
            Unary::Erf => erf64(x),
            Unary::Exp => x.exp(),
            Unary::Sqrt => x.sqrt(),
            Unary::Reciprocal => 1.0 / x,
            Unary::Abs => x.abs(),
            Unary::Neg => -x,
            Unary::Linear { mul, add } => x * f64::from(mul) + f64::from(add),
        }
    }

    #[test]
    fn every_function_is_close_to_its_definition() {
        let ops = [
            Unary::Clip(Clamp::RELU6),
            Unary::LeakyRelu(0.1),
            Unary::Sigmoid,
            Unary::Tanh,
            Unary::Silu,
            Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
            Unary::HardSwish,
            Unary::Gelu,
            Unary::GeluTanh,
            Unary::Erf,
            Unary::Exp,
            Unary::Sqrt,
            Unary::Reciprocal,
            Unary::Abs,
            Unary::Neg,
            Unary::Linear { mul: 3.0, add: -1.0 },
        ];
        for (isa, len) in Isa::available().into_iter().flat_map(|isa| [0, 1, 15, 16, 37, 9001].map(|len| (isa, len))) {
            for op in ops {
                let mut x: Vec<f32> = noise(7, len).iter().map(|v| v * 4.0).collect();
                if op == Unary::Sqrt {
                    x.iter_mut().for_each(|v| *v = v.abs());
                }
                for threads in 1..=3 {
                    let pool = Pool::kept(threads);
                    let mut y = vec![f32::NAN; len];
                    unary(isa, op, &x, &mut y, &pool).unwrap();
                    for (x, y) in x.iter().zip(&y) {
                        let expected = exact(op, f64::from(*x));
                        let error = (f64::from(*y) - expected).abs();
                        assert!(
                            error <= 5e-7 * expected.abs().max(1.0),
                            "{} {op:?} of {x}: {y}, not {expected}",
                            isa.name()
                        );
                    }
                    let mut z = x.clone();
                    unary_in_place(isa, op, &mut z, &pool);
                    assert_eq!(y, z, "{} {op:?} in place", isa.name());
                }
            }
        }
        assert!(unary(Isa::Scalar, Unary::Abs, &[1.0], &mut [], &Pool::new(1)).is_err());
    }
}

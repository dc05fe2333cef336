//! Quantization with a learned scale, and the estimates of its gradients: one pass over memory each.

use super::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{Isa, KernelError, Pool, expect_len};

/// How the gradient of the rounding is estimated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Estimator {
    /// Straight through inside the range.
    Lsq,
    /// As [`Estimator::Lsq`], but the scale learns from what is clipped alone.
    Pact,
    /// `1 + delta·sign(gradient)·(u − q)` inside the range.
    Ewgs(f32),
    /// `2 − 2·|u|` for signs, for two levels of a range `(1 − |t|) / width`, with `t` the distance to the threshold in widths.
    Polynomial,
}

/// A quantizer: with `u = x ⊘ scale`, `q = clamp(rint(u), lo, hi)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantizer {
    /// Least integer.
    pub lo: f32,
    /// Largest integer, of magnitude at most 2^22, as the least.
    pub hi: f32,
    /// Whether `q` is the sign of `u` instead, +1 for 0.
    pub bipolar: bool,
    /// Whether the result is `scale · q` rather than `q`.
    pub real: bool,
    /// The gradient.
    pub estimator: Estimator,
    /// Of [`Estimator::Polynomial`], in scales.
    pub width: f32,
    /// What the gradient of the scale is multiplied by.
    pub factor: f32,
}

impl Quantizer {
    /// Between which `u` there is a gradient.
    fn reach(&self) -> (f32, f32) {
        match self.estimator {
            Estimator::Polynomial if !self.bipolar => (self.lo + 0.5 - self.width, self.lo + 0.5 + self.width),
            _ => (self.lo, self.hi),
        }
    }
}

/// Values one task handles. The sums of such blocks are added in order, so results do not depend on the number of threads.
const BLOCK: usize = 16 * 1024;

/// Which scale holds for which value: runs of `run` values take turns.
#[derive(Debug, Clone, Copy)]
struct Runs {
    run: usize,
    blocks: usize,
}

impl Runs {
    fn new(len: usize, scales: usize, run: usize) -> Result<Runs, KernelError> {
        if run == 0 || scales == 0 || !len.is_multiple_of(run * scales) {
            let message = format!("{len} values in runs of {run} that take turns at {scales} scales");
            return Err(KernelError::Geometry(message));
        }
        Ok(Runs { run, blocks: run.div_ceil(BLOCK) })
    }

    fn tasks(self, len: usize) -> usize {
        len / self.run * self.blocks
    }

    /// The run of a task and the values it handles.
    fn range(self, task: usize) -> (usize, std::ops::Range<usize>) {
        let (run, block) = (task / self.blocks, task % self.blocks);
        let first = run * self.run;
        (run, first + block * BLOCK..first + self.run.min((block + 1) * BLOCK))
    }
}

/// `y = q` of every value of `x`; value `i` takes scale `i / run % scales.len()`.
///
/// # Errors
/// [`KernelError`] when lengths do not fit.
pub fn quantize(
    isa: Isa,
    quantizer: Quantizer,
    x: &[f32],
    (scales, run): (&[f32], usize),
    y: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    expect_len("output", y.len(), x.len())?;
    let runs = Runs::new(x.len(), scales.len(), run)?;
    let y = SharedMut::new(y);
    each(runs, x.len(), pool, &|task| {
        let (run, range) = runs.range(task);
        // SAFETY: tasks are distinct ranges.
        let y = unsafe { y.slice(range.clone()) };
        dispatch(isa, Forward { quantizer, scale: scales[run % scales.len()], x: &x[range], y });
    });
    Ok(())
}

/// Sums that [`quantize_grad`] needs room for.
pub fn partial_sums(len: usize, run: usize) -> usize {
    len / run.max(1) * run.max(1).div_ceil(BLOCK)
}

/// `dx` from `dq`, or from what `dx` holds, and in `partial` the parts of the gradients of the scales, for
/// [`add_partial_sums`].
///
/// # Errors
/// [`KernelError`] when lengths do not fit.
pub fn quantize_grad(
    isa: Isa,
    quantizer: Quantizer,
    x: &[f32],
    (scales, run): (&[f32], usize),
    dq: Option<&[f32]>,
    dx: &mut [f32],
    partial: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    expect_len("gradient of the input", dx.len(), x.len())?;
    if let Some(dq) = dq {
        expect_len("gradient of the output", dq.len(), x.len())?;
    }
    let runs = Runs::new(x.len(), scales.len(), run)?;
    expect_len("partial sums", partial.len(), runs.tasks(x.len()))?;
    let (dx, partial) = (SharedMut::new(dx), SharedMut::new(partial));
    each(runs, x.len(), pool, &|task| {
        let (run, range) = runs.range(task);
        // SAFETY: tasks are distinct ranges, and distinct numbers.
        let (dx, sum) = unsafe { (dx.slice(range.clone()), partial.slice(task..task + 1)) };
        let (x, dq) = (&x[range.clone()], dq.map(|dq| &dq[range]));
        sum[0] = dispatch(isa, Backward { quantizer, scale: scales[run % scales.len()], x, dq, dx });
    });
    Ok(())
}

/// The gradients of the scales from the sums that [`quantize_grad`] made of `len` values.
///
/// # Errors
/// [`KernelError`] when lengths do not fit.
pub fn add_partial_sums(
    quantizer: Quantizer,
    (len, run): (usize, usize),
    partial: &[f32],
    dscale: &mut [f32],
) -> Result<(), KernelError> {
    let runs = Runs::new(len, dscale.len(), run)?;
    expect_len("partial sums", partial.len(), runs.tasks(len))?;
    let scales = dscale.len();
    for (i, sum) in dscale.iter_mut().enumerate() {
        let parts = partial.chunks_exact(runs.blocks).skip(i).step_by(scales).flatten();
        *sum = (parts.map(|part| f64::from(*part)).sum::<f64>() * f64::from(quantizer.factor)) as f32;
    }
    Ok(())
}

/// Runs tasks, several of few values together.
fn each(runs: Runs, len: usize, pool: &Pool, f: &(dyn Fn(usize) + Sync)) {
    let tasks = runs.tasks(len);
    let together = (BLOCK / runs.run).max(1);
    pool.run(tasks.div_ceil(together), &|group| {
        for task in group * together..tasks.min((group + 1) * together) {
            f(task);
        }
    });
}

#[inline(always)]
fn round<S: Simd>(s: S, quantizer: &Quantizer, u: S::V) -> S::V {
    if quantizer.bipolar {
        return s.select_lt(u, s.splat(0.0), s.splat(-1.0), s.splat(1.0));
    }
    s.round(s.clamp(u, s.splat(quantizer.lo), s.splat(quantizer.hi)))
}

struct Forward<'a> {
    quantizer: Quantizer,
    scale: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { quantizer, scale, x, y } = self;
        let scale = s.splat(scale);
        macro_rules! each {
            (|$q:ident| $value:expr) => {
                for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
                    let whole = x.len() == S::LANES;
                    let x = if whole { s.load(x) } else { s.load_tail(x) };
                    let $q = round(s, &quantizer, s.div(x, scale));
                    let value = $value;
                    if whole {
                        s.store(y, value);
                    } else {
                        s.store_tail(y, value);
                    }
                }
            };
        }
        if quantizer.real {
            each!(|q| s.mul(q, scale));
        } else {
            each!(|q| q);
        }
    }
}

struct Backward<'a> {
    quantizer: Quantizer,
    scale: f32,
    x: &'a [f32],
    dq: Option<&'a [f32]>,
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let Backward { quantizer, scale, x, dq, dx } = self;
        let (lo, hi) = quantizer.reach();
        let (lo, hi, zero) = (s.splat(lo), s.splat(hi), s.splat(0.0));
        let (by, inverse) = (s.splat(scale), s.splat(if quantizer.real { 1.0 } else { 1.0 / scale }));
        let mut sum = zero;
        // From u, q and g: the slope, and what the scale sees of u inside the range.
        macro_rules! each {
            (|$u:ident, $q:ident, $g:ident| $value:expr) => {
                for (i, (x, dx)) in x.chunks(S::LANES).zip(dx.chunks_mut(S::LANES)).enumerate() {
                    let whole = x.len() == S::LANES;
                    let given = match dq {
                        Some(dq) => &dq[i * S::LANES..][..x.len()],
                        None => &*dx,
                    };
                    let (x, $g) = if whole { (s.load(x), s.load(given)) } else { (s.load_tail(x), s.load_tail(given)) };
                    let $u = s.div(x, by);
                    let $q = round(s, &quantizer, $u);
                    let (slope, seen) = $value;
                    let inside = |v: S::V| s.select_lt(lo, $u, s.select_lt($u, hi, v, zero), zero);
                    let (slope, seen) = (inside(slope), inside(seen));
                    if !quantizer.bipolar {
                        let part = if quantizer.real { s.sub($q, seen) } else { s.sub(zero, seen) };
                        sum = s.fma($g, part, sum);
                    } else if quantizer.real {
                        sum = s.fma($g, $q, sum);
                    }
                    let value = s.mul(s.mul($g, slope), inverse);
                    if whole {
                        s.store(dx, value);
                    } else {
                        s.store_tail(dx, value);
                    }
                }
            };
        }
        let (one, two) = (s.splat(1.0), s.splat(2.0));
        match quantizer.estimator {
            Estimator::Lsq => each!(|u, q, g| (one, u)),
            Estimator::Pact => each!(|u, q, g| (one, q)),
            Estimator::Ewgs(delta) => {
                let delta = s.splat(delta);
                each!(|u, q, g| {
                    let signed = s.copysign(s.sub(u, q), s.mul(g, s.sub(u, q)));
                    (s.fma(delta, signed, one), u)
                });
            }
            Estimator::Polynomial => {
                // Of u itself for signs, of what is between it and the threshold for two levels of a range.
                let (threshold, most, by) = if quantizer.bipolar {
                    (zero, two, s.splat(-2.0))
                } else {
                    let inverse = 1.0 / quantizer.width;
                    (s.splat(quantizer.lo + 0.5), s.splat(inverse), s.splat(-inverse * inverse))
                };
                each!(|u, q, g| {
                    let slope = s.fma(s.abs(s.sub(u, threshold)), by, most);
                    (slope, s.mul(slope, u))
                });
            }
        }
        s.sum(sum) * if quantizer.real { 1.0 } else { 1.0 / scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::testing::noise;

    fn quantizers() -> Vec<Quantizer> {
        let mut all = vec![];
        for (lo, hi, bipolar) in [(-7.0, 7.0, false), (0.0, 3.0, false), (0.0, 1.0, false), (-1.0, 1.0, true)] {
            for real in [false, true] {
                for estimator in [Estimator::Lsq, Estimator::Pact, Estimator::Ewgs(0.25), Estimator::Polynomial] {
                    if estimator != Estimator::Polynomial || bipolar || hi - lo == 1.0 {
                        let width = if real { 0.5 } else { 1.75 };
                        all.push(Quantizer { lo, hi, bipolar, real, estimator, width, factor: 0.5 });
                    }
                }
            }
        }
        all
    }

    /// One value, written out.
    fn expected(q: &Quantizer, x: f32, scale: f32, g: f32) -> (f32, f64, f64) {
        let u = x / scale;
        let code = if q.bipolar { if u < 0.0 { -1.0 } else { 1.0 } } else { u.clamp(q.lo, q.hi).round_ties_even() };
        let two = q.estimator == Estimator::Polynomial && !q.bipolar;
        let (t, w) = (u - q.lo - 0.5, q.width);
        let inside = if two { -w < t && t < w } else { q.lo < u && u < q.hi };
        let (uu, cc, gg, ss) = (f64::from(u), f64::from(code), f64::from(g), f64::from(scale));
        let (mut slope, mut seen) = match q.estimator {
            Estimator::Lsq => (1.0, uu),
            Estimator::Pact => (1.0, cc),
            Estimator::Ewgs(d) => (1.0 + f64::from(d) * gg.signum() * (uu - cc), uu),
            Estimator::Polynomial => {
                let (t, w) = (f64::from(t), f64::from(w));
                let slope = if q.bipolar { 2.0 - 2.0 * uu.abs() } else { (1.0 - t.abs() / w) / w };
                (slope, slope * uu)
            }
        };
        if !inside {
            (slope, seen) = (0.0, 0.0);
        }
        if q.bipolar {
            seen = 0.0;
        }
        let y = if q.real { code * scale } else { code };
        if q.real { (y, gg * slope, gg * (cc - seen) * 0.5) } else { (y, gg * slope / ss, -gg * seen / ss * 0.5) }
    }

    #[test]
    fn every_set_any_number_of_threads_and_in_place() {
        for (len, scales, run) in [(1, 1, 1), (45, 3, 5), (BLOCK * 2 + 17, 1, BLOCK * 2 + 17), (2 * 3 * 144, 3, 144)] {
            let x: Vec<f32> = noise(1, len).iter().map(|v| v * 3.0).collect();
            let g = noise(2, len);
            let scale: Vec<f32> = (0..scales).map(|i| 0.21 + 0.4 * i as f32).collect();
            for isa in Isa::available() {
                for q in quantizers() {
                    let mut first: Option<(Vec<f32>, Vec<f32>)> = None;
                    for threads in [1, 3] {
                        let pool = Pool::kept(threads);
                        let mut y = vec![0.0; len];
                        quantize(isa, q, &x, (&scale, run), &mut y, &pool).unwrap();
                        let mut partial = vec![0.0; partial_sums(len, run)];
                        let mut ds = vec![0.0; scales];
                        let (mut dx, mut place) = (vec![0.0; len], g.clone());
                        quantize_grad(isa, q, &x, (&scale, run), Some(&g), &mut dx, &mut partial, &pool).unwrap();
                        quantize_grad(isa, q, &x, (&scale, run), None, &mut place, &mut partial, &pool).unwrap();
                        assert_eq!(dx, place);
                        add_partial_sums(q, (len, run), &partial, &mut ds).unwrap();
                        let (mut sums, mut sizes) = (vec![0.0; scales], vec![1e-6; scales]);
                        for i in 0..len {
                            let at = i / run % scales;
                            let (code, want, part) = expected(&q, x[i], scale[at], g[i]);
                            assert_eq!(y[i], code, "{q:?} {}", isa.name());
                            let close = (f64::from(dx[i]) - want).abs() <= 1e-5 * (1.0 + want.abs());
                            assert!(close, "{q:?} {} {} {want}", isa.name(), dx[i]);
                            sums[at] += part;
                            sizes[at] += part.abs();
                        }
                        for (i, found) in ds.iter().enumerate() {
                            let close = (f64::from(*found) - sums[i]).abs() <= 1e-5 * sizes[i];
                            assert!(close, "{q:?} {} {found} {}", isa.name(), sums[i]);
                        }
                        let now = (dx, ds);
                        assert!(first.as_ref().is_none_or(|f| *f == now), "threads change results");
                        first = Some(now);
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let (isa, pool, q) = (Isa::detect(), Pool::new(1), quantizers()[0]);
        assert!(quantize(isa, q, &[1.0; 6], (&[1.0; 4], 1), &mut [0.0; 6], &pool).is_err());
        assert!(quantize(isa, q, &[1.0; 6], (&[1.0], 6), &mut [0.0; 5], &pool).is_err());
        assert!(quantize(isa, q, &[1.0; 6], (&[], 6), &mut [0.0; 6], &pool).is_err());
        assert!(quantize_grad(isa, q, &[1.0; 6], (&[1.0], 6), None, &mut [0.0; 6], &mut [], &pool).is_err());
    }
}

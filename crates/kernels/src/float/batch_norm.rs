//! Batch normalization as training does it, channels last: statistics of the batch, what they make of it, and the gradients. (Ioffe and
//! Szegedy, "Batch Normalization", 2015.)
//!
//! Rows are cut into blocks that do not depend on the number of threads; what the blocks give is added in order, in `f64`. A block's mean
//! is taken from its values before they are squared, while it is in cache, so a mean that is large beside the deviation costs no accuracy. ReLU
//! and the addition of a residual are done in the same pass, and so is what ReLU keeps of a gradient: its sign is that of the result,
//! which is computed again rather than read again.

use super::Clamp;
use super::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{Isa, KernelError, Pool, expect_len};

/// Values of a block, about: what stays in a second-level cache from one pass to the next.
const BLOCK: usize = 16 << 10;
/// Images of at most so many values are blocks.
const IMAGE: usize = 64 << 10;
/// Sums that do not wait for each other.
const CHAINS: usize = 4;

/// Batch normalization of `[rows, channels]`, planned for one instruction set.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    isa: Isa,
    rows: usize,
    channels: usize,
    block: usize,
    epsilon: f32,
}

/// What a gradient went through before it reaches the normalization.
#[derive(Debug, Clone, Copy)]
pub enum Upstream<'a> {
    /// The gradient of the results.
    Plain,
    /// The gradient of ReLU of the results, by this bias.
    Relu(&'a [f32]),
}

impl BatchNorm {
    /// For images of `pixels` each; `epsilon` is added to the variance.
    ///
    /// # Errors
    /// [`KernelError::Geometry`] when a size is 0 or their product overflows.
    pub fn new(
        isa: Isa,
        images: usize,
        pixels: usize,
        channels: usize,
        epsilon: f32,
    ) -> Result<BatchNorm, KernelError> {
        let rows = images.checked_mul(pixels);
        let values = rows.and_then(|rows| rows.checked_mul(channels)).filter(|values| *values > 0);
        let (Some(rows), Some(_)) = (rows, values) else {
            return Err(KernelError::Geometry(format!("nothing to normalize in [{images}, {pixels}, {channels}]")));
        };
        let image = pixels * channels;
        let block = if (BLOCK / 4..=IMAGE).contains(&image) { pixels } else { (BLOCK / channels).clamp(1, rows) };
        Ok(BatchNorm { isa: isa.or_supported(), rows, channels, block, epsilon })
    }

    /// How many values of scratch the passes need.
    #[must_use]
    pub fn scratch_len(&self) -> usize {
        self.channels * (2 * self.blocks() + 5)
    }

    fn blocks(&self) -> usize {
        self.rows.div_ceil(self.block)
    }

    fn check(&self, vectors: &[(&'static str, usize)], values: &[(&'static str, usize)]) -> Result<(), KernelError> {
        vectors.iter().try_for_each(|(what, len)| expect_len(what, *len, self.channels))?;
        values.iter().try_for_each(|(what, len)| expect_len(what, *len, self.rows * self.channels))
    }

    /// The rows of a block, as a range of values.
    fn range(&self, block: usize) -> std::ops::Range<usize> {
        block * self.block * self.channels..self.rows.min((block + 1) * self.block) * self.channels
    }

    /// Mean and variance (divided by the number of rows) of every channel of `x`, and
    /// `y = clamp((x − mean) / √(var + epsilon) · scale + bias + residual)`. Allocates nothing.
    ///
    /// # Errors
    /// [`KernelError::Length`] when a slice does not have the length that follows from the sizes.
    pub fn forward(
        &self,
        x: &[f32],
        [scale, bias]: [&[f32]; 2],
        residual: Option<&[f32]>,
        clamp: Clamp,
        y: &mut [f32],
        [mean, var]: [&mut [f32]; 2],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let vectors = [("scale", scale.len()), ("bias", bias.len()), ("mean", mean.len()), ("variance", var.len())];
        let residual_len = residual.map_or(x.len(), <[f32]>::len);
        self.check(&vectors, &[("input", x.len()), ("residual", residual_len), ("output", y.len())])?;
        let [affine, _, partials] = self.scratch(scratch)?;
        {
            let partials = SharedMut::new(partials);
            pool.run(self.blocks(), &|block| {
                let at = block * 2 * self.channels;
                // SAFETY: blocks have partial results of their own.
                let out = unsafe { partials.slice(at..at + 2 * self.channels) };
                dispatch(self.isa, Moments { channels: self.channels, x: &x[self.range(block)], out });
            });
        }
        self.combine(partials, mean, var);
        self.affine([scale, bias], [mean, var], affine);
        let (affine, y) = (&*affine, SharedMut::new(y));
        pool.run(self.blocks(), &|block| {
            let range = self.range(block);
            // SAFETY: blocks are distinct ranges.
            let y = unsafe { y.slice(range.clone()) };
            let (x, residual) = (&x[range.clone()], residual.map(|r| &r[range]));
            dispatch(self.isa, Apply { channels: self.channels, affine, x, residual, clamp, y });
        });
        Ok(())
    }

    /// Room for two and for three vectors of channels, and for the results of all blocks.
    fn scratch<'a>(&self, scratch: &'a mut [f32]) -> Result<[&'a mut [f32]; 3], KernelError> {
        if scratch.len() < self.scratch_len() {
            return Err(KernelError::Length { what: "scratch", expected: self.scratch_len(), found: scratch.len() });
        }
        let (affine, rest) = scratch[..self.scratch_len()].split_at_mut(2 * self.channels);
        let (coefficients, partials) = rest.split_at_mut(3 * self.channels);
        Ok([affine, coefficients, partials])
    }

    /// Statistics of all rows from those of the blocks: their sums, and the squared deviations from their means (Chan, Golub and LeVeque, 1983).
    fn combine(&self, partials: &[f32], mean: &mut [f32], var: &mut [f32]) {
        const WIDTH: usize = 16;
        let (c, n) = (self.channels, self.rows as f64);
        for first in (0..c).step_by(WIDTH) {
            let width = WIDTH.min(c - first);
            let (mut sums, mut squares) = ([0.0f64; WIDTH], [0.0f64; WIDTH]);
            for block in partials.chunks_exact(2 * c) {
                for (sum, part) in sums.iter_mut().zip(&block[first..first + width]) {
                    *sum += f64::from(*part);
                }
            }
            sums.iter_mut().for_each(|sum| *sum /= n);
            for (i, block) in partials.chunks_exact(2 * c).enumerate() {
                let rows = (self.range(i).len() / c) as f64;
                for (j, square) in squares[..width].iter_mut().enumerate() {
                    let apart = f64::from(block[first + j]) / rows - sums[j];
                    *square += f64::from(block[c + first + j]) + rows * apart * apart;
                }
            }
            for j in 0..width {
                mean[first + j] = sums[j] as f32;
                var[first + j] = (squares[j] / n) as f32;
            }
        }
    }

    /// `1 / √(var + epsilon)`
    fn inverse(&self, var: f32) -> f64 {
        1.0 / (f64::from(var) + f64::from(self.epsilon)).sqrt()
    }

    /// What a normalized value is of a value: for each channel a factor, for each what is added.
    fn affine(&self, [scale, bias]: [&[f32]; 2], [mean, var]: [&[f32]; 2], affine: &mut [f32]) {
        let (factors, shifts) = affine.split_at_mut(self.channels);
        for c in 0..self.channels {
            let factor = f64::from(scale[c]) * self.inverse(var[c]);
            factors[c] = factor as f32;
            shifts[c] = (f64::from(bias[c]) - f64::from(mean[c]) * factor) as f32;
        }
    }

    /// The gradients of `x`, scale and bias from that of the results, or of ReLU of the results. `dy` is `None` if it lies in `dx`.
    /// Allocates nothing.
    ///
    /// # Errors
    /// [`KernelError::Length`] when a slice does not have the length that follows from the sizes.
    pub fn backward(
        &self,
        x: &[f32],
        [scale, mean, var]: [&[f32]; 3],
        upstream: Upstream<'_>,
        dy: Option<&[f32]>,
        dx: &mut [f32],
        [dscale, dbias]: [&mut [f32]; 2],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        self.check(&[("scale", scale.len()), ("mean", mean.len()), ("variance", var.len())], &[("input", x.len())])?;
        self.check(&[("gradient of scale", dscale.len()), ("gradient of bias", dbias.len())], &[("dx", dx.len())])?;
        self.check(&[], &[("dy", dy.map_or(x.len(), <[f32]>::len))])?;
        let [affine, coefficients, partials] = self.scratch(scratch)?;
        let relu = match upstream {
            Upstream::Plain => false,
            Upstream::Relu(bias) => {
                self.check(&[("bias", bias.len())], &[])?;
                self.affine([scale, bias], [mean, var], affine);
                true
            }
        };
        let from = dy.map_or(dx.as_ptr(), <[f32]>::as_ptr);
        let reads = Reads { dy: from, y: std::ptr::null(), kept: std::ptr::null_mut() };
        self.sums(x, mean, relu.then_some(&*affine), reads, partials, pool);
        self.coefficients([scale, mean, var], partials, [dscale, dbias], coefficients);
        let coefficients = &*coefficients;
        let (affine, out) = (&*affine, SharedMut::new(dx));
        let from = Shared(from);
        pool.run(self.blocks(), &|block| {
            let range = self.range(block);
            let to = Back {
                channels: self.channels,
                coefficients,
                relu: relu.then_some(affine),
                x: &x[range.clone()],
                // SAFETY: the range is one of the gradient's and of `dx`, and no other block has it.
                dy: unsafe { from.get().add(range.start) },
                // SAFETY: as above.
                dx: unsafe { out.as_mut_ptr().add(range.start) },
            };
            dispatch(self.isa, to);
        });
        Ok(())
    }

    /// [`BatchNorm::backward`] behind a ReLU of more than the results, such as a sum with a residual: `y` is what ReLU gave, and what it lets
    /// through of its gradient `dy` is put into `kept` for others to read. `dy` is `None` if it lies in `kept`.
    ///
    /// # Errors
    /// As [`BatchNorm::backward`].
    pub fn backward_behind(
        &self,
        x: &[f32],
        [scale, mean, var]: [&[f32]; 3],
        y: &[f32],
        dy: Option<&[f32]>,
        kept: &mut [f32],
        dx: &mut [f32],
        [dscale, dbias]: [&mut [f32]; 2],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        self.check(&[("scale", scale.len()), ("mean", mean.len()), ("variance", var.len())], &[("input", x.len())])?;
        self.check(&[("gradient of scale", dscale.len()), ("gradient of bias", dbias.len())], &[("dx", dx.len())])?;
        self.check(&[], &[("kept", kept.len()), ("y", y.len()), ("dy", dy.map_or(x.len(), <[f32]>::len))])?;
        let [_, coefficients, partials] = self.scratch(scratch)?;
        let from = dy.map_or(kept.as_ptr(), <[f32]>::as_ptr);
        let reads = Reads { dy: from, y: y.as_ptr(), kept: kept.as_mut_ptr() };
        self.sums(x, mean, None, reads, partials, pool);
        self.coefficients([scale, mean, var], partials, [dscale, dbias], coefficients);
        let coefficients = &*coefficients;
        let (kept, out) = (&*kept, SharedMut::new(dx));
        pool.run(self.blocks(), &|block| {
            let range = self.range(block);
            let to = Back {
                channels: self.channels,
                coefficients,
                relu: None,
                x: &x[range.clone()],
                dy: kept[range.clone()].as_ptr(),
                // SAFETY: the range is one of `dx`, and no other block has it.
                dx: unsafe { out.as_mut_ptr().add(range.start) },
            };
            dispatch(self.isa, to);
        });
        Ok(())
    }

    /// For every block and channel: the sum of the gradient, and of its products with what the value is above the mean.
    fn sums(&self, x: &[f32], mean: &[f32], relu: Option<&[f32]>, reads: Reads, partials: &mut [f32], pool: &Pool) {
        let partials = SharedMut::new(partials);
        pool.run(self.blocks(), &|block| {
            let (range, at) = (self.range(block), block * 2 * self.channels);
            // SAFETY: blocks have partial results of their own.
            let out = unsafe { partials.slice(at..at + 2 * self.channels) };
            let reads = reads.at(range.start);
            dispatch(self.isa, Sums { channels: self.channels, mean, relu, x: &x[range], reads, out });
        });
    }

    /// The gradients of scale and bias, and what `dx` is of the gradient and the value: factors, slopes and shifts.
    fn coefficients(
        &self,
        [scale, mean, var]: [&[f32]; 3],
        partials: &[f32],
        [dscale, dbias]: [&mut [f32]; 2],
        coefficients: &mut [f32],
    ) {
        const WIDTH: usize = 16;
        let (c, n) = (self.channels, self.rows as f64);
        for first in (0..c).step_by(WIDTH) {
            let width = WIDTH.min(c - first);
            let (mut sums, mut products) = ([0.0f64; WIDTH], [0.0f64; WIDTH]);
            for block in partials.chunks_exact(2 * c) {
                for j in 0..width {
                    sums[j] += f64::from(block[first + j]);
                    products[j] += f64::from(block[c + first + j]);
                }
            }
            for j in 0..width {
                let at = first + j;
                let inverse = self.inverse(var[at]);
                let along = products[j] * inverse;
                (dscale[at], dbias[at]) = (along as f32, sums[j] as f32);
                // scale/σ · (dy − Σdy/n − (x − mean)/σ · Σ(dy·x̂)/n)
                let factor = f64::from(scale[at]) * inverse;
                let slope = -factor * inverse * along / n;
                coefficients[at] = factor as f32;
                coefficients[c + at] = slope as f32;
                coefficients[2 * c + at] = (-factor * sums[j] / n - slope * f64::from(mean[at])) as f32;
            }
        }
    }
}

/// An address that threads share.
#[derive(Clone, Copy)]
struct Shared(*const f32);

// SAFETY: only followed where the caller says why.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(self) -> *const f32 {
        self.0
    }
}

/// Where the gradient is read, and what ReLU gave and where what it keeps goes (null without).
#[derive(Clone, Copy)]
struct Reads {
    dy: *const f32,
    y: *const f32,
    kept: *mut f32,
}

// SAFETY: only followed in ranges that one thread has.
unsafe impl Send for Reads {}
// SAFETY: as above.
unsafe impl Sync for Reads {}

impl Reads {
    fn at(self, start: usize) -> Reads {
        let by = |p: *const f32| if p.is_null() { p } else { p.wrapping_add(start) };
        Reads { dy: by(self.dy), y: by(self.y), kept: by(self.kept).cast_mut() }
    }
}

/// Sums of a block, and squared deviations from its means.
struct Moments<'a> {
    channels: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Moments<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Moments { channels, x, out } = self;
        let rows = x.len() / channels;
        let (sums, squares) = out.split_at_mut(channels);
        for c in (0..channels).step_by(S::LANES) {
            let count = S::LANES.min(channels - c);
            let sum = over_rows(
                s,
                rows,
                // SAFETY: the row has `count` values from `c`.
                #[inline(always)]
                |row, sum| s.add(sum, unsafe { load(s, x.as_ptr().add(row * channels + c), count) }),
            );
            let mean = s.mul(sum, s.splat(1.0 / rows as f32));
            let square = over_rows(
                s,
                rows,
                #[inline(always)]
                |row, sum| {
                    // SAFETY: as above.
                    let apart = s.sub(unsafe { load(s, x.as_ptr().add(row * channels + c), count) }, mean);
                    s.fma(apart, apart, sum)
                },
            );
            s.store_tail(&mut sums[c..c + count], sum);
            s.store_tail(&mut squares[c..c + count], square);
        }
    }
}

/// Folds the rows in a fixed order, several chains at a time.
#[inline(always)]
fn over_rows<S: Simd>(s: S, rows: usize, step: impl Fn(usize, S::V) -> S::V) -> S::V {
    let mut chains = [s.splat(0.0); CHAINS];
    let whole = rows / CHAINS * CHAINS;
    let mut row = 0;
    while row < whole {
        for (i, chain) in chains.iter_mut().enumerate() {
            *chain = step(row + i, *chain);
        }
        row += CHAINS;
    }
    while row < rows {
        chains[0] = step(row, chains[0]);
        row += 1;
    }
    s.add(s.add(chains[0], chains[1]), s.add(chains[2], chains[3]))
}

/// The first `count` values of a vector.
///
/// # Safety
/// They must be readable.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, from: *const f32, count: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { if count == S::LANES { s.load_ptr(from) } else { s.load_first(from, count) } }
}

/// # Safety
/// `count` values must be writable.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, to: *mut f32, count: usize, value: S::V) {
    // SAFETY: the caller's promise.
    unsafe { if count == S::LANES { s.store_ptr(to, value) } else { s.store_first(to, count, value) } }
}

/// `y = clamp(x · factor + shift + residual)`
struct Apply<'a> {
    channels: usize,
    affine: &'a [f32],
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    clamp: Clamp,
    y: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Apply { channels, affine, x, residual, clamp, y } = self;
        let (lo, hi) = (s.splat(clamp.lo), s.splat(clamp.hi));
        for (row, y) in y.chunks_exact_mut(channels).enumerate() {
            for c in (0..channels).step_by(S::LANES) {
                let (count, at) = (S::LANES.min(channels - c), row * channels + c);
                // SAFETY: the row, and the vectors of channels, have `count` values from `c`.
                unsafe {
                    let (factor, shift) =
                        (load(s, affine.as_ptr().add(c), count), load(s, affine.as_ptr().add(channels + c), count));
                    let mut value = s.fma(load(s, x.as_ptr().add(at), count), factor, shift);
                    if let Some(residual) = residual {
                        value = s.add(value, load(s, residual.as_ptr().add(at), count));
                    }
                    store(s, y.as_mut_ptr().add(c), count, s.clamp(value, lo, hi));
                }
            }
        }
    }
}

/// The sums of [`BatchNorm::sums`] of one block.
struct Sums<'a> {
    channels: usize,
    mean: &'a [f32],
    /// Factors and shifts whose result ReLU saw.
    relu: Option<&'a [f32]>,
    x: &'a [f32],
    reads: Reads,
    out: &'a mut [f32],
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sums { channels, mean, relu, x, reads, out } = self;
        let (rows, zero) = (x.len() / channels, s.splat(0.0));
        let (sums, products) = out.split_at_mut(channels);
        for c in (0..channels).step_by(S::LANES) {
            let count = S::LANES.min(channels - c);
            // SAFETY: every row and every vector of channels has `count` values from `c`.
            unsafe {
                let mean = load(s, mean.as_ptr().add(c), count);
                let (factor, shift) = relu.map_or((zero, zero), |affine| {
                    (load(s, affine.as_ptr().add(c), count), load(s, affine.as_ptr().add(channels + c), count))
                });
                macro_rules! rows {
                    (|$at:ident, $x:ident, $dy:ident| $kept:expr) => {{
                        let (mut total, mut along) = ([zero; CHAINS], [zero; CHAINS]);
                        let mut row = 0;
                        while row < rows {
                            for i in 0..CHAINS.min(rows - row) {
                                let $at = (row + i) * channels + c;
                                let $x = load(s, x.as_ptr().add($at), count);
                                let $dy = load(s, reads.dy.add($at), count);
                                let kept = $kept;
                                total[i] = s.add(total[i], kept);
                                along[i] = s.fma(kept, s.sub($x, mean), along[i]);
                            }
                            row += CHAINS;
                        }
                        for (chains, to) in [(total, &mut *sums), (along, &mut *products)] {
                            let all = s.add(s.add(chains[0], chains[1]), s.add(chains[2], chains[3]));
                            store(s, to[c..c + count].as_mut_ptr(), count, all);
                        }
                    }};
                }
                if !reads.y.is_null() {
                    rows!(|at, x, dy| {
                        let kept = s.select_lt(zero, load(s, reads.y.add(at), count), dy, zero);
                        store(s, reads.kept.add(at), count, kept);
                        kept
                    });
                } else if relu.is_some() {
                    rows!(|at, x, dy| s.select_lt(zero, s.fma(x, factor, shift), dy, zero));
                } else {
                    rows!(|at, x, dy| dy);
                }
            }
        }
    }
}

/// `dx = factor · dy + slope · x + shift` for one block.
struct Back<'a> {
    channels: usize,
    /// Factors, slopes, shifts.
    coefficients: &'a [f32],
    /// Factors and shifts whose result ReLU saw.
    relu: Option<&'a [f32]>,
    x: &'a [f32],
    dy: *const f32,
    dx: *mut f32,
}

impl Kernel for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Back { channels, coefficients, relu, x, dy, dx } = self;
        let zero = s.splat(0.0);
        let vector = |of: &[f32], which: usize, c: usize, count: usize| {
            let values = &of[which * channels + c..][..count];
            if count == S::LANES { s.load(values) } else { s.load_tail(values) }
        };
        for row in 0..x.len() / channels {
            for c in (0..channels).step_by(S::LANES) {
                let (count, at) = (S::LANES.min(channels - c), row * channels + c);
                // SAFETY: the row has `count` values from `c` in all three.
                unsafe {
                    let (x, mut dy) = (load(s, x.as_ptr().add(at), count), load(s, dy.add(at), count));
                    if let Some(affine) = relu {
                        let y = s.fma(x, vector(affine, 0, c, count), vector(affine, 1, c, count));
                        dy = s.select_lt(zero, y, dy, zero);
                    }
                    let apart = s.fma(x, vector(coefficients, 1, c, count), vector(coefficients, 2, c, count));
                    store(s, dx.add(at), count, s.fma(dy, vector(coefficients, 0, c, count), apart));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::testing::noise;

    /// Results, mean and variance by their definitions.
    fn forward(c: usize, x: &[f32], scale: &[f32], bias: &[f32], epsilon: f64) -> [Vec<f64>; 3] {
        let n = (x.len() / c) as f64;
        let of = |channel: usize| x.iter().skip(channel).step_by(c).map(|v| f64::from(*v));
        let mean: Vec<f64> = (0..c).map(|i| of(i).sum::<f64>() / n).collect();
        let var: Vec<f64> = (0..c).map(|i| of(i).map(|v| (v - mean[i]).powi(2)).sum::<f64>() / n).collect();
        let y = x.iter().enumerate().map(|(i, x)| {
            let i = i % c;
            (f64::from(*x) - mean[i]) / (var[i] + epsilon).sqrt() * f64::from(scale[i]) + f64::from(bias[i])
        });
        [y.collect(), mean, var]
    }

    /// The gradients by their definitions.
    fn backward(
        c: usize,
        x: &[f32],
        dy: &[f64],
        scale: &[f32],
        mean: &[f64],
        var: &[f64],
        epsilon: f64,
    ) -> [Vec<f64>; 3] {
        let n = (x.len() / c) as f64;
        let normal = |i: usize| (f64::from(x[i]) - mean[i % c]) / (var[i % c] + epsilon).sqrt();
        let (mut dscale, mut dbias) = (vec![0.0; c], vec![0.0; c]);
        for (i, dy) in dy.iter().enumerate() {
            dscale[i % c] += dy * normal(i);
            dbias[i % c] += dy;
        }
        let dx = dy.iter().enumerate().map(|(i, dy)| {
            let c = i % c;
            f64::from(scale[c]) / (var[c] + epsilon).sqrt() * (dy - dbias[c] / n - normal(i) * dscale[c] / n)
        });
        [dx.collect(), dscale, dbias]
    }

    fn close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() <= tolerance, "{what} {i}: {found}, not {expected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn passes_agree_with_their_definitions_on_any_threads(
            images in 1..=5usize, pixels in 1..=90usize, c in 1..=70usize, offset in -30.0..30.0f32, relu: bool, with_residual: bool,
        ) {
            let len = images * pixels * c;
            let x: Vec<f32> = noise(1, len).iter().map(|v| v + offset).collect();
            let (scale, bias, dy) = (noise(2, c), noise(3, c), noise(4, len));
            let residual = with_residual.then(|| noise(5, len));
            let clamp = if relu { Clamp::RELU } else { Clamp::NONE };
            let epsilon = 0.01f32;
            let [mut y, mean, var] = forward(c, &x, &scale, &bias, epsilon.into());
            for (i, y) in y.iter_mut().enumerate() {
                *y += residual.as_ref().map_or(0.0, |r| f64::from(r[i]));
                if relu {
                    *y = y.max(0.0);
                }
            }
            for isa in Isa::available() {
                let plan = BatchNorm::new(isa, images, pixels, c, epsilon).unwrap();
                let mut first: Option<Vec<Vec<f32>>> = None;
                for threads in [1, 2, 5] {
                    let pool = Pool::kept(threads);
                    let mut scratch = vec![f32::NAN; plan.scratch_len()];
                    let mut out = vec![f32::NAN; len];
                    let (mut m, mut v) = (vec![f32::NAN; c], vec![f32::NAN; c]);
                    plan.forward(&x, [&scale, &bias], residual.as_deref(), clamp, &mut out, [&mut m, &mut v], &mut scratch, &pool).unwrap();
                    // A factor of up to 10 times the rounding of x itself.
                    let tolerance = 1e-5 * f64::from(1.0 + offset.abs());
                    close(&out, &y, 10.0 * tolerance, "y");
                    close(&m, &mean, tolerance, "mean");
                    close(&v, &var, tolerance, "variance");

                    // The signs that the kernel saw: near zero, roundings decide.
                    let kept: Vec<f64> =
                        dy.iter().zip(&out).map(|(dy, y)| if !relu || *y > 0.0 { f64::from(*dy) } else { 0.0 }).collect();
                    let [dx, dscale, dbias] = backward(c, &x, &kept, &scale, &mean, &var, epsilon.into());
                    let most = kept.iter().map(|v| v.abs()).sum::<f64>() + 1.0;
                    let (mut d, mut ds, mut db) = (vec![f32::NAN; len], vec![f32::NAN; c], vec![f32::NAN; c]);
                    let vectors = [&scale[..], &m, &v];
                    let mut results = vec![out.clone(), m.clone(), v.clone()];
                    if !with_residual {
                        let upstream = if relu { Upstream::Relu(&bias) } else { Upstream::Plain };
                        plan.backward(&x, vectors, upstream, Some(&dy), &mut d, [&mut ds, &mut db], &mut scratch, &pool).unwrap();
                        let mut again = dy.clone();
                        plan.backward(&x, vectors, upstream, None, &mut again, [&mut ds, &mut db], &mut scratch, &pool).unwrap();
                        prop_assert_eq!(&d, &again);
                    } else if relu {
                        let mut through = vec![f32::NAN; len];
                        plan.backward_behind(
                            &x, vectors, &out, Some(&dy), &mut through, &mut d, [&mut ds, &mut db], &mut scratch, &pool,
                        ).unwrap();
                        prop_assert!(through.iter().zip(&kept).all(|(a, b)| f64::from(*a) == *b));
                        let (mut again, mut place) = (d.clone(), dy.clone());
                        plan.backward_behind(
                            &x, vectors, &out, None, &mut place, &mut again, [&mut ds, &mut db], &mut scratch, &pool,
                        ).unwrap();
                        prop_assert_eq!((&d, &through), (&again, &place));
                    } else {
                        continue;
                    }
                    close(&d, &dx, 1e-4 * f64::from(1.0 + offset.abs()), "dx");
                    close(&ds, &dscale, 1e-5 * most, "dscale");
                    close(&db, &dbias, 1e-5 * most, "dbias");
                    results.extend([d, ds, db]);
                    prop_assert_eq!(first.get_or_insert_with(|| results.clone()), &results, "{} threads", threads);
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(BatchNorm::new(Isa::Scalar, 1, 0, 3, 0.1).is_err());
        assert!(BatchNorm::new(Isa::Scalar, usize::MAX, 2, 3, 0.1).is_err());
        let plan = BatchNorm::new(Isa::Scalar, 1, 2, 3, 0.1).unwrap();
        let (pool, mut y, mut mean, mut var) = (Pool::new(1), [0.0; 6], [0.0; 3], [0.0; 3]);
        let mut run = |x: &[f32], scale: &[f32], scratch: usize| {
            let mut scratch = vec![0.0; scratch];
            plan.forward(x, [scale, &[0.0; 3]], None, Clamp::NONE, &mut y, [&mut mean, &mut var], &mut scratch, &pool)
        };
        assert!(run(&[0.0; 6], &[1.0; 3], plan.scratch_len()).is_ok());
        assert!(run(&[0.0; 5], &[1.0; 3], plan.scratch_len()).is_err());
        assert!(run(&[0.0; 6], &[1.0; 2], plan.scratch_len()).is_err());
        assert!(run(&[0.0; 6], &[1.0; 3], plan.scratch_len() - 1).is_err());
    }
}

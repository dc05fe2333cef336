//! Convolution of few output channels, one vector of them, by windows three pixels wide.
//!
//! With one vector a pixel, the product of [`super::direct`] loads a value for each multiplication of a vector, and loads are what there are too
//! few of. Here each value of a row, once broadcast, serves the three windows it is in; sums are those of a run of pixels.

use std::ops::Range;

use crate::ConvGeometry;
use crate::float::Clamp;
use crate::float::simd::{Kernel, Simd};

/// Pixels of the shortest run.
const SHORT: usize = 8;

/// Whether this is the method for a vector of so many floats.
pub(super) fn suits(g: &ConvGeometry, lanes: usize) -> bool {
    g.groups == 1
        && g.kernel[1] == 3
        && g.stride == [1, 1]
        && (g.dilation[1], g.pad_left) == (1, 1)
        && g.in_w == g.out_w
        && g.out_w >= SHORT
        && (lanes / 2 + 1..=lanes).contains(&g.out_c)
}

/// Some rows of results of one image.
pub(super) struct ImageRows<'a> {
    pub(super) geometry: &'a ConvGeometry,
    pub(super) input: &'a [f32],
    /// One panel of one vector.
    pub(super) weights: &'a [f32],
    /// Padded; empty for none.
    pub(super) bias: &'a [f32],
    /// One pixel, at least.
    pub(super) zeros: &'a [f32],
    pub(super) clamp: Clamp,
    pub(super) rows: Range<usize>,
    /// The image's results, `[out_h, out_w, out_c]`.
    pub(super) out: *mut f32,
    /// What is added, or null.
    pub(super) residual: *const f32,
}

impl Kernel for ImageRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        debug_assert!(self.geometry.out_c <= S::LANES);
        match self.geometry.out_w {
            // Runs of a size that needs as few as possible, as long as the registers hold their sums.
            24.. if S::ROWS >= 12 && !self.geometry.out_w.is_multiple_of(16) => self.runs::<S, 24>(simd),
            16.. if S::ROWS >= 12 => self.runs::<S, 16>(simd),
            _ => self.runs::<S, SHORT>(simd),
        }
    }
}

impl ImageRows<'_> {
    #[inline(always)]
    fn runs<S: Simd, const RUN: usize>(&self, simd: S) {
        let g = self.geometry;
        for row in self.rows.clone() {
            for start in (0..g.out_w).step_by(RUN) {
                // The last run goes over some pixels again rather than be shorter.
                simd.vectorize(Run::<RUN> { image: self, row, start: start.min(g.out_w - RUN) });
            }
        }
    }
}

/// A run of pixels of a row.
struct Run<'a, const RUN: usize> {
    image: &'a ImageRows<'a>,
    row: usize,
    start: usize,
}

impl<const RUN: usize> Kernel for Run<'_, RUN> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ImageRows { geometry: g, input, weights, bias, zeros, clamp, .. } = *self.image;
        let channels = g.in_c;
        let at = (self.row * g.out_w + self.start) * g.out_c;
        // Results, and what is added to them, arrive while their sums are computed.
        for i in 0..RUN {
            simd.prefetch(self.image.out.wrapping_add(at + i * g.out_c));
            if !self.image.residual.is_null() {
                simd.prefetch(self.image.residual.wrapping_add(at + i * g.out_c));
            }
        }
        let mut acc = [if bias.is_empty() { simd.splat(0.0) } else { simd.load(bias) }; RUN];
        for down in g.row_taps(self.row) {
            let row = self.row + down * g.dilation[0] - g.pad_top;
            let line = &input[row * g.in_w * channels..][..g.in_w * channels];
            let taps = &weights[down * 3 * channels * S::LANES..][..3 * channels * S::LANES];
            assert!(self.start + RUN <= g.in_w && zeros.len() >= channels);
            // SAFETY: the pixels of the run, and those beside it that the image has, are in the line; for those it does not have there is a
            // pixel of zeros. A row of the window has three taps of a vector for each channel.
            unsafe {
                let middle = line.as_ptr().add(self.start * channels);
                let before = if self.start == 0 { zeros.as_ptr() } else { middle.sub(channels) };
                let end = self.start + RUN;
                let behind = if end == g.in_w { zeros.as_ptr() } else { line.as_ptr().add(end * channels) };
                for c in 0..channels {
                    let tap = |right: usize| simd.load_ptr(taps.as_ptr().add((right * channels + c) * S::LANES));
                    let [left, centre, right] = [tap(0), tap(1), tap(2)];
                    let x = simd.splat(*before.add(c));
                    acc[0] = simd.fma(x, left, acc[0]);
                    let mut from = middle.add(c);
                    for i in 0..RUN {
                        let x = simd.splat(*from);
                        from = from.wrapping_add(channels);
                        // This pixel is the right one of the window before, the middle of its own, and the left one of the next.
                        if i > 0 {
                            acc[i - 1] = simd.fma(x, right, acc[i - 1]);
                        }
                        acc[i] = simd.fma(x, centre, acc[i]);
                        if i + 1 < RUN {
                            acc[i + 1] = simd.fma(x, left, acc[i + 1]);
                        }
                    }
                    let x = simd.splat(*behind.add(c));
                    acc[RUN - 1] = simd.fma(x, right, acc[RUN - 1]);
                }
            }
        }
        let (lo, hi) = (simd.splat(clamp.lo), simd.splat(clamp.hi));
        for (i, sum) in acc.into_iter().enumerate() {
            // SAFETY: results of pixels of this image, and what is added to them.
            unsafe {
                let (to, residual) = (self.image.out.add(at + i * g.out_c), self.image.residual);
                let mut value = sum;
                if !residual.is_null() {
                    value = simd.add(value, simd.load_first(residual.add(at + i * g.out_c), g.out_c));
                }
                if g.out_c == S::LANES {
                    simd.store_ptr(to, simd.clamp(value, lo, hi));
                } else {
                    simd.store_first(to, g.out_c, simd.clamp(value, lo, hi));
                }
            }
        }
    }
}

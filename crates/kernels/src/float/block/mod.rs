//! Convolutions one after the other, a band of rows at a time: one that widens, a depthwise one, and a pointwise one that narrows, as in the
//! inverted residual block of Sandler et al., "MobileNetV2", 2018; or the last two alone.
//!
//! By itself each layer writes a wide image to memory that the next one reads back. Here the wide rows that the depthwise window needs
//! lie in a ring, a panel of channels after the other, between columns of zeros, and never leave the second-level cache.

mod channels;
mod dense;
mod window;

use std::ops::Range;

use super::Clamp;
use super::product::panels::Panels;
use super::simd::{Kernel, Simd, dispatch_vectors};
use crate::aligned::Aligned;
use crate::pool::SharedMut;
use crate::prepacked::Tag;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};
use dense::{Dense, padded_w};

/// Pixels worth narrowing at once, at least: they share one pass over the weights.
const PIXELS: usize = 56;
/// Values of filtered rows that may wait to be narrowed beyond that.
const WAITING: usize = 16 << 10;

/// One of the convolutions of a block.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Its sizes.
    pub geometry: ConvGeometry,
    /// `[out_c, kernel[0], kernel[1], in_c / groups]`
    pub weights: &'a [f32],
    /// `[out_c]`
    pub bias: Option<&'a [f32]>,
    /// Limits of its results.
    pub clamp: Clamp,
}

/// A block with its weights packed for one instruction set.
#[derive(Debug, Clone)]
pub struct Block {
    isa: Isa,
    widen: Option<Dense>,
    depthwise: ConvGeometry,
    /// How the channels between the layers are cut.
    panels: Panels,
    /// For each tap, the weights of all channels, padded to whole vectors.
    taps: Aligned<f32>,
    /// Padded likewise.
    taps_bias: Aligned<f32>,
    taps_clamp: Clamp,
    narrow: Dense,
}

impl Block {
    /// Whether these layers make a block that this kernel computes.
    #[must_use]
    pub fn applies(widen: Option<&ConvGeometry>, depthwise: &ConvGeometry, narrow: &ConvGeometry) -> bool {
        let fits = |widen: &ConvGeometry| {
            dense::suits(widen)
                && (widen.batch, widen.out_h, widen.out_w, widen.out_c)
                    == (depthwise.batch, depthwise.in_h, depthwise.in_w, depthwise.in_c)
        };
        widen.is_none_or(fits)
            && depthwise.is_depthwise()
            && depthwise.dilation == [1, 1]
            && window::has(depthwise.kernel, depthwise.stride)
            && narrow.is_pointwise()
            && narrow.groups == 1
            && (depthwise.batch, depthwise.out_h, depthwise.out_w, depthwise.out_c)
                == (narrow.batch, narrow.in_h, narrow.in_w, narrow.in_c)
    }

    /// Whether it is likely to be faster than the layers one by one. Measured: always, unless rows are very short.
    #[must_use]
    pub fn pays(widen: Option<&ConvGeometry>, depthwise: &ConvGeometry, narrow: &ConvGeometry) -> bool {
        Block::applies(widen, depthwise, narrow) && depthwise.out_w >= 4
    }

    /// Packs a block for `isa` (or the best set below it that this machine has).
    ///
    /// # Errors
    /// [`KernelError`] when the set is [`Isa::Scalar`], [`Block::applies`] does not hold, a geometry contradicts itself, or an argument has another length than it says.
    pub fn pack(
        isa: Isa,
        widen: Option<&Layer<'_>>,
        depthwise: &Layer<'_>,
        narrow: &Layer<'_>,
    ) -> Result<Block, KernelError> {
        for layer in widen.into_iter().chain([depthwise, narrow]) {
            layer.geometry.check()?;
            expect_len("weights", layer.weights.len(), layer.geometry.weights_len())?;
            if let Some(bias) = layer.bias {
                expect_len("bias", bias.len(), layer.geometry.out_c)?;
            }
        }
        if !Block::applies(widen.map(|w| &w.geometry), &depthwise.geometry, &narrow.geometry) {
            return Err(KernelError::Geometry("the layers do not make an inverted residual block".to_owned()));
        }
        let isa = isa.or_supported();
        if isa == Isa::Scalar {
            return Err(KernelError::Unsupported("blocks of scalar code; layers run one by one".to_owned()));
        }
        let geometry = depthwise.geometry;
        let hidden = Panels::new(isa, 1, geometry.in_c).padded_cols();
        let tag = Tag::new("taps of a block f32", &[geometry.in_c, geometry.kernel[0], geometry.kernel[1], hidden]);
        let taps = Aligned::packed(tag, hidden * geometry.taps(), |taps| {
            for (tap, line) in taps.chunks_exact_mut(hidden).enumerate() {
                for (c, value) in line[..geometry.in_c].iter_mut().enumerate() {
                    *value = depthwise.weights[c * geometry.taps() + tap];
                }
            }
        });
        let mut taps_bias = Aligned::zeros(hidden);
        if let Some(bias) = depthwise.bias {
            taps_bias[..geometry.in_c].copy_from_slice(bias);
        }
        Ok(Block {
            isa,
            widen: widen.map(|layer| Dense::pack(isa, layer, hidden)),
            depthwise: geometry,
            panels: Panels::new(isa, 1, hidden),
            taps,
            taps_bias,
            taps_clamp: depthwise.clamp,
            narrow: Dense::pack(isa, narrow, narrow.geometry.out_c),
        })
    }

    /// How many values of scratch [`Block::run`] needs on a pool of at most so many threads.
    #[must_use]
    pub fn scratch_len(&self, threads: usize) -> usize {
        let need = |threads: usize| match self.cut(threads) {
            [step, _] if self.by_channels(threads, step) => self.channels_len(threads),
            [_, group] => threads * self.worker_len(group),
        };
        (1..=threads.max(1)).map(need).max().unwrap_or(0)
    }

    /// Computes the block for `x` `[batch, in_h, in_w, in_c]` and `y` and `residual` `[batch, out_h, out_w, out_c]`; `residual` is
    /// added before the last clamp. `scratch` has at least [`Block::scratch_len`] values. Allocates nothing. Results do not depend on the number
    /// of threads.
    ///
    /// # Errors
    /// [`KernelError::Length`] when a slice does not have the length the geometries imply.
    pub fn run(
        &self,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let (from, to) = (self.widen.as_ref().map_or(&self.depthwise, |widen| &widen.geometry), &self.narrow.geometry);
        expect_len("input", x.len(), from.input_len())?;
        expect_len("output", y.len(), to.output_len())?;
        if let Some(residual) = residual {
            expect_len("residual", residual.len(), y.len())?;
        }
        let [step, group] = self.cut(pool.threads());
        let (len, channels) = (self.worker_len(group), self.by_channels(pool.threads(), step));
        let need = if channels { self.channels_len(pool.threads()) } else { len * pool.threads() };
        if scratch.len() < need {
            return Err(KernelError::Length { what: "scratch", expected: need, found: scratch.len() });
        }
        if channels {
            self.run_by_channels(x, residual, &SharedMut::new(y), scratch, pool);
            return Ok(());
        }
        let bands = to.out_h.div_ceil(step);
        let (out, scratch) = (SharedMut::new(y), SharedMut::new(scratch));
        pool.run_indexed(to.batch * bands, &|worker, chunk| {
            let (image, band) = (chunk / bands, chunk % bands);
            let rows = band * step..to.out_h.min((band + 1) * step);
            let x = &x[image * (x.len() / to.batch)..][..x.len() / to.batch];
            // SAFETY: chunks that run at the same time have different workers.
            let scratch = unsafe { scratch.slice(worker * len..(worker + 1) * len) };
            dispatch_vectors(self.isa, Band { block: self, x, image, residual, out: &out, rows, group, scratch });
        });
        Ok(())
    }

    /// Output rows of a task, and how many of them are carried through together.
    fn cut(&self, threads: usize) -> [usize; 2] {
        let to = &self.narrow.geometry;
        let bands = match threads {
            1 => 1,
            // Bands of few rows would widen many rows twice, so there are only as many as threads.
            threads if to.out_h < 14 * threads => threads.div_ceil(to.batch).clamp(1, to.out_h),
            threads => (2 * threads).div_ceil(to.batch).clamp(1, to.out_h),
        };
        let step = to.out_h.div_ceil(bands);
        let most = (PIXELS.max(WAITING / self.hidden()) / to.out_w).clamp(1, step);
        // About equally many each time.
        [step, step.div_ceil(step.div_ceil(most))]
    }

    /// Values of scratch for one thread, in whole cache lines.
    fn worker_len(&self, group: usize) -> usize {
        self.scratch(group).iter().sum::<usize>().next_multiple_of(16)
    }

    /// Channels between the layers, padded to whole vectors.
    fn hidden(&self) -> usize {
        self.taps_bias.len()
    }

    /// Columns of the ring: the wide row, and what the window reads on both sides.
    fn ring_w(&self) -> usize {
        padded_w(&self.depthwise)
    }

    /// Rows of the ring: what `group` windows below each other read.
    fn ring_h(&self, group: usize) -> usize {
        (group - 1) * self.depthwise.stride[0] + self.depthwise.kernel[0]
    }

    /// Values of scratch: the ring, a row of zeros, filtered rows, what the first layer unfolds.
    fn scratch(&self, group: usize) -> [usize; 4] {
        let ring_h = self.ring_h(group);
        [
            self.ring_w() * ring_h * self.hidden(),
            self.ring_w() * 2 * self.panels.lanes(),
            group * self.depthwise.out_w * self.hidden(),
            self.widen.as_ref().map_or(0, |widen| widen.scratch(ring_h)),
        ]
    }
}

/// Some output rows of one image.
struct Band<'a> {
    block: &'a Block,
    x: &'a [f32],
    image: usize,
    residual: Option<&'a [f32]>,
    out: &'a SharedMut<'a, f32>,
    rows: Range<usize>,
    /// Rows that are carried through together.
    group: usize,
    scratch: &'a mut [f32],
}

impl Kernel for Band<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Band { block, x, image, residual, out, rows, group, scratch } = self;
        let [ring_len, zeros_len, middle_len, _] = block.scratch(group);
        let (ring, rest) = scratch.split_at_mut(ring_len);
        let (zeros, rest) = rest.split_at_mut(zeros_len);
        let (middle, unfolded) = rest.split_at_mut(middle_len);
        let g = &block.depthwise;
        let (ring_w, ring_h, hidden) = (block.ring_w(), block.ring_h(group), block.hidden());
        zeros.fill(0.0);
        block.clear_sides(simd, ring, ring_h);
        // The first wide row that is not in the ring.
        let mut next = (rows.start * g.stride[0]).saturating_sub(g.pad_top);
        for first in rows.clone().step_by(group) {
            let count = group.min(rows.end - first);
            let end = ((first + count - 1) * g.stride[0] + g.kernel[0]).saturating_sub(g.pad_top).min(g.in_h);
            // Rows that no window reads are left out.
            next = next.max((first * g.stride[0]).saturating_sub(g.pad_top));
            if let Some(widen) = &block.widen {
                widen.unfold(simd, x, next..end, unfolded);
            }
            // A panel at a time, so that the window finds the rows that are new in the first-level cache.
            for panel in 0..block.panels.count() {
                let (column, width) = (block.panels.column(panel), block.panels.width(panel));
                let plane = &mut ring[ring_w * column * ring_h..][..ring_w * ring_h * width];
                let mut product = block.widen.as_ref().map(|widen| (widen, widen.panel(simd, panel)));
                for row in next..end {
                    let into = &mut plane[(row % ring_h * ring_w + g.pad_left) * width..][..g.in_w * width];
                    match &mut product {
                        Some((widen, product)) => widen.row(simd, product, x, unfolded, [row, row - next], into),
                        None => copy(simd, &x[row * g.in_w * g.in_c..][..g.in_w * g.in_c], g.in_c, column, width, into),
                    }
                }
                assert!(middle.len() >= count * g.out_w * hidden);
                // SAFETY: there is a pixel of `hidden` channels for every result.
                unsafe {
                    let middle = middle.as_mut_ptr().add(column);
                    window::rows(simd, block, plane, zeros, first..first + count, [column, width, ring_h], middle);
                }
            }
            next = next.max(end);
            let pixels = count * g.out_w;
            let at = (image * g.out_h + first) * g.out_w * block.narrow.geometry.out_c;
            for panel in 0..block.narrow.panels.count() {
                let at = at + block.narrow.panels.column(panel);
                let mut product = block.narrow.product(simd, panel, pixels, hidden);
                product.left = middle.as_ptr();
                product.stride = block.narrow.geometry.out_c;
                // SAFETY: these pixels are part of the output and the residual, whose lengths were checked, and of this band alone; `middle`
                // has a row of channels for each.
                unsafe {
                    product.out = out.as_mut_ptr().add(at);
                    product.residual = residual.map_or(std::ptr::null(), |residual| residual.as_ptr().add(at));
                    product.run_inside(simd, 0..pixels.div_ceil(product.tile_rows), 0..1);
                }
            }
        }
    }
}

/// Copies `width` channels from `column` on of a row of pixels of `channels`; what lies beyond them is 0.
#[inline(always)]
fn copy<S: Simd>(simd: S, row: &[f32], channels: usize, column: usize, width: usize, into: &mut [f32]) {
    if column + width <= channels {
        // Whole vectors, and as a rule two of them.
        let pixels = into.len() / width;
        assert!(row.len() >= pixels * channels);
        // SAFETY: every pixel of `row` has `width` values from `column` on, every pixel of `into` that many.
        unsafe {
            let (mut from, mut to) = (row.as_ptr().add(column), into.as_mut_ptr());
            for _ in 0..pixels {
                simd.store_ptr(to, simd.load_ptr(from));
                if width > S::LANES {
                    simd.store_ptr(to.add(S::LANES), simd.load_ptr(from.add(S::LANES)));
                }
                (from, to) = (from.wrapping_add(channels), to.add(width));
            }
        }
        return;
    }
    for (from, to) in row.chunks_exact(channels).zip(into.chunks_exact_mut(width)) {
        let from = &from[column..];
        for c in (0..width).step_by(S::LANES) {
            let value = match from.get(c..c + S::LANES) {
                Some(from) => simd.load(from),
                None => simd.load_tail(&from[c..]),
            };
            simd.store(&mut to[c..], value);
        }
    }
}

impl Block {
    /// Writes zeros to the columns of the ring beside the image.
    #[inline(always)]
    fn clear_sides<S: Simd>(&self, simd: S, ring: &mut [f32], ring_h: usize) {
        let (g, ring_w) = (&self.depthwise, self.ring_w());
        for panel in 0..self.panels.count() {
            let width = self.panels.width(panel);
            let plane = &mut ring[ring_w * self.panels.column(panel) * ring_h..];
            for line in plane.chunks_exact_mut(ring_w * width).take(ring_h) {
                // A loop of stores: a call for a pixel of zeros costs more than they do.
                let (left, rest) = line.split_at_mut(g.pad_left * width);
                let sides = left.chunks_exact_mut(S::LANES).chain(rest[g.in_w * width..].chunks_exact_mut(S::LANES));
                sides.for_each(
                    #[inline(always)]
                    |to| simd.store(to, simd.splat(0.0)),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;

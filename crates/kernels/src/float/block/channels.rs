//! A block of few rows on several threads. Bands of rows would each widen the rows that their windows share with the next band, which of seven
//! rows is most of them; so threads take channels instead: they widen and filter some of them over the whole image, and when all are done, narrow.

use std::ops::Range;

use super::{Block, window};
use crate::Pool;
use crate::float::simd::{Kernel, Simd, dispatch_vectors};
use crate::pool::SharedMut;

/// Rows that bands may widen twice, of a hundred, before threads take channels.
const MOST_TWICE: usize = 12;
/// Values between the layers that may go through the caches of all cores.
const MOST_MIDDLE: usize = 128 << 10;

impl Block {
    /// Whether so many threads take channels, where they would otherwise work on bands of `step` rows of output.
    pub(super) fn by_channels(&self, threads: usize, step: usize) -> bool {
        let (Some(widen), g) = (&self.widen, &self.depthwise) else { return false };
        let bands = g.out_h.div_ceil(step);
        let seen = |band: usize| {
            let (first, last) = (band * step, ((band + 1) * step).min(g.out_h) - 1);
            let start = (first * g.stride[0]).saturating_sub(g.pad_top);
            (last * g.stride[0] + g.kernel[0]).saturating_sub(g.pad_top).min(g.in_h).saturating_sub(start)
        };
        let widened: usize = (0..bands).map(seen).sum();
        threads > 1
            && widen.is_pointwise()
            && self.middle_len() <= MOST_MIDDLE
            && 100 * widened > (100 + MOST_TWICE) * g.in_h
    }

    /// Values between the depthwise layer and the last one.
    fn middle_len(&self) -> usize {
        self.depthwise.out_pixels() * self.hidden()
    }

    /// Values of scratch of a thread: a panel of the wide image, and a row of zeros.
    fn plane_len(&self) -> [usize; 2] {
        let width = 2 * self.panels.lanes();
        [self.ring_w() * self.depthwise.in_h * width, self.ring_w() * width]
    }

    /// Values of scratch that [`Block::run_by_channels`] needs.
    pub(super) fn channels_len(&self, threads: usize) -> usize {
        self.middle_len().next_multiple_of(16) + threads * self.plane_len().iter().sum::<usize>().next_multiple_of(16)
    }

    /// As [`Block::run`], whose lengths have been checked, with [`Block::channels_len`] values of scratch.
    pub(super) fn run_by_channels(
        &self,
        x: &[f32],
        residual: Option<&[f32]>,
        out: &SharedMut<'_, f32>,
        scratch: &mut [f32],
        pool: &Pool,
    ) {
        let (g, to) = (&self.depthwise, &self.narrow.geometry);
        let (middle, planes) = scratch.split_at_mut(self.middle_len().next_multiple_of(16));
        let (middle, planes) = (SharedMut::new(middle), SharedMut::new(planes));
        let plane = self.plane_len().iter().sum::<usize>().next_multiple_of(16);
        let parts = (2 * pool.threads()).min(self.panels.count());
        let image_len = x.len() / g.batch;
        pool.run_indexed(g.batch * parts, &|worker, chunk| {
            let (image, part) = (chunk / parts, chunk % parts);
            let panels = part * self.panels.count() / parts..(part + 1) * self.panels.count() / parts;
            // SAFETY: chunks that run at the same time have different workers.
            let scratch = unsafe { planes.slice(worker * plane..(worker + 1) * plane) };
            let x = &x[image * image_len..][..image_len];
            dispatch_vectors(self.isa, Filter { block: self, x, image, middle: &middle, panels, scratch });
        });
        // Now every pixel has all its channels.
        let pixels = to.out_pixels();
        let panels = self.narrow.panels.count();
        let pieces = (2 * pool.threads()).div_ceil(panels);
        pool.run(panels * pieces, &|chunk| {
            let (panel, piece) = (chunk / pieces, chunk % pieces);
            dispatch_vectors(
                self.isa,
                Narrow { block: self, middle: &middle, residual, out, panel, pixels, piece, pieces },
            );
        });
    }
}

/// Widens and filters some panels of channels of an image.
struct Filter<'a> {
    block: &'a Block,
    x: &'a [f32],
    image: usize,
    /// `[pixel][channel]`
    middle: &'a SharedMut<'a, f32>,
    panels: Range<usize>,
    scratch: &'a mut [f32],
}

impl Kernel for Filter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Filter { block, x, image, middle, panels, scratch } = self;
        let Some(widen) = &block.widen else { return };
        let (g, ring_w, hidden) = (&block.depthwise, block.ring_w(), block.hidden());
        let (plane, zeros) = scratch.split_at_mut(block.plane_len()[0]);
        zeros.fill(0.0);
        let first = image * g.out_h * g.out_w * hidden;
        assert!(first + g.out_h * g.out_w * hidden <= middle.len());
        let mut cleared = 0;
        for panel in panels {
            let (column, width) = (block.panels.column(panel), block.panels.width(panel));
            let plane = &mut plane[..ring_w * g.in_h * width];
            if cleared != width {
                plane.fill(0.0);
                cleared = width;
            }
            let mut product = widen.panel(simd, panel);
            for row in 0..g.in_h {
                let into = &mut plane[(row * ring_w + g.pad_left) * width..][..g.in_w * width];
                widen.row(simd, &mut product, x, &[], [row, 0], into);
            }
            // SAFETY: the image has a pixel of `hidden` channels for every result in `middle`, and these channels are this chunk's alone.
            unsafe {
                let to = middle.as_mut_ptr().add(first + column);
                window::rows(simd, block, plane, zeros, 0..g.out_h, [column, width, g.in_h], to);
            }
        }
    }
}

/// Computes a panel of the last layer's columns, for one of `pieces` pieces of the pixels.
struct Narrow<'a> {
    block: &'a Block,
    middle: &'a SharedMut<'a, f32>,
    residual: Option<&'a [f32]>,
    out: &'a SharedMut<'a, f32>,
    panel: usize,
    pixels: usize,
    piece: usize,
    pieces: usize,
}

impl Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Narrow { block, middle, residual, out, panel, pixels, piece, pieces } = self;
        let mut product = block.narrow.product(simd, panel, pixels, block.hidden());
        let tiles = pixels.div_ceil(product.tile_rows);
        let column = block.narrow.panels.column(panel);
        product.stride = block.narrow.geometry.out_c;
        product.left = middle.as_mut_ptr();
        // SAFETY: every pixel has its channels in `middle`, which nobody writes any more; the output and the residual, whose lengths were checked, have
        // these columns of all pixels, and these tiles of them are this chunk's alone.
        unsafe {
            product.out = out.as_mut_ptr().add(column);
            product.residual = residual.map_or(std::ptr::null(), |residual| residual.as_ptr().add(column));
            product.run_inside(simd, piece * tiles / pieces..(piece + 1) * tiles / pieces, 0..1);
        }
    }
}

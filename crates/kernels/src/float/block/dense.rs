//! The dense convolutions of a block, as products.

use std::borrow::Cow;
use std::ops::Range;

use super::Layer;
use crate::aligned::Aligned;
use crate::float::Clamp;
use crate::float::product::panels::Panels;
use crate::float::product::{Product, Rows, tile_rows};
use crate::float::simd::Simd;
use crate::prepacked::Tag;
use crate::{ConvGeometry, Isa};

/// The longest window that is unfolded, in values; pointwise convolutions read pixels where they lie.
const MAX_WINDOW: usize = 512;
/// The most values of the padded rows that a row of windows is unfolded from.
const MAX_ROW: usize = 1 << 16;
/// What unfolding may read and write beyond the end: a vector.
const SLACK: usize = 16;

/// Rows of windows that have at least so many values are read where they lie; shorter ones cost the microkernel more than copying them.
const LONG_RUN: usize = 8;
const _: () = assert!(LONG_RUN <= SLACK);

/// A convolution packed as a product.
#[derive(Debug, Clone)]
pub(super) struct Dense {
    pub(super) geometry: ConvGeometry,
    /// As [`Rows::Table`], for the pixels of one output row: where the rows of their windows start in padded input rows. Empty if windows are
    /// copied side by side, or are single pixels.
    table: Vec<u32>,
    pub(super) panels: Panels,
    weights: Aligned<f32>,
    /// Padded to whole vectors.
    bias: Aligned<f32>,
    clamp: Clamp,
}

/// Columns that the windows of a row go over.
pub(super) fn padded_w(g: &ConvGeometry) -> usize {
    let windows = (g.out_w - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
    windows.max(g.pad_left.saturating_add(g.in_w))
}

/// Whether a convolution can be the first of a block.
pub(super) fn suits(g: &ConvGeometry) -> bool {
    let unfolds = g.dilation[1] == 1
        && g.taps() * g.in_c <= MAX_WINDOW
        && padded_w(g).saturating_mul(g.in_c * g.kernel[0]) <= MAX_ROW;
    g.groups == 1 && (g.is_pointwise() || unfolds)
}

impl Dense {
    /// Packs a layer for `cols` output channels; those beyond its own give 0 before the clamp.
    pub(super) fn pack(isa: Isa, layer: &Layer<'_>, cols: usize) -> Dense {
        let geometry = layer.geometry;
        let (depth, out) = (geometry.taps() * geometry.in_c, geometry.out_c);
        let panels = Panels::new(isa, depth, cols);
        let tag = Tag::new("panels f32", &[depth, out, cols, panels.lanes()]);
        let weights = Aligned::packed(tag, panels.len(), |packed| {
            let mut own = Cow::Borrowed(layer.weights);
            if cols > out {
                own.to_mut().resize(cols * depth, 0.0);
            }
            for panel in 0..panels.count() {
                panels.pack(panel, &own, 1, depth, &mut packed[panels.offset(panel)..]);
            }
        });
        let mut bias = Aligned::zeros(panels.padded_cols());
        if let Some(from) = layer.bias {
            bias[..out].copy_from_slice(from);
        }
        let mut table = vec![];
        if !geometry.is_pointwise() && geometry.kernel[1] * geometry.in_c >= LONG_RUN {
            let rows = tile_rows(geometry.out_w, panels.rows());
            let at = |down: usize, col: usize| (down * padded_w(&geometry) + col * geometry.stride[1]) * geometry.in_c;
            for first in (0..geometry.out_w).step_by(rows) {
                for down in 0..geometry.kernel[0] {
                    table.extend((first..(first + rows).min(geometry.out_w)).map(|col| at(down, col) as u32));
                }
            }
        }
        Dense { geometry, table, panels, weights, bias, clamp: layer.clamp }
    }

    /// Length of a row of the product.
    fn depth(&self) -> usize {
        self.geometry.taps() * self.geometry.in_c
    }

    /// Values of the padded input rows under one row of windows.
    fn lines(&self) -> usize {
        self.geometry.kernel[0] * padded_w(&self.geometry) * self.geometry.in_c
    }

    /// Values that one output row is made of.
    fn source_len(&self) -> usize {
        if self.table.is_empty() { self.geometry.out_w * self.depth() } else { self.lines() }
    }

    /// Whether it reads its input where it lies.
    pub(super) fn is_pointwise(&self) -> bool {
        self.geometry.is_pointwise()
    }

    /// Values of scratch that unfolding `rows` output rows takes.
    pub(super) fn scratch(&self, rows: usize) -> usize {
        if self.geometry.is_pointwise() { 0 } else { rows * self.source_len() + self.lines() + 2 * SLACK }
    }

    /// Prepares what output `rows` of the image `x` are made of: the input rows under their windows between zeros, or the windows side by side.
    #[inline(always)]
    pub(super) fn unfold<S: Simd>(&self, simd: S, x: &[f32], rows: Range<usize>, into: &mut [f32]) {
        const { assert!(S::LANES <= SLACK) };
        let g = &self.geometry;
        if g.is_pointwise() {
            return;
        }
        let (run, step, line_len) = (g.kernel[1] * g.in_c, g.stride[1] * g.in_c, padded_w(g) * g.in_c);
        let (into, apart) = into.split_at_mut(into.len() - self.lines() - SLACK);
        assert!(into.len() >= rows.len() * self.source_len() + SLACK && line_len >= (g.out_w - 1) * step + run);
        for (i, row) in rows.enumerate() {
            let lines =
                if self.table.is_empty() { &mut *apart } else { &mut into[i * self.source_len()..][..self.lines()] };
            for (down, line) in lines.chunks_exact_mut(line_len).enumerate() {
                let (left, inside) = (g.pad_left * g.in_c, g.in_w * g.in_c);
                match g.input_row(row, down) {
                    Some(from) => {
                        line[..left].fill(0.0);
                        line[left..left + inside].copy_from_slice(&x[from * inside..][..inside]);
                        line[left + inside..].fill(0.0);
                    }
                    None => line.fill(0.0),
                }
            }
            if !self.table.is_empty() {
                continue;
            }
            // SAFETY: all places are inside, as was asserted. Whole vectors are copied, in the order of memory: what one writes beyond its run, the
            // next ones put right, and the last of all writes to the slack.
            unsafe {
                let mut to = into[i * self.source_len()..].as_mut_ptr();
                for col in 0..g.out_w {
                    let mut from = apart.as_ptr().add(col * step);
                    for _ in 0..g.kernel[0] {
                        let mut at = 0;
                        while at < run {
                            simd.store_ptr(to.add(at), simd.load_ptr(from.add(at)));
                            at += S::LANES;
                        }
                        (from, to) = (from.add(line_len), to.add(run));
                    }
                }
            }
        }
    }

    /// Output row `row` of the image `x`, row `at` of those unfolded: the columns of one panel.
    #[inline(always)]
    pub(super) fn row<S: Simd>(
        &self,
        simd: S,
        x: &[f32],
        unfolded: &[f32],
        [row, at]: [usize; 2],
        panel: usize,
        into: &mut [f32],
    ) {
        let (g, depth) = (&self.geometry, self.depth());
        let mut product = self.product(simd, panel, g.out_w, depth);
        let from = if g.is_pointwise() { &x[row * g.out_w * depth..] } else { &unfolded[at * self.source_len()..] };
        if !self.table.is_empty() {
            (product.rows, product.taps, product.depth) = (Rows::Table(&self.table), g.kernel[0], g.kernel[1] * g.in_c);
        }
        let width = self.panels.width(panel);
        let (from, into) = (&from[..self.source_len()], &mut into[..g.out_w * width]);
        (product.left, product.out, product.stride) = (from.as_ptr(), into.as_mut_ptr(), width);
        // SAFETY: `from` has a row as long as the product is deep for every pixel, or what the table leads to; `into` has one of the panel's width.
        unsafe { product.run_inside(simd, 0..g.out_w.div_ceil(product.tile_rows), 0..1) };
    }

    /// The product of `count` rows, `stride` apart, by one panel, without its operands' places.
    #[inline(always)]
    pub(super) fn product<S: Simd>(&self, simd: S, panel: usize, count: usize, stride: usize) -> Product<'_> {
        let (width, depth) = (self.panels.width(panel), self.depth());
        Product {
            left: std::ptr::null(),
            rows: Rows::Strided(stride),
            count,
            tile_rows: tile_rows(count, S::ROWS),
            taps: 1,
            depth,
            zeros: &[],
            panels: Panels::new_inside(simd, depth, self.panels.cols(panel)),
            right: &self.weights[self.panels.offset(panel)..][..width * depth],
            bias: &self.bias[self.panels.column(panel)..][..width],
            clamp: self.clamp,
            in_order: true,
            out: std::ptr::null_mut(),
            residual: std::ptr::null(),
            stride: 0,
        }
    }
}

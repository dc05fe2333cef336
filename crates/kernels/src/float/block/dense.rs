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
            let at = |down: usize, col: usize| {
                (down * geometry.dilation[0] * padded_w(&geometry) + col * geometry.stride[1]) * geometry.in_c
            };
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

    /// Values of a padded input row.
    fn line_len(&self) -> usize {
        padded_w(&self.geometry) * self.geometry.in_c
    }

    /// Padded input rows under `rows` rows of windows.
    fn lines(&self, rows: usize) -> usize {
        let g = &self.geometry;
        (rows - 1) * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0] + 1
    }

    /// Values that one output row is made of, and from where on those of the next one are.
    fn source(&self) -> [usize; 2] {
        let windows = self.geometry.out_w * self.depth();
        if self.table.is_empty() {
            return [windows; 2];
        }
        [self.lines(1) * self.line_len(), self.geometry.stride[0] * self.line_len()]
    }

    /// Whether it reads its input where it lies.
    pub(super) fn is_pointwise(&self) -> bool {
        self.geometry.is_pointwise()
    }

    /// Values of scratch that windows side by side take, and the padded rows, for `rows` output rows.
    fn parts(&self, rows: usize) -> [usize; 2] {
        let windows = if self.table.is_empty() { rows * self.source()[0] + SLACK } else { 0 };
        [windows, self.lines(rows) * self.line_len() + SLACK]
    }

    /// Values of scratch that unfolding `rows` output rows takes.
    pub(super) fn scratch(&self, rows: usize) -> usize {
        if self.geometry.is_pointwise() { 0 } else { self.parts(rows).iter().sum() }
    }

    /// Prepares what output `rows` of the image `x` are made of: the input rows under their windows between zeros, or the windows side by side.
    #[inline(always)]
    pub(super) fn unfold<S: Simd>(&self, simd: S, x: &[f32], rows: Range<usize>, into: &mut [f32]) {
        const { assert!(S::LANES <= SLACK) };
        let g = &self.geometry;
        if g.is_pointwise() || rows.is_empty() {
            return;
        }
        let (run, step, line_len) = (g.kernel[1] * g.in_c, g.stride[1] * g.in_c, self.line_len());
        let (left, inside) = (g.pad_left * g.in_c, g.in_w * g.in_c);
        let [windows, lines] = self.parts(rows.len());
        assert!(into.len() >= windows + lines && line_len >= (g.out_w - 1) * step + run && line_len >= left + inside);
        let (into, padded) = into.split_at_mut(windows);
        // SAFETY: all places are inside, as was asserted. Whole vectors are written, in the order of memory: what one writes beyond its end, the
        // next ones put right, and the last of all writes to the slack.
        unsafe {
            for line in 0..self.lines(rows.len()) {
                let to = padded.as_mut_ptr().add(line * line_len);
                let from = (rows.start * g.stride[0] + line).wrapping_sub(g.pad_top);
                if from < g.in_h {
                    clear(simd, to, left);
                    copy(simd, &x[from * inside..][..inside], to.add(left));
                    clear(simd, to.add(left + inside), line_len - left - inside);
                } else {
                    clear(simd, to, line_len);
                }
            }
            if !self.table.is_empty() {
                return;
            }
            let mut to = into.as_mut_ptr();
            for (row, col) in (0..rows.len()).flat_map(|row| (0..g.out_w).map(move |col| (row, col))) {
                let mut from = padded.as_ptr().add(row * g.stride[0] * line_len + col * step);
                for _ in 0..g.kernel[0] {
                    if run <= 4 {
                        to.cast::<[f32; 4]>().write(from.cast::<[f32; 4]>().read());
                    } else {
                        for at in (0..run).step_by(S::LANES) {
                            simd.store_ptr(to.add(at), simd.load_ptr(from.add(at)));
                        }
                    }
                    (from, to) = (from.wrapping_add(g.dilation[0] * line_len), to.add(run));
                }
            }
        }
    }

    /// What [`Dense::row`] computes the columns of one panel by, for one row after the other.
    #[inline(always)]
    pub(super) fn panel<S: Simd>(&self, simd: S, panel: usize) -> Product<'_> {
        let g = &self.geometry;
        let mut product = self.product(simd, panel, g.out_w, self.depth());
        if !self.table.is_empty() {
            (product.rows, product.taps, product.depth) = (Rows::Table(&self.table), g.kernel[0], g.kernel[1] * g.in_c);
        }
        product.stride = self.panels.width(panel);
        product
    }

    /// Output row `row` of the image `x`, row `at` of those unfolded: the columns of the panel that `product` is of.
    #[inline(always)]
    pub(super) fn row<S: Simd>(
        &self,
        simd: S,
        product: &mut Product<'_>,
        x: &[f32],
        unfolded: &[f32],
        [row, at]: [usize; 2],
        into: &mut [f32],
    ) {
        let g = &self.geometry;
        let [source, next] = self.source();
        let from = if g.is_pointwise() { &x[row * source..] } else { &unfolded[at * next..] };
        let (from, into) = (&from[..source], &mut into[..g.out_w * product.stride]);
        (product.left, product.out) = (from.as_ptr(), into.as_mut_ptr());
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

/// Writes zeros, in whole vectors.
///
/// # Safety
/// A vector less one value may be written beyond `count` values.
#[inline(always)]
unsafe fn clear<S: Simd>(simd: S, to: *mut f32, count: usize) {
    for at in (0..count).step_by(S::LANES) {
        // SAFETY: the caller's promise.
        unsafe { simd.store_ptr(to.add(at), simd.splat(0.0)) };
    }
}

/// Copies `from`, writing whole vectors.
///
/// # Safety
/// As for [`clear`].
#[inline(always)]
unsafe fn copy<S: Simd>(simd: S, from: &[f32], to: *mut f32) {
    for at in (0..from.len()).step_by(S::LANES) {
        let left = (from.len() - at).min(S::LANES);
        // SAFETY: the caller's promise; no more is read than there is.
        unsafe {
            let from = from.as_ptr().add(at);
            let value = if left == S::LANES { simd.load_ptr(from) } else { simd.load_first(from, left) };
            simd.store_ptr(to.add(at), value);
        }
    }
}

//! Three convolutions at once: one that widens, a depthwise one, and a pointwise one that narrows, as in the inverted residual block
//! of Sandler et al., "MobileNetV2", 2018.
//!
//! Alone, each layer writes a wide image to memory that the next one reads back. Here a band of output rows is carried through all
//! three: the wide rows that the depthwise window needs lie in a ring, a panel of channels after the other, between columns of
//! zeros, and never leave the second-level cache.

mod window;

use std::cell::RefCell;
use std::ops::Range;

use super::Clamp;
use super::product::panels::Panels;
use super::product::{Product, Rows, tile_rows};
use super::simd::{Kernel, Simd, dispatch};
use crate::aligned::Aligned;
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// Pixels of wide rows that are worth narrowing at once, about: what shares one pass over the weights.
const PIXELS: usize = 56;

thread_local! {
    /// The ring and rows of one task; grows to what the largest block of the thread needs.
    static SCRATCH: RefCell<Aligned<f32>> = RefCell::new(Aligned::zeros(0));
}

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
    widen: Dense,
    depthwise: ConvGeometry,
    /// For each tap, the weights of all channels, padded to whole vectors.
    taps: Aligned<f32>,
    /// Padded likewise.
    taps_bias: Aligned<f32>,
    taps_clamp: Clamp,
    narrow: Dense,
    /// Output rows that are carried through together.
    rows: usize,
}

/// A convolution as a product.
#[derive(Debug, Clone)]
struct Dense {
    geometry: ConvGeometry,
    panels: Panels,
    weights: Aligned<f32>,
    /// Padded to whole vectors.
    bias: Aligned<f32>,
    clamp: Clamp,
    /// For convolutions that are not pointwise, as [`Rows::Table`]: where the rows of the windows of one output row start among padded input
    /// rows.
    windows: Vec<u32>,
}

impl Dense {
    fn pack(isa: Isa, layer: &Layer<'_>, cols: usize) -> Dense {
        let geometry = layer.geometry;
        let (depth, out) = (geometry.taps() * geometry.in_c, geometry.out_c);
        let panels = Panels::new(isa, depth, cols);
        // Columns beyond the channels have weights of zero.
        let mut padded = vec![0.0; cols * depth];
        padded[..out * depth].copy_from_slice(layer.weights);
        let mut weights = Aligned::zeros(panels.len());
        for panel in 0..panels.count() {
            panels.pack(panel, &padded, 1, depth, &mut weights[panels.offset(panel)..]);
        }
        let mut bias = Aligned::zeros(panels.padded_cols());
        if let Some(from) = layer.bias {
            bias[..out].copy_from_slice(from);
        }
        let mut windows = vec![];
        if !geometry.is_pointwise() {
            let rows = tile_rows(geometry.out_w, panels.rows());
            for first in (0..geometry.out_w).step_by(rows) {
                for down in 0..geometry.kernel[0] {
                    let tile = first..(first + rows).min(geometry.out_w);
                    let at = |col| (down * padded_w(&geometry) + col * geometry.stride[1]) * geometry.in_c;
                    windows.extend(tile.map(|col| at(col) as u32));
                }
            }
        }
        Dense { geometry, panels, weights, bias, clamp: layer.clamp, windows }
    }

    /// Length of a row of the product.
    fn depth(&self) -> usize {
        self.geometry.taps() * self.geometry.in_c
    }

    /// What the products of output row `row` read: a row of the image `x`, or the rows under the window, copied to `padded` between zeros.
    #[inline(always)]
    fn source<'a>(&self, x: &'a [f32], row: usize, padded: &'a mut [f32]) -> &'a [f32] {
        let g = &self.geometry;
        let row_len = g.in_w * g.in_c;
        if g.is_pointwise() {
            return &x[row * row_len..][..row_len];
        }
        let left = g.pad_left * g.in_c;
        for (down, line) in padded.chunks_exact_mut(padded_w(g) * g.in_c).enumerate() {
            match g.input_row(row, down) {
                Some(row) => {
                    line[..left].fill(0.0);
                    line[left..left + row_len].copy_from_slice(&x[row * row_len..][..row_len]);
                    line[left + row_len..].fill(0.0);
                }
                None => line.fill(0.0),
            }
        }
        padded
    }

    /// The product of `count` rows, `stride` apart or as `windows` says, by one panel, without its operands' places.
    #[inline(always)]
    fn product<S: Simd>(&self, simd: S, panel: usize, count: usize, stride: usize) -> Product<'_> {
        let (width, depth) = (self.panels.width(panel), self.depth());
        let taps = if self.windows.is_empty() { 1 } else { self.geometry.kernel[0] };
        Product {
            left: std::ptr::null(),
            rows: if self.windows.is_empty() { Rows::Strided(stride) } else { Rows::Table(&self.windows) },
            count,
            tile_rows: tile_rows(count, S::ROWS),
            taps,
            depth: depth / taps,
            zeros: &[],
            panels: Panels::new_inside(simd, depth, self.panels.cols(panel)),
            right: &self.weights[self.panels.offset(panel)..][..width * depth],
            bias: &self.bias[self.panels.column(panel)..][..width],
            clamp: self.clamp,
            out: std::ptr::null_mut(),
            residual: std::ptr::null(),
            stride: 0,
        }
    }
}

/// Columns that the windows of a row go over.
fn padded_w(g: &ConvGeometry) -> usize {
    ((g.out_w - 1) * g.stride[1] + g.kernel[1]).max(g.pad_left.saturating_add(g.in_w))
}

impl Block {
    /// Whether these layers make a block that this kernel computes.
    #[must_use]
    pub fn applies(widen: &ConvGeometry, depthwise: &ConvGeometry, narrow: &ConvGeometry) -> bool {
        let input = (padded_w(widen) * widen.in_c).saturating_mul(widen.kernel[0]);
        widen.groups == 1
            && (widen.is_pointwise() || widen.dilation[1] == 1 && input < 1 << 20)
            && depthwise.is_depthwise()
            && depthwise.dilation == [1, 1]
            && window::has(depthwise.kernel, depthwise.stride)
            && narrow.is_pointwise()
            && narrow.groups == 1
            && (widen.batch, widen.out_h, widen.out_w, widen.out_c)
                == (depthwise.batch, depthwise.in_h, depthwise.in_w, depthwise.in_c)
            && (depthwise.batch, depthwise.out_h, depthwise.out_w, depthwise.out_c)
                == (narrow.batch, narrow.in_h, narrow.in_w, narrow.in_c)
    }

    /// Whether it is likely to be faster than the layers one by one: where the wide image would not stay in the second-level cache.
    #[must_use]
    pub fn pays(widen: &ConvGeometry, depthwise: &ConvGeometry, narrow: &ConvGeometry) -> bool {
        let wide = depthwise.in_h * depthwise.in_w * depthwise.in_c * size_of::<f32>();
        Block::applies(widen, depthwise, narrow) && depthwise.in_w >= 14 && wide >= 256 << 10
    }

    /// Packs a block for `isa` (or the best set below it that this machine has).
    ///
    /// # Errors
    /// [`KernelError`] when [`Block::applies`] does not hold, a geometry contradicts itself, or an argument has another length than it says.
    pub fn pack(isa: Isa, widen: &Layer<'_>, depthwise: &Layer<'_>, narrow: &Layer<'_>) -> Result<Block, KernelError> {
        for layer in [widen, depthwise, narrow] {
            layer.geometry.check()?;
            expect_len("weights", layer.weights.len(), layer.geometry.weights_len())?;
            if let Some(bias) = layer.bias {
                expect_len("bias", bias.len(), layer.geometry.out_c)?;
            }
        }
        if !Block::applies(&widen.geometry, &depthwise.geometry, &narrow.geometry) {
            return Err(KernelError::Geometry("the layers do not make an inverted residual block".to_owned()));
        }
        let isa = isa.or_supported();
        let geometry = depthwise.geometry;
        let lanes = Panels::new(isa, 1, 1).lanes();
        let hidden = geometry.in_c.next_multiple_of(lanes);
        let mut taps = Aligned::zeros(hidden * geometry.taps());
        for (tap, line) in taps.chunks_exact_mut(hidden).enumerate() {
            for (c, value) in line[..geometry.in_c].iter_mut().enumerate() {
                *value = depthwise.weights[c * geometry.taps() + tap];
            }
        }
        let mut taps_bias = Aligned::zeros(hidden);
        if let Some(bias) = depthwise.bias {
            taps_bias[..geometry.in_c].copy_from_slice(bias);
        }
        Ok(Block {
            isa,
            widen: Dense::pack(isa, widen, hidden),
            depthwise: geometry,
            taps,
            taps_bias,
            taps_clamp: depthwise.clamp,
            narrow: Dense::pack(isa, narrow, narrow.geometry.out_c),
            rows: (PIXELS / geometry.out_w).clamp(1, geometry.out_h),
        })
    }

    /// Geometries of the first and last layer.
    #[must_use]
    pub fn geometries(&self) -> [&ConvGeometry; 2] {
        [&self.widen.geometry, &self.narrow.geometry]
    }

    /// Computes the block for `x` `[batch, in_h, in_w, in_c]` and `y` and `residual` `[batch, out_h, out_w, out_c]`; `residual` is
    /// added before the last clamp. Allocates nothing after the first run of a thread.
    ///
    /// # Errors
    /// [`KernelError::Length`] when a slice does not have the length the geometries imply.
    pub fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
        let (from, to) = (&self.widen.geometry, &self.narrow.geometry);
        expect_len("input", x.len(), from.input_len())?;
        expect_len("output", y.len(), to.output_len())?;
        if let Some(residual) = residual {
            expect_len("residual", residual.len(), y.len())?;
        }
        // Bands start at multiples of `rows`, so that the cut does not change how rows are grouped, nor any result.
        let groups = to.out_h.div_ceil(self.rows);
        let bands = match pool.threads() {
            1 => 1,
            threads => (2 * threads).div_ceil(to.batch).clamp(1, groups),
        };
        let step = groups.div_ceil(bands) * self.rows;
        let bands = to.out_h.div_ceil(step);
        let out = SharedMut::new(y);
        pool.run(to.batch * bands, &|chunk| {
            let (image, band) = (chunk / bands, chunk % bands);
            let rows = band * step..to.out_h.min((band + 1) * step);
            let x = &x[image * (x.len() / to.batch)..][..x.len() / to.batch];
            SCRATCH.with_borrow_mut(|scratch| {
                let len: usize = self.scratch().iter().sum();
                if scratch.len() < len {
                    *scratch = Aligned::zeros(len);
                }
                let scratch = &mut scratch[..len];
                dispatch(self.isa, Band { block: self, x, image, residual, out: &out, rows, scratch });
            });
        });
        Ok(())
    }

    /// Channels between the layers, padded to whole vectors.
    fn hidden(&self) -> usize {
        self.taps_bias.len()
    }

    /// Columns of the ring: the wide row, and what the window reads on both sides.
    fn ring_w(&self) -> usize {
        padded_w(&self.depthwise)
    }

    /// Rows of the ring: what `rows` windows below each other read.
    fn ring_h(&self) -> usize {
        (self.rows - 1) * self.depthwise.stride[0] + self.depthwise.kernel[0]
    }

    /// Values of scratch: the ring, a row of zeros, rows of the depthwise results, padded rows that the first layer reads.
    fn scratch(&self) -> [usize; 4] {
        let g = &self.widen.geometry;
        let padded = if g.is_pointwise() { 0 } else { g.kernel[0] * padded_w(g) * g.in_c };
        [
            self.ring_w() * self.ring_h() * self.hidden(),
            self.ring_w() * 2 * self.widen.panels.lanes(),
            self.rows * self.depthwise.out_w * self.hidden(),
            padded,
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
    scratch: &'a mut [f32],
}

impl Kernel for Band<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Band { block, x, image, residual, out, rows, scratch } = self;
        let [ring_len, zeros_len, middle_len, _] = block.scratch();
        let (ring, rest) = scratch.split_at_mut(ring_len);
        let (zeros, rest) = rest.split_at_mut(zeros_len);
        let (middle, padded) = rest.split_at_mut(middle_len);
        let g = &block.depthwise;
        let (ring_w, ring_h) = (block.ring_w(), block.ring_h());
        zeros.fill(0.0);
        block.clear_sides(ring);
        // The first wide row that is not in the ring.
        let mut next = (rows.start * g.stride[0]).saturating_sub(g.pad_top);
        for first in rows.clone().step_by(block.rows) {
            let count = block.rows.min(rows.end - first);
            let end = ((first + count - 1) * g.stride[0] + g.kernel[0]).saturating_sub(g.pad_top).min(g.in_h);
            // A panel at a time, so that the window finds the rows that are new in the first-level cache.
            for panel in 0..block.widen.panels.count() {
                let (column, width) = (block.widen.panels.column(panel), block.widen.panels.width(panel));
                let plane = &mut ring[ring_w * column * ring_h..][..ring_w * ring_h * width];
                for row in next..end {
                    let source = block.widen.source(x, row, padded);
                    let into = &mut plane[(row % ring_h * ring_w + g.pad_left) * width..][..g.in_w * width];
                    let mut product = block.widen.product(simd, panel, g.in_w, block.widen.depth());
                    (product.left, product.out, product.stride) = (source.as_ptr(), into.as_mut_ptr(), width);
                    // SAFETY: `source` has `in_w` rows as long as the product is deep, or what the windows of as many lead to; `into` has as
                    // many of `width` values.
                    unsafe { product.run_inside(simd, 0..g.in_w.div_ceil(product.tile_rows), 0..1) };
                }
                for i in 0..count {
                    let to = &mut middle[i * g.out_w * block.hidden() + column..];
                    window::row(simd, block, plane, zeros, first + i, column, width, to);
                }
            }
            next = next.max(end);
            let pixels = count * g.out_w;
            let at = (image * g.out_h + first) * g.out_w * block.narrow.geometry.out_c;
            for panel in 0..block.narrow.panels.count() {
                let at = at + block.narrow.panels.column(panel);
                let mut product = block.narrow.product(simd, panel, pixels, block.hidden());
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

impl Block {
    /// Writes zeros to the columns of the ring beside the image.
    #[inline(always)]
    fn clear_sides(&self, ring: &mut [f32]) {
        let (g, ring_w) = (&self.depthwise, self.ring_w());
        for panel in 0..self.widen.panels.count() {
            let width = self.widen.panels.width(panel);
            let plane = &mut ring[ring_w * self.widen.panels.column(panel) * self.ring_h()..];
            for line in plane.chunks_exact_mut(ring_w * width).take(self.ring_h()) {
                line[..g.pad_left * width].fill(0.0);
                line[(g.pad_left + g.in_w) * width..].fill(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Convolution over few channels, such as the first layer of a network.
//!
//! A tap of one to a few values is too short for the microkernel's inner loop. But the taps of one window row lie side by side in
//! the image, so a whole row of the window can serve as one tap. Only where the window leaves the image to the left or right
//! (or has gaps) are the windows of a tile first copied side by side into a buffer on the stack.

use std::ops::Range;

use crate::ConvGeometry;
use crate::float::product::{MAX_ROWS, PADDING, Product, Rows};
use crate::float::simd::{Kernel, Simd};

/// The longest window that is unfolded, in values.
const MAX_WINDOW: usize = 512;

/// Whether unfolding pays.
pub(super) fn suits(geometry: &ConvGeometry) -> bool {
    geometry.groups == 1 && geometry.in_c < 8 && row_len(geometry) <= MAX_WINDOW
}

/// Values in a window.
pub(super) fn row_len(geometry: &ConvGeometry) -> usize {
    geometry.taps() * geometry.in_c
}

/// Where the rows of windows start, for the tiles whose windows do not leave the image sideways.
#[derive(Debug, Clone)]
pub(super) struct WindowRows {
    /// As [`crate::float::product::Rows::Table`], with a tap for each row of the window.
    offsets: Vec<u32>,
    /// For each tile, whether `offsets` holds for it.
    direct: Vec<bool>,
}

impl WindowRows {
    /// For tiles of `rows` output pixels.
    pub(super) fn new(geometry: &ConvGeometry, rows: usize) -> WindowRows {
        let pixels = geometry.out_h * geometry.out_w;
        let mut offsets = Vec::with_capacity(pixels * geometry.kernel[0]);
        let mut direct = Vec::with_capacity(pixels.div_ceil(rows));
        for first in (0..pixels).step_by(rows) {
            let tile = first..(first + rows).min(pixels);
            direct.push(tile.clone().all(|pixel| whole_rows(geometry, pixel % geometry.out_w).is_some()));
            for down in 0..geometry.kernel[0] {
                for pixel in tile.clone() {
                    let row = geometry.input_row(pixel / geometry.out_w, down);
                    let left = whole_rows(geometry, pixel % geometry.out_w);
                    offsets.push(match (row, left) {
                        (Some(row), Some(left)) => ((row * geometry.in_w + left) * geometry.in_c) as u32,
                        _ => PADDING,
                    });
                }
            }
        }
        WindowRows { offsets, direct }
    }
}

/// The first input column of the windows in output column `col`, if their rows lie in the image without gaps.
#[inline(always)]
fn whole_rows(geometry: &ConvGeometry, col: usize) -> Option<usize> {
    geometry.input_col(col, geometry.kernel[1] - 1)?;
    geometry.input_col(col, 0).filter(|_| geometry.dilation[1] == 1 || geometry.kernel[1] == 1)
}

/// The part `tiles` × `panels` of a convolution of one image.
pub(super) struct Unfold<'a> {
    pub(super) geometry: &'a ConvGeometry,
    pub(super) input: &'a [f32],
    pub(super) rows: &'a WindowRows,
    /// The product, as if all windows lay side by side; its left operand is not used.
    pub(super) product: &'a Product<'a>,
    pub(super) tiles: Range<usize>,
    pub(super) panels: Range<usize>,
}

impl Kernel for Unfold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut buffer = [0.0f32; MAX_ROWS * MAX_WINDOW];
        let window = row_len(self.geometry);
        for tile in self.tiles {
            if self.rows.direct[tile] {
                let product = Product {
                    left: self.input.as_ptr(),
                    rows: Rows::Table(&self.rows.offsets),
                    taps: self.geometry.kernel[0],
                    depth: self.geometry.kernel[1] * self.geometry.in_c,
                    ..*self.product
                };
                // SAFETY: the results of this tile are this part's alone, by the contract under which the product was made; the
                // offsets of the tile lead to whole rows of windows.
                unsafe { product.run_inside(simd, tile..tile + 1, self.panels.clone()) };
                continue;
            }
            let first = tile * self.product.tile_rows;
            let count = self.product.tile_rows.min(self.product.count - first);
            for (i, row) in buffer.chunks_exact_mut(window).enumerate().take(count) {
                copy_window(simd, self.geometry, self.input, first + i, row);
            }
            let at = first * self.product.stride;
            // SAFETY: as above; the left operand is now the buffer, which has `count` rows of `window` values.
            unsafe {
                let product = Product {
                    left: buffer.as_ptr(),
                    count,
                    out: self.product.out.add(at),
                    residual: if self.product.residual.is_null() {
                        self.product.residual
                    } else {
                        self.product.residual.add(at)
                    },
                    ..*self.product
                };
                product.run_inside(simd, 0..1, self.panels.clone());
            }
        }
    }
}

/// Copies the window of output pixel `pixel` to `to`, zeros where it leaves the image.
#[inline(always)]
fn copy_window<S: Simd>(simd: S, geometry: &ConvGeometry, input: &[f32], pixel: usize, to: &mut [f32]) {
    let (y, x) = (pixel / geometry.out_w, pixel % geometry.out_w);
    let channels = geometry.in_c;
    // The taps of a row that are inside the image: one run, which lies in one piece unless the window has gaps.
    let inside = |tap: usize| geometry.input_col(x, tap).is_some();
    let first = (0..geometry.kernel[1]).position(inside).unwrap_or(geometry.kernel[1]);
    let last = (first..geometry.kernel[1]).rposition(inside).map_or(first, |last| first + last + 1);
    let step = if geometry.dilation[1] == 1 { (last - first).max(1) } else { 1 };
    for (down, to) in to.chunks_exact_mut(geometry.kernel[1] * channels).enumerate() {
        let Some(row) = geometry.input_row(y, down) else {
            fill(simd, to);
            continue;
        };
        fill(simd, &mut to[..first * channels]);
        fill(simd, &mut to[last * channels..]);
        for tap in (first..last).step_by(step) {
            let Some(col) = geometry.input_col(x, tap) else { continue };
            let from = &input[(row * geometry.in_w + col) * channels..][..step * channels];
            let to = &mut to[tap * channels..][..step * channels];
            // Not `copy_from_slice`: a call for a few values costs more than they do.
            for (to, from) in to.chunks_mut(S::LANES).zip(from.chunks(S::LANES)) {
                simd.store_tail(to, simd.load_tail(from));
            }
        }
    }
}

/// Writes zeros.
#[inline(always)]
fn fill<S: Simd>(simd: S, to: &mut [f32]) {
    for to in to.chunks_mut(S::LANES) {
        simd.store_tail(to, simd.splat(0.0));
    }
}

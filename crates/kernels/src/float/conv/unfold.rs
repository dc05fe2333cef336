//! Convolution over few channels, such as the first layer of a network.
//!
//! A tap of one to a few values is too short for the microkernel's inner loop, so the windows of one tile are first
//! copied side by side into a buffer on the stack, and the tile becomes a plain product.

use std::ops::Range;

use crate::ConvGeometry;
use crate::float::product::{MAX_ROWS, Product};
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

/// The part `tiles` × `panels` of a convolution of one image.
pub(super) struct Unfold<'a> {
    pub(super) geometry: &'a ConvGeometry,
    pub(super) input: &'a [f32],
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
            let first = tile * S::ROWS;
            let count = S::ROWS.min(self.product.count - first);
            for (i, row) in buffer.chunks_exact_mut(window).enumerate().take(count) {
                copy_window(simd, self.geometry, self.input, first + i, row);
            }
            let at = first * self.product.stride;
            // SAFETY: the results of this tile are this part's alone, by the contract under which the product was made; the left
            // operand is now the buffer, which has `count` rows of `window` values.
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
    let run = geometry.kernel[1] * geometry.in_c;
    let left = geometry.input_col(x, 0);
    let inside = left.is_some() && geometry.input_col(x, geometry.kernel[1] - 1).is_some();
    for (down, to) in to.chunks_exact_mut(run).enumerate() {
        let Some(row) = geometry.input_row(y, down) else {
            to.fill(0.0);
            continue;
        };
        if let (Some(left), true, 1) = (left, inside, geometry.dilation[1]) {
            let from = &input[(row * geometry.in_w + left) * geometry.in_c..][..run];
            for (to, from) in to.chunks_mut(S::LANES).zip(from.chunks(S::LANES)) {
                simd.store_tail(to, simd.load_tail(from));
            }
            continue;
        }
        for (right, to) in to.chunks_exact_mut(geometry.in_c).enumerate() {
            match geometry.input_col(x, right) {
                Some(col) => to.copy_from_slice(&input[(row * geometry.in_w + col) * geometry.in_c..][..geometry.in_c]),
                None => to.fill(0.0),
            }
        }
    }
}

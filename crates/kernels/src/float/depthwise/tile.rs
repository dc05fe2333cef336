//! A few output pixels of one row, all channels.

use super::Layer;
use crate::float::simd::{Kernel, Simd};

/// Output pixels of a tile.
const WIDTH: usize = 4;

/// Computes output row `row` of the image `x` into `y`.
#[inline(always)]
pub(super) fn row<S: Simd>(simd: S, layer: Layer<'_>, x: &[f32], row: usize, y: &mut [f32]) {
    let geometry = layer.geometry;
    if geometry.out_w < WIDTH || geometry.in_c < S::LANES {
        return simd.vectorize(AnyRow { layer, x, row, y });
    }
    // A tile needs the input columns of its windows once each: (WIDTH - 1) * stride + kernel of them.
    match (geometry.kernel, geometry.stride[1], geometry.dilation[1]) {
        ([3, 3], 1, 1) => simd.vectorize(Row::<3, 3, 1, WIDTH, 6> { layer, x, row, y }),
        ([3, 3], 2, 1) => simd.vectorize(Row::<3, 3, 2, WIDTH, 9> { layer, x, row, y }),
        ([5, 5], 1, 1) => simd.vectorize(Row::<5, 5, 1, WIDTH, 8> { layer, x, row, y }),
        ([5, 5], 2, 1) => simd.vectorize(Row::<5, 5, 2, WIDTH, 11> { layer, x, row, y }),
        _ => simd.vectorize(AnyRow { layer, x, row, y }),
    }
}

/// A row of a `KH` × `KW` window with step `STRIDE`, in tiles of `TW` pixels that read `NX` input columns.
struct Row<'a, const KH: usize, const KW: usize, const STRIDE: usize, const TW: usize, const NX: usize> {
    layer: Layer<'a>,
    x: &'a [f32],
    row: usize,
    y: &'a mut [f32],
}

impl<const KH: usize, const KW: usize, const STRIDE: usize, const TW: usize, const NX: usize> Kernel
    for Row<'_, KH, KW, STRIDE, TW, NX>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        const { assert!(NX == (TW - 1) * STRIDE + KW) };
        let Row { layer, x, row, y } = self;
        let geometry = layer.geometry;
        let channels = geometry.in_c;
        let mut rows: [Option<&[f32]>; KH] = [None; KH];
        for (down, line) in rows.iter_mut().enumerate() {
            *line =
                geometry.input_row(row, down).map(|r| &x[r * geometry.in_w * channels..][..geometry.in_w * channels]);
        }
        for start in (0..geometry.out_w).step_by(TW) {
            // The last tile goes over some pixels again rather than be narrower.
            let start = start.min(geometry.out_w - TW);
            let mut pixels = [[layer.zeros.as_ptr(); NX]; KH];
            for (line, pixels) in rows.iter().zip(&mut pixels) {
                let Some(line) = line else { continue };
                for (j, pixel) in pixels.iter_mut().enumerate() {
                    let col = (start * STRIDE + j).checked_sub(geometry.pad_left).filter(|col| *col < geometry.in_w);
                    if let Some(col) = col {
                        *pixel = line[col * channels..].as_ptr();
                    }
                }
            }
            let out = &mut y[start * channels..][..TW * channels];
            let tile = Tile::<KH, KW, STRIDE, TW, NX> { layer, pixels: &pixels, out };
            // SAFETY: every pointer leads to the channels of one pixel, in the image or in the zeros.
            unsafe { tile.run(simd) };
        }
    }
}

struct Tile<'a, const KH: usize, const KW: usize, const STRIDE: usize, const TW: usize, const NX: usize> {
    layer: Layer<'a>,
    pixels: &'a [[*const f32; NX]; KH],
    out: &'a mut [f32],
}

impl<const KH: usize, const KW: usize, const STRIDE: usize, const TW: usize, const NX: usize>
    Tile<'_, KH, KW, STRIDE, TW, NX>
{
    /// # Safety
    /// All pixels must have as many readable values as the layer has channels, which are at least those of a vector.
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let channels = self.layer.geometry.in_c;
        for c in (0..channels).step_by(S::LANES) {
            // The last vector goes over some channels again rather than be narrower.
            let c = c.min(channels - S::LANES);
            // SAFETY: a whole vector of channels from `c` exists in every pixel.
            let values = unsafe { self.vector(simd, c) };
            for (i, value) in values.into_iter().enumerate() {
                simd.store(&mut self.out[i * channels + c..], value);
            }
        }
    }

    /// The results of one vector of channels.
    ///
    /// # Safety
    /// A vector from channel `c` on must be readable in every pixel.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, simd: S, c: usize) -> [S::V; TW] {
        let layer = self.layer;
        let padded = layer.bias.len();
        let mut acc = [simd.load(&layer.bias[c..]); TW];
        for down in 0..KH {
            let mut w = [simd.splat(0.0); KW];
            for (right, w) in w.iter_mut().enumerate() {
                // SAFETY: the packed weights have a padded line for every tap.
                *w = unsafe { simd.load_ptr(layer.weights.as_ptr().add((down * KW + right) * padded + c)) };
            }
            let mut x = [simd.splat(0.0); NX];
            for (j, x) in x.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *x = unsafe { simd.load_ptr(self.pixels[down][j].add(c)) };
            }
            for i in 0..TW {
                for right in 0..KW {
                    acc[i] = simd.fma(x[i * STRIDE + right], w[right], acc[i]);
                }
            }
        }
        let (lo, hi) = (simd.splat(layer.clamp.lo), simd.splat(layer.clamp.hi));
        for value in &mut acc {
            *value = simd.clamp(*value, lo, hi);
        }
        acc
    }
}

/// A row of any window, one output pixel at a time.
struct AnyRow<'a> {
    layer: Layer<'a>,
    x: &'a [f32],
    row: usize,
    y: &'a mut [f32],
}

impl Kernel for AnyRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let layer = self.layer;
        let geometry = layer.geometry;
        let (channels, padded) = (geometry.in_c, layer.bias.len());
        let (lo, hi) = (simd.splat(layer.clamp.lo), simd.splat(layer.clamp.hi));
        for (col, y) in self.y.chunks_exact_mut(channels).enumerate() {
            let (downs, rights) = (geometry.row_taps(self.row), geometry.col_taps(col));
            // Where tap 0 would be; wraps where that is padding, and back when a tap inside is added.
            let top = (self.row * geometry.stride[0]).wrapping_sub(geometry.pad_top);
            let left = (col * geometry.stride[1]).wrapping_sub(geometry.pad_left);
            let origin = top.wrapping_mul(geometry.in_w).wrapping_add(left).wrapping_mul(channels);
            for (block, y) in y.chunks_mut(S::LANES).enumerate() {
                let c = block * S::LANES;
                let mut acc = simd.load(&layer.bias[c..]);
                for down in downs.clone() {
                    for right in rights.clone() {
                        let tap = down * geometry.dilation[0] * geometry.in_w + right * geometry.dilation[1];
                        let from = &self.x[origin.wrapping_add(tap * channels + c)..][..y.len()];
                        let x = if y.len() == S::LANES { simd.load(from) } else { simd.load_tail(from) };
                        let w = simd.load(&layer.weights[(down * geometry.kernel[1] + right) * padded + c..]);
                        acc = simd.fma(x, w, acc);
                    }
                }
                simd.store_tail(y, simd.clamp(acc, lo, hi));
            }
        }
    }
}

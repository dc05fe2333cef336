//! The depthwise window over the ring: rows of one panel of channels, the padding in place.

use super::Block;
use crate::float::simd::{Kernel, Simd};

/// Whether there is a loop for this window.
pub(super) fn has(kernel: [usize; 2], stride: [usize; 2]) -> bool {
    matches!((kernel, stride[1]), ([3, 3] | [5, 5], 1 | 2))
}

/// Computes output row `row` of the channels from `column` on, `width` of them: pixels at every [`Block::hidden`] values of `to`.
#[inline(always)]
pub(super) fn row<S: Simd>(
    simd: S,
    block: &Block,
    plane: &[f32],
    zeros: &[f32],
    row: usize,
    column: usize,
    width: usize,
    to: &mut [f32],
) {
    let common = Line { block, plane, zeros, row, column, width, to };
    // Tiles of seven pixels where 32 registers hold them: sizes of images are often multiples of it.
    match (block.depthwise.kernel[0], block.depthwise.stride[1], S::ROWS > 8) {
        (3, 1, true) => simd.vectorize(Row::<3, 1, 7, 9>(common)),
        (3, 2, true) => simd.vectorize(Row::<3, 2, 7, 15>(common)),
        (5, 1, true) => simd.vectorize(Row::<5, 1, 7, 11>(common)),
        (5, 2, true) => simd.vectorize(Row::<5, 2, 7, 17>(common)),
        (3, 1, false) => simd.vectorize(Row::<3, 1, 4, 6>(common)),
        (3, 2, false) => simd.vectorize(Row::<3, 2, 4, 9>(common)),
        (5, 1, false) => simd.vectorize(Row::<5, 1, 4, 8>(common)),
        _ => simd.vectorize(Row::<5, 2, 4, 11>(common)),
    }
}

struct Line<'a> {
    block: &'a Block,
    /// The ring of these channels.
    plane: &'a [f32],
    /// A row of zeros.
    zeros: &'a [f32],
    row: usize,
    column: usize,
    width: usize,
    to: &'a mut [f32],
}

/// A row of a `K` × `K` window with step `STRIDE`, in tiles of `TW` pixels that read `NX` columns.
struct Row<'a, const K: usize, const STRIDE: usize, const TW: usize, const NX: usize>(Line<'a>);

impl<const K: usize, const STRIDE: usize, const TW: usize, const NX: usize> Kernel for Row<'_, K, STRIDE, TW, NX> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        const { assert!(NX == (TW - 1) * STRIDE + K) };
        let Line { block, plane, zeros, row, column, width, to } = self.0;
        let g = &block.depthwise;
        let (ring_w, ring_h, hidden) = (block.ring_w(), block.ring_h(), block.hidden());
        let mut lines = [zeros; K];
        for (down, line) in lines.iter_mut().enumerate() {
            if let Some(row) = g.input_row(row, down) {
                *line = &plane[row % ring_h * ring_w * width..][..ring_w * width];
            }
        }
        let (lo, hi) = (simd.splat(block.taps_clamp.lo), simd.splat(block.taps_clamp.hi));
        for c in (0..width).step_by(S::LANES) {
            let weights = &block.taps[column + c..];
            let bias = simd.load(&block.taps_bias[column + c..]);
            if g.out_w < TW {
                for (i, value) in tile::<S, K, STRIDE, TW, NX>(simd, &lines, weights, hidden, bias, [c, width], false)
                    .into_iter()
                    .enumerate()
                    .take(g.out_w)
                {
                    simd.store(&mut to[i * hidden + c..], simd.clamp(value, lo, hi));
                }
                continue;
            }
            for start in (0..g.out_w).step_by(TW) {
                // The last tile goes over some pixels again rather than be narrower.
                let start = start.min(g.out_w - TW);
                let acc = tile::<S, K, STRIDE, TW, NX>(
                    simd,
                    &lines,
                    weights,
                    hidden,
                    bias,
                    [start * STRIDE * width + c, width],
                    true,
                );
                let to = &mut to[start * hidden + c..];
                for (i, value) in acc.into_iter().enumerate() {
                    simd.store(&mut to[i * hidden..], simd.clamp(value, lo, hi));
                }
            }
        }
    }
}

/// The sums of `TW` windows, for the vector of channels that starts at `at` in each of `lines`, whose columns are `width` values apart. Unless
/// `whole`, what lies beyond the lines is left out.
#[inline(always)]
fn tile<S: Simd, const K: usize, const STRIDE: usize, const TW: usize, const NX: usize>(
    simd: S,
    lines: &[&[f32]; K],
    weights: &[f32],
    hidden: usize,
    bias: S::V,
    [at, width]: [usize; 2],
    whole: bool,
) -> [S::V; TW] {
    let mut acc = [bias; TW];
    for down in 0..K {
        let mut w = [bias; K];
        for (right, w) in w.iter_mut().enumerate() {
            *w = simd.load(&weights[(down * K + right) * hidden..]);
        }
        let line = &lines[down][at..];
        assert!(!whole || line.len() >= (NX - 1) * width + S::LANES);
        for j in 0..NX {
            if !whole && line.len() < j * width + S::LANES {
                break;
            }
            // SAFETY: the column is in the line, as was asserted or asked.
            let x = unsafe { simd.load_ptr(line.as_ptr().add(j * width)) };
            for i in 0..TW {
                if j >= i * STRIDE && j - i * STRIDE < K {
                    acc[i] = simd.fma(x, w[j - i * STRIDE], acc[i]);
                }
            }
        }
    }
    acc
}

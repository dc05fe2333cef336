//! The depthwise window over the ring: rows of one panel of channels, the padding in place.

use std::ops::Range;

use super::Block;
use crate::float::simd::{Kernel, Simd};

/// Whether there is a loop for this window.
pub(super) fn has(kernel: [usize; 2], stride: [usize; 2]) -> bool {
    matches!((kernel, stride[1]), ([3, 3] | [5, 5], 1 | 2))
}

/// Computes output `rows` of the `width` channels from `column` on, with `plane` their ring of `ring_h` rows: pixels at every
/// [`Block::hidden`] values of `to`.
///
/// # Safety
/// `to` has room for `width` values at every pixel of the rows, which nobody else touches meanwhile.
#[inline(always)]
pub(super) unsafe fn rows<S: Simd>(
    simd: S,
    block: &Block,
    plane: &[f32],
    zeros: &[f32],
    rows: Range<usize>,
    [column, width, ring_h]: [usize; 3],
    to: *mut f32,
) {
    let common = Lines { block, plane, zeros, rows, column, width, ring_h, to };
    let wide = block.depthwise.out_w >= 7;
    // Tiles of seven pixels where 32 registers hold them: sizes of images are often multiples of it.
    match (block.depthwise.kernel[0], block.depthwise.stride[1], S::ROWS > 8) {
        (3, 1, true) if wide => lines::<S, 3, 1, 7, 9>(simd, common),
        (3, 1, true) => lines::<S, 3, 1, 5, 7>(simd, common),
        (3, 2, true) if wide => lines::<S, 3, 2, 7, 15>(simd, common),
        (5, 1, true) if wide => lines::<S, 5, 1, 7, 11>(simd, common),
        (5, 2, true) if wide => lines::<S, 5, 2, 7, 17>(simd, common),
        (3, 1, _) => lines::<S, 3, 1, 4, 6>(simd, common),
        (3, 2, _) => lines::<S, 3, 2, 4, 9>(simd, common),
        (5, 1, _) => lines::<S, 5, 1, 4, 8>(simd, common),
        _ => lines::<S, 5, 2, 4, 11>(simd, common),
    }
}

struct Lines<'a> {
    block: &'a Block,
    /// The ring of these channels.
    plane: &'a [f32],
    /// A row of zeros.
    zeros: &'a [f32],
    rows: Range<usize>,
    column: usize,
    width: usize,
    ring_h: usize,
    to: *mut f32,
}

/// Takes the loop for the width of the panel, which is then known to the compiler, as every distance in the ring is.
#[inline(always)]
fn lines<S: Simd, const K: usize, const STRIDE: usize, const TW: usize, const NX: usize>(simd: S, lines: Lines<'_>) {
    if lines.width > S::LANES {
        simd.vectorize(Rows::<K, STRIDE, TW, NX, 2>(lines));
    } else {
        simd.vectorize(Rows::<K, STRIDE, TW, NX, 1>(lines));
    }
}

/// Rows of a `K` × `K` window with step `STRIDE` over a panel of `NV` vectors, in tiles of `TW` pixels that read `NX` columns.
struct Rows<'a, const K: usize, const STRIDE: usize, const TW: usize, const NX: usize, const NV: usize>(Lines<'a>);

impl<const K: usize, const STRIDE: usize, const TW: usize, const NX: usize, const NV: usize> Kernel
    for Rows<'_, K, STRIDE, TW, NX, NV>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        const { assert!(NX == (TW - 1) * STRIDE + K) };
        let width = NV * S::LANES;
        let Lines { block, plane, zeros, rows, column, width: found, ring_h, to } = self.0;
        assert_eq!(width, found);
        let g = &block.depthwise;
        let (ring_w, hidden) = (block.ring_w(), block.hidden());
        assert!(zeros.len() >= ring_w * width && ring_w >= (g.out_w - 1) * STRIDE + K);
        assert!(block.taps.len() >= K * K * hidden && column + width <= hidden);
        for (i, row) in rows.enumerate() {
            let to = to.wrapping_add(i * g.out_w * hidden);
            let mut lines = [zeros.as_ptr(); K];
            for (down, line) in lines.iter_mut().enumerate() {
                if let Some(row) = g.input_row(row, down) {
                    *line = plane[row % ring_h * ring_w * width..][..ring_w * width].as_ptr();
                }
            }
            let (lo, hi) = (simd.splat(block.taps_clamp.lo), simd.splat(block.taps_clamp.hi));
            for c in (0..width).step_by(S::LANES) {
                let bias = simd.load(&block.taps_bias[column + c..]);
                let weights = block.taps[column + c..].as_ptr();
                let mut start = 0;
                while start < g.out_w {
                    // The last tile goes over some pixels again rather than be narrower, unless the whole row is.
                    start = start.min(g.out_w.saturating_sub(TW));
                    // SAFETY: the lines have a column for every tap of every pixel, the weights a line of `hidden` values for every tap; both
                    // were asserted; that `to` has room for all pixels was promised.
                    unsafe {
                        let at = start * STRIDE * width + c;
                        let mut acc = [bias; TW];
                        if g.out_w >= TW {
                            for (down, line) in lines.iter().enumerate() {
                                let weights = weights.add(down * K * hidden);
                                sums::<S, K, STRIDE, TW, NX>(simd, line.add(at), width, weights, hidden, &mut acc);
                            }
                        } else {
                            for (down, line) in lines.iter().enumerate() {
                                let weights = weights.add(down * K * hidden);
                                for (i, acc) in acc.iter_mut().enumerate().take(g.out_w) {
                                    let line = line.add(at + i * STRIDE * width);
                                    let mut one = [*acc];
                                    sums::<S, K, STRIDE, 1, K>(simd, line, width, weights, hidden, &mut one);
                                    *acc = one[0];
                                }
                            }
                        }
                        let to = to.add(start * hidden + c);
                        for (i, acc) in acc.into_iter().enumerate() {
                            if i < g.out_w {
                                simd.store_ptr(to.add(i * hidden), simd.clamp(acc, lo, hi));
                            }
                        }
                    }
                    start += TW;
                }
            }
        }
    }
}

/// Adds one row of `TW` windows to their sums: columns of the line are `width` values apart, weights `hidden`.
///
/// # Safety
/// `NX` columns and `K` weights must be readable.
#[inline(always)]
unsafe fn sums<S: Simd, const K: usize, const STRIDE: usize, const TW: usize, const NX: usize>(
    simd: S,
    line: *const f32,
    width: usize,
    weights: *const f32,
    hidden: usize,
    acc: &mut [S::V; TW],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut w = [simd.splat(0.0); K];
        for (right, w) in w.iter_mut().enumerate() {
            *w = simd.load_ptr(weights.add(right * hidden));
        }
        for j in 0..NX {
            let x = simd.load_ptr(line.add(j * width));
            for i in 0..TW {
                if j >= i * STRIDE && j - i * STRIDE < K {
                    acc[i] = simd.fma(x, w[j - i * STRIDE], acc[i]);
                }
            }
        }
    }
}

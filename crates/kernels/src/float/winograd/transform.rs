//! The transforms of F(4×4, 3×3), with the points 0, ±A, ±B and infinity.
//!
//! A = 11/16 and B = 11/8 give a third of the error of the usual 1 and 2 (such points were found by Barabasz et al., "Error Analysis
//! and Improving the Accuracy of Winograd Convolution", 2020), and all constants made of them are exact in 24 bits.

use std::ops::Range;

use crate::ConvGeometry;
use crate::aligned::Aligned;
use crate::float::Clamp;
use crate::float::conv::FilterLayout;
use crate::float::simd::{Kernel, Simd};
use crate::pool::SharedMut;

/// Side of a tile of results.
pub(super) const TILE: usize = 4;
/// Side of a tile of inputs: results and the border of the window.
const SIDE: usize = 6;
/// Values of a transformed tile.
pub(super) const POINTS: usize = SIDE * SIDE;

/// The points closer to 0.
const A: f32 = 11.0 / 16.0;
/// The points farther from 0.
const B: f32 = 11.0 / 8.0;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// `G g Gᵀ` for a 3×3 window `g`.
pub(super) fn weights(window: &[f64; 9]) -> [f64; POINTS] {
    let (a, b) = (f64::from(A), f64::from(B));
    // Values of the polynomial x + y p + z p² at the points, each over the product of its differences to the others.
    let at = |[x, y, z]: [f64; 3], p: f64| x + y * p + z * p * p;
    let near = 2.0 * a * a * (a * a - b * b);
    let far = 2.0 * b * b * (b * b - a * a);
    let line = |g: [f64; 3]| {
        [g[0] / (a * a * b * b), at(g, a) / near, at(g, -a) / near, at(g, b) / far, at(g, -b) / far, g[2]]
    };
    let columns: [[f64; SIDE]; 3] = std::array::from_fn(|j| line([window[j], window[3 + j], window[6 + j]]));
    let mut points = [0.0; POINTS];
    for i in 0..SIDE {
        points[i * SIDE..(i + 1) * SIDE].copy_from_slice(&line([columns[0][i], columns[1][i], columns[2][i]]));
    }
    points
}

/// Transforms the weights of some pairs of channels, vectors over output channels, and puts them where products read them.
pub(super) struct Weights<'a> {
    pub(super) from: &'a [f32],
    pub(super) layout: &'a FilterLayout,
    /// Output channels: those of a panel.
    pub(super) columns: Range<usize>,
    pub(super) inputs: Range<usize>,
    /// Input channels of the layer.
    pub(super) in_c: usize,
    /// Where the panel's first point is.
    pub(super) at: usize,
    /// Columns of the panel in memory.
    pub(super) width: usize,
    pub(super) packed: &'a SharedMut<'a, f32>,
}

/// `G g` for three values.
#[inline(always)]
fn weight_line<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; SIDE] {
    const NEAR: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
    const FAR: f32 = 1.0 / (2.0 * B2 * (B2 - A2));
    let near = [s.fma(g[2], s.splat(A2), g[0]), s.mul(g[1], s.splat(A))];
    let far = [s.fma(g[2], s.splat(B2), g[0]), s.mul(g[1], s.splat(B))];
    [
        s.mul(g[0], s.splat(1.0 / (A2 * B2))),
        s.mul(s.add(near[0], near[1]), s.splat(NEAR)),
        s.mul(s.sub(near[0], near[1]), s.splat(NEAR)),
        s.mul(s.add(far[0], far[1]), s.splat(FAR)),
        s.mul(s.sub(far[0], far[1]), s.splat(FAR)),
        g[2],
    ]
}

impl Kernel for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Weights { from, layout, columns, inputs, in_c, at, width, packed } = self;
        for first in (0..width).step_by(S::LANES) {
            for input in inputs.clone() {
                // Where there is no channel, zeros.
                let mut window = [[0.0f32; 16]; 9];
                for lane in 0..S::LANES.min(columns.len() - first) {
                    for (tap, lanes) in window.iter_mut().enumerate() {
                        lanes[lane] = from[layout.at(0, columns.start + first + lane, input, tap / 3, tap % 3)];
                    }
                }
                let mut half = [[s.splat(0.0); SIDE]; 3];
                for (j, half) in half.iter_mut().enumerate() {
                    *half = weight_line(s, [s.load(&window[j]), s.load(&window[3 + j]), s.load(&window[6 + j])]);
                }
                for i in 0..SIDE {
                    for (j, value) in weight_line(s, [half[0][i], half[1][i], half[2][i]]).into_iter().enumerate() {
                        let to = at + ((i * SIDE + j) * in_c + input) * width + first;
                        // SAFETY: tasks have panels or input channels of their own.
                        s.store(unsafe { packed.slice(to..to + S::LANES) }, value);
                    }
                }
            }
        }
    }
}

/// `Bᵀ d` for six values.
#[inline(always)]
fn input_line<S: Simd>(s: S, d: [S::V; SIDE]) -> [S::V; SIDE] {
    let (product, sum) = (s.splat(A2 * B2), s.splat(-(A2 + B2)));
    let near = [s.fma(d[1], s.splat(-B2), d[3]), s.fma(d[2], s.splat(-B2), d[4])];
    let far = [s.fma(d[1], s.splat(-A2), d[3]), s.fma(d[2], s.splat(-A2), d[4])];
    [
        s.fma(d[0], product, s.fma(d[2], sum, d[4])),
        s.fma(near[0], s.splat(A), near[1]),
        s.fma(near[0], s.splat(-A), near[1]),
        s.fma(far[0], s.splat(B), far[1]),
        s.fma(far[0], s.splat(-B), far[1]),
        s.fma(d[1], product, s.fma(d[3], sum, d[5])),
    ]
}

/// `Aᵀ m` for six values.
#[inline(always)]
fn output_line<S: Simd>(s: S, m: [S::V; SIDE]) -> [S::V; TILE] {
    let (near_sum, near_difference) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (far_sum, far_difference) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    let mix = [
        s.mul(near_difference, s.splat(A)),
        s.mul(near_sum, s.splat(A2)),
        s.fma(near_difference, s.splat(A * A2), m[5]),
    ];
    [
        s.add(s.add(m[0], near_sum), far_sum),
        s.fma(far_difference, s.splat(B), mix[0]),
        s.fma(far_sum, s.splat(B2), mix[1]),
        s.fma(far_difference, s.splat(B * B2), mix[2]),
    ]
}

/// Transforms the input of one tile: `Bᵀ d B` for every channel.
pub(super) struct Input<'a> {
    pub(super) geometry: &'a ConvGeometry,
    /// One pixel of zeros.
    pub(super) zeros: &'a Aligned<f32>,
    pub(super) x: &'a [f32],
    /// Image, first output row and column.
    pub(super) place: [usize; 3],
    /// Channels of the tile at the first point.
    pub(super) out: &'a mut [f32],
    /// From one point to the next.
    pub(super) step: usize,
}

impl Kernel for Input<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Input { geometry, zeros, x, place: [image, top, left], out, step } = self;
        let channels = geometry.in_c;
        let mut pixels = [zeros.as_ptr(); POINTS];
        for (i, pixel) in pixels.iter_mut().enumerate() {
            let row = (top + i / SIDE).checked_sub(geometry.pad_top).filter(|row| *row < geometry.in_h);
            let col = (left + i % SIDE).checked_sub(geometry.pad_left).filter(|col| *col < geometry.in_w);
            if let (Some(row), Some(col)) = (row, col) {
                *pixel = x[((image * geometry.in_h + row) * geometry.in_w + col) * channels..][..channels].as_ptr();
            }
        }
        for c in (0..channels).step_by(S::LANES) {
            let count = channels - c;
            let mut half = [[s.splat(0.0); SIDE]; SIDE];
            for j in 0..SIDE {
                let mut column = [s.splat(0.0); SIDE];
                for (i, value) in column.iter_mut().enumerate() {
                    // SAFETY: every pixel, of the image or the zeros, has `channels` values.
                    *value = unsafe {
                        let from = pixels[i * SIDE + j].add(c);
                        if count >= S::LANES { s.load_ptr(from) } else { s.load_first(from, count) }
                    };
                }
                half[j] = input_line(s, column);
            }
            for i in 0..SIDE {
                let line = input_line(s, [half[0][i], half[1][i], half[2][i], half[3][i], half[4][i], half[5][i]]);
                for (j, value) in line.into_iter().enumerate() {
                    s.store(&mut out[(i * SIDE + j) * step + c..], value);
                }
            }
        }
    }
}

/// Asks for the lines that the results of one tile are written to, and those of what is added to them, before they are needed.
#[inline(always)]
pub(super) fn prefetch<S: Simd>(
    s: S,
    geometry: &ConvGeometry,
    [image, top, left]: [usize; 3],
    channels: Range<usize>,
    out: &SharedMut<'_, f32>,
    residual: Option<&[f32]>,
) {
    let (rows, cols) = (TILE.min(geometry.out_h - top), TILE.min(geometry.out_w - left));
    for i in 0..rows {
        let row = (image * geometry.out_h + top + i) * geometry.out_w + left;
        for j in 0..cols {
            for c in channels.clone().step_by(16) {
                let at = (row + j) * geometry.out_c + c;
                s.prefetch(out.as_mut_ptr().wrapping_add(at));
                if let Some(residual) = residual {
                    s.prefetch(residual.as_ptr().wrapping_add(at));
                }
            }
        }
    }
}

/// Transforms the results of one tile, `Aᵀ m A`, for the channels of a panel, and finishes them.
pub(super) struct Output<'a> {
    pub(super) geometry: &'a ConvGeometry,
    /// Channels of the tile at the first point.
    pub(super) results: &'a [f32],
    /// From one point to the next.
    pub(super) step: usize,
    /// Image, first output row and column.
    pub(super) place: [usize; 3],
    pub(super) bias: &'a [f32],
    pub(super) residual: Option<&'a [f32]>,
    pub(super) clamp: Clamp,
    /// Output channels of the panel.
    pub(super) channels: Range<usize>,
    pub(super) out: &'a SharedMut<'a, f32>,
}

impl Kernel for Output<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let geometry = self.geometry;
        let [image, top, left] = self.place;
        let (lo, hi) = (s.splat(self.clamp.lo), s.splat(self.clamp.hi));
        let (rows, cols) = (TILE.min(geometry.out_h - top), TILE.min(geometry.out_w - left));
        for c in (0..self.channels.len()).step_by(S::LANES) {
            let count = S::LANES.min(self.channels.len() - c);
            let mut half = [[s.splat(0.0); TILE]; SIDE];
            for j in 0..SIDE {
                let mut column = [s.splat(0.0); SIDE];
                for (i, value) in column.iter_mut().enumerate() {
                    *value = s.load(&self.results[(i * SIDE + j) * self.step + c..]);
                }
                half[j] = output_line(s, column);
            }
            let bias = s.load(&self.bias[self.channels.start + c..]);
            for i in 0..rows {
                let line = output_line(s, [half[0][i], half[1][i], half[2][i], half[3][i], half[4][i], half[5][i]]);
                let row = (image * geometry.out_h + top + i) * geometry.out_w + left;
                for (j, value) in line.into_iter().enumerate().take(cols) {
                    let at = (row + j) * geometry.out_c + self.channels.start + c;
                    let mut value = s.add(value, bias);
                    if let Some(residual) = self.residual {
                        value = s.add(value, s.load_tail(&residual[at..at + count]));
                    }
                    // SAFETY: no other tile or panel has these results.
                    let out = unsafe { self.out.slice(at..at + count) };
                    s.store_tail(out, s.clamp(value, lo, hi));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_of_a_line_filter_it() {
        // In one dimension: Aᵀ((G g) ∘ (Bᵀ d)) is the correlation of d with g.
        struct Line;
        impl Kernel for Line {
            type Output = [f32; TILE];

            #[inline(always)]
            fn run<S: Simd>(self, s: S) -> [f32; TILE] {
                let d = [1.0, -2.0, 3.5, 0.25, 4.0, -1.0];
                // One dimension of `weights`: the other is a window of one tap in the middle of three, seen at point infinity.
                let window = [0.0, 0.0, 0.5, 0.0, 0.0, -1.0, 0.0, 0.0, 2.0];
                let points = weights(&window);
                let mut m = input_line(s, d.map(|d| s.splat(d)));
                for (i, m) in m.iter_mut().enumerate() {
                    *m = s.mul(*m, s.splat(points[i * SIDE + SIDE - 1] as f32));
                }
                let mut out = [0.0; TILE];
                for (out, value) in out.iter_mut().zip(output_line(s, m)) {
                    s.store_tail(std::slice::from_mut(out), value);
                }
                out
            }
        }
        for isa in crate::Isa::available() {
            let got = crate::float::simd::dispatch(isa, Line);
            let d = [1.0f32, -2.0, 3.5, 0.25, 4.0, -1.0];
            for (i, got) in got.iter().enumerate() {
                let expected = 0.5 * d[i] - d[i + 1] + 2.0 * d[i + 2];
                assert!((got - expected).abs() < 1e-4, "{} {got} {expected}", isa.name());
            }
        }
    }
}

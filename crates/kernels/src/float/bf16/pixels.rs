//! Sums over the pixels of images for the gradient of a convolution's weights: both factors are rounded, and pairs of pixels of a row lie side
//! by side. Pairs begin where a tap of a window's row begins: there is a copy for each remainder that taps have by the step of pairs.

use std::ops::Range;

#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
use super::avx512::{self, BROADCAST, PairSums, VECTORS};
use super::{LANES, LINE, PAIR};
use crate::cpu::has_bf16;
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
use crate::float::ahead::Ahead;
use crate::{ConvGeometry, Isa};

/// Bytes of a band's copies.
const BAND_BYTES: usize = 160 * 1024;

/// How images are cut for the sums.
#[derive(Debug, Clone, Copy)]
pub(in crate::float) struct Pixels {
    /// Output rows of a band.
    band: usize,
}

impl Pixels {
    /// For a geometry and a machine that this is for: whole vectors of input channels. A window of one pixel that steps over others has too few
    /// products for the copies.
    pub(in crate::float) fn new(isa: Isa, g: &ConvGeometry) -> Option<Pixels> {
        let point = g.taps() == 1 && g.stride != [1, 1];
        if isa != Isa::Avx512 || !has_bf16() || g.groups != 1 || !g.in_c.is_multiple_of(LANES) || point {
            return None;
        }
        Some(Pixels { band: g.band(|band| Pixels { band }.copy_bytes(g) <= BAND_BYTES) })
    }

    /// Bytes of the copies of a row of the input, and of a row of the gradient.
    fn row_bytes(g: &ConvGeometry) -> [usize; 2] {
        [copies(g) * pairs(g) * 2 * PAIR * g.in_c, g.out_w.div_ceil(PAIR) * 2 * PAIR * g.out_c]
    }

    /// Input rows of a band.
    fn under(self, g: &ConvGeometry) -> usize {
        g.rows_under(self.band).min(g.in_h)
    }

    fn copy_bytes(self, g: &ConvGeometry) -> usize {
        let [x, dy] = Pixels::row_bytes(g);
        (self.under(g) * x + self.band * dy).next_multiple_of(LINE)
    }

    /// Values of four bytes of a worker's copies.
    pub(in crate::float) fn copy_len(self, g: &ConvGeometry) -> usize {
        self.copy_bytes(g) / 4
    }

    /// Adds what some images give to some rows of the window: for each row, for each output channel `[kernel[1], in_c]` sums in `partial`.
    pub(in crate::float) fn add(
        self,
        g: &ConvGeometry,
        [x, dy]: [&[f32]; 2],
        images: Range<usize>,
        downs: Range<usize>,
        partial: &mut [f32],
        copy: &mut [f32],
    ) {
        #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
        {
            let [x_row, dy_row] = Pixels::row_bytes(g);
            let copy = bytemuck::cast_slice_mut::<f32, u8>(copy);
            assert!(copy.len() >= self.copy_bytes(g), "copies of a band need their space");
            let (xs, dys) = copy.split_at_mut(self.under(g) * x_row);
            for image in images {
                let x = &x[image * g.in_h * g.in_w * g.in_c..][..g.in_h * g.in_w * g.in_c];
                let dy = &dy[image * g.out_h * g.out_w * g.out_c..][..g.out_h * g.out_w * g.out_c];
                for start in (0..g.out_h).step_by(self.band) {
                    let band = start..(start + self.band).min(g.out_h);
                    let top = (band.start * g.stride[0]).saturating_sub(g.pad_top).min(g.in_h);
                    let end = g.rows_under(band.end);
                    let end = end.saturating_sub(g.pad_top).min(g.in_h).max(top);
                    for (row, to) in (top..end).zip(xs.chunks_exact_mut(x_row)) {
                        copy_x(g, &x[row * g.in_w * g.in_c..][..g.in_w * g.in_c], to);
                    }
                    for (row, to) in band.clone().zip(dys.chunks_exact_mut(dy_row)) {
                        copy_dy(g, &dy[row * g.out_w * g.out_c..][..g.out_w * g.out_c], to);
                    }
                    // Tiles fetch their shares of the band that comes next.
                    let turns = downs.len() * tiles(g);
                    let row = g.in_w * g.in_c;
                    let next = [
                        Ahead::new(x, end * row, band.len() * g.stride[0] * row, turns),
                        Ahead::new(dy, band.end * g.out_w * g.out_c, band.len() * g.out_w * g.out_c, turns),
                    ];
                    let mut turn = 0..turns;
                    for (down, partial) in downs.clone().zip(partial.chunks_exact_mut(g.out_c * g.kernel[1] * g.in_c)) {
                        let inside = |row: &usize| g.input_row(*row, down).is_some();
                        let Some(first) = band.clone().find(inside) else { continue };
                        let last = band.clone().rfind(inside).unwrap_or(first);
                        let from = first * g.stride[0] + down * g.dilation[0] - g.pad_top - top;
                        let (xs, dys) = (&xs[from * x_row..], &dys[(first - start) * dy_row..]);
                        add_row_of_window(g, xs, dys, last - first + 1, partial, &mut || {
                            let turn = turn.next().unwrap_or(turns);
                            next.iter().for_each(|ahead| ahead.lines(turn).for_each(avx512::prefetch));
                        });
                    }
                }
            }
        }
        #[cfg(not(all(target_arch = "x86_64", feature = "avx512")))]
        {
            let _ = (g, x, dy, images, downs, partial, copy);
            unreachable!("the method is not chosen on a machine without the instructions")
        }
    }
}

/// Pixels from a pair to the next.
fn step(g: &ConvGeometry) -> usize {
    PAIR * g.stride[1]
}

/// How many copies of a row there are.
fn copies(g: &ConvGeometry) -> usize {
    step(g).min((g.kernel[1] - 1) * g.dilation[1] + 1)
}

/// Pairs of a copy: those of a row of the output, and of the taps that begin as many pairs later.
fn pairs(g: &ConvGeometry) -> usize {
    g.out_w.div_ceil(PAIR) + (g.kernel[1] - 1) * g.dilation[1] / step(g)
}

/// The copies of a row of the input.
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
fn copy_x(g: &ConvGeometry, row: &[f32], to: &mut [u8]) {
    for (copy, to) in to.chunks_exact_mut(pairs(g) * 2 * PAIR * g.in_c).enumerate() {
        let first = copy as isize - g.pad_left as isize;
        let chosen = avx512::Chosen { first, step: g.stride[1], count: PAIR * pairs(g) };
        // SAFETY: the machine has the instructions, or the method would not have been chosen.
        unsafe { avx512::round_pairs(row, g.in_c, chosen, to) };
    }
}

/// A row of the gradient as pairs of all channels.
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
fn copy_dy(g: &ConvGeometry, row: &[f32], to: &mut [u8]) {
    // SAFETY: the machine has the instructions, or the method would not have been chosen.
    unsafe { avx512::round_pairs(row, g.out_c, avx512::Chosen { first: 0, step: 1, count: g.out_w }, to) };
}

/// How many tiles the sums for a row of the window are.
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
fn tiles(g: &ConvGeometry) -> usize {
    (g.kernel[1] * g.in_c / LANES).div_ceil(VECTORS) * g.out_c.div_ceil(BROADCAST)
}

/// The sums of some rows for a row of the window; `before` is done before each tile.
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
fn add_row_of_window(
    g: &ConvGeometry,
    xs: &[u8],
    dys: &[u8],
    rows: usize,
    partial: &mut [f32],
    before: &mut dyn FnMut(),
) {
    let values = g.kernel[1] * g.in_c;
    let [x_row, dy_row] = Pixels::row_bytes(g);
    assert!(xs.len() >= ((rows - 1) * g.stride[0] + 1) * x_row && dys.len() >= rows * dy_row);
    assert!(partial.len() >= g.out_c * values && values.is_multiple_of(LANES));
    let vectors = values / LANES;
    for first in (0..vectors).step_by(VECTORS) {
        let wide = VECTORS.min(vectors - first);
        // A vector is of one tap.
        let vector = |i: usize| {
            let value = (first + i.min(wide - 1)) * LANES;
            let (tap, channel) = (value / g.in_c * g.dilation[1], value % g.in_c);
            let pair = tap % step(g) * pairs(g) + tap / step(g);
            xs[2 * PAIR * (pair * g.in_c + channel)..].as_ptr()
        };
        for output in (0..g.out_c).step_by(BROADCAST) {
            let sums = PairSums {
                rows,
                pairs: g.out_w.div_ceil(PAIR),
                a: dys[2 * PAIR * output..].as_ptr(),
                a_steps: [2 * PAIR * g.out_c, dy_row],
                b: [vector(0), vector(1), vector(2)],
                b_steps: [2 * PAIR * g.in_c, g.stride[0] * x_row],
                out: partial[output * values + first * LANES..].as_mut_ptr(),
                stride: values,
            };
            before();
            // SAFETY: the machine has the instructions; the lengths checked above contain all pairs and sums.
            unsafe { sums.add(BROADCAST.min(g.out_c - output), wide) };
        }
    }
}

//! Rows of the left matrix that are read from the image itself.
//!
//! With the channels last, what a kernel row sees of the image is one piece, and the next output pixel sees the same a few bytes
//! further on. So a convolution needs no copy of every tap (9 for 3×3): a kernel that steps from kernel row to kernel row reads
//! them from the image, or from a copy of a few of its rows with the padding around.

use super::After;
#[cfg(target_arch = "x86_64")]
use super::fold;
use super::panels::{BLOCK_BYTES, Block, MIN_ROWS, Panels, Sink};
use crate::cpu::{AVX512, Isa};
use crate::geometry::ConvGeometry;
use crate::pool::{Pool, SharedMut};
use crate::quantized::epilogue::{Epilogue, Output};

/// Output pixels in a row below which tiles that end with the row are too small, beside the taps they need not copy.
const MIN_WIDTH: usize = 12;
/// Bytes of a kernel row up to which copying its taps, a few bytes at a time, takes longer than multiplying them in small tiles.
const SHORT: usize = 16;
/// Output channels up to which the copy of the taps takes a share of the time that is worth saving.
const MOST_COLUMNS: usize = 128;
/// Bytes that a kernel row is read in.
const STEP: usize = 4;
/// Output channels up to which a kernel's columns share a vector.
const MOST_FOLDED: usize = 4;
/// Columns of a vector of sums.
const LANES: usize = 16;

/// How the rows lie in the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Image {
    /// Bytes of a kernel row, and the same rounded up to whole steps; weights are zero for the difference.
    run: usize,
    padded: usize,
    /// Bytes from one row of the copy, or of the input if nothing is copied, to the next.
    line: usize,
    copied: bool,
    /// Whether the columns of the kernel share a vector of sums (`fold.rs`).
    folded: bool,
}

impl Image {
    /// The way for a layer, or `None` if another one is better or the instruction set's kernel has none.
    pub(super) fn of(isa: Isa, g: &ConvGeometry) -> Option<Image> {
        let suits = AVX512
            && isa == Isa::Avx512
            && g.groups == 1
            && g.dilation == [1, 1]
            && (g.out_w >= MIN_WIDTH || g.kernel[1] * g.in_c <= SHORT)
            && g.out_c <= MOST_COLUMNS
            && !(g.is_pointwise() && g.in_c.is_multiple_of(STEP));
        if !suits {
            return None;
        }
        // Few output channels would leave most lanes of a vector idle. Instead each pixel is multiplied by the weights of all kernel
        // columns at once, side by side, and the sums of neighbouring pixels are added up.
        let folded = g.kernel[1] > 1
            && g.out_c <= MOST_FOLDED
            && g.kernel[1] < 10
            && g.out_c * g.kernel[1] <= LANES
            && g.stride[1] == 1
            && g.in_c.is_multiple_of(STEP)
            && g.out_w > LANES;
        let columns = if folded { 1 } else { g.kernel[1] };
        let run = columns * g.in_c;
        let padded = run.next_multiple_of(STEP);
        let width = (g.out_w - 1) * g.stride[1] * g.in_c + (g.kernel[1] * g.in_c).next_multiple_of(STEP);
        let inside = g.pad_top == 0 && g.pad_left == 0 && width <= g.in_w * g.in_c;
        let copied = !(inside && (g.out_h - 1) * g.stride[0] + g.kernel[0] <= g.in_h);
        let line = if copied { width.next_multiple_of(64) } else { g.in_w * g.in_c };
        Some(Image { run, padded, line, copied, folded })
    }

    /// Bytes of weights of an output channel.
    pub(super) fn depth(&self, g: &ConvGeometry) -> usize {
        g.kernel[0] * self.padded
    }

    /// Columns of the matrix of weights.
    pub(super) fn columns(&self, g: &ConvGeometry) -> usize {
        if self.folded { LANES } else { g.out_c }
    }

    /// Whether [`Image::space`] gives other weights.
    pub(super) fn spaces(&self) -> bool {
        self.folded || self.run != self.padded
    }

    /// The weights with the zeros that fill the steps of their rows, or `None` if none are missing.
    pub(super) fn space(&self, weights: &[i8], g: &ConvGeometry) -> Option<Vec<i8>> {
        if self.folded {
            let mut spaced = vec![0; LANES * self.depth(g)];
            for (from, piece) in weights.chunks_exact(g.in_c).enumerate() {
                let (channel, ky, kx) = (from / g.taps(), from % g.taps() / g.kernel[1], from % g.kernel[1]);
                let to = ((kx * g.out_c + channel) * g.kernel[0] + ky) * self.padded;
                spaced[to..to + g.in_c].copy_from_slice(piece);
            }
            return Some(spaced);
        }
        if self.run == self.padded {
            return None;
        }
        let mut spaced = vec![0; g.out_c * self.depth(g)];
        for (from, to) in weights.chunks_exact(self.run).zip(spaced.chunks_exact_mut(self.padded)) {
            to[..self.run].copy_from_slice(from);
        }
        Some(spaced)
    }

    /// Output rows of a block.
    fn rows(&self, g: &ConvGeometry, columns: usize, threads: usize) -> usize {
        let row = g.stride[0] * self.line + 2 * g.out_w * columns;
        let fixed = g.kernel[0].saturating_sub(g.stride[0]) * self.line;
        let fits = BLOCK_BYTES.saturating_sub(fixed) / row;
        let share = if threads == 1 { 1 } else { 2 * threads };
        let fine = (g.batch * g.out_h).div_ceil(share);
        fits.max(MIN_ROWS.div_ceil(g.out_w)).min(fine).clamp(1, g.out_h)
    }

    /// Rows of the input that `rows` rows of the output see.
    fn seen(g: &ConvGeometry, rows: usize) -> usize {
        (rows - 1) * g.stride[0] + g.kernel[0]
    }

    pub(super) fn scratch_bytes(&self, g: &ConvGeometry, columns: usize, threads: usize) -> usize {
        if !self.copied {
            return 0;
        }
        let bytes = |threads| threads * Image::seen(g, self.rows(g, columns, threads)) * self.line;
        (1..=threads).map(bytes).max().unwrap_or(0)
    }

    /// Convolves. Lengths have been checked, `scratch` included.
    pub(super) fn run(
        &self,
        panels: &Panels,
        g: &ConvGeometry,
        x: &[u8],
        x_zero: u8,
        epilogue: &Epilogue,
        after: After<'_>,
        y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) {
        let rows = self.rows(g, panels.columns, pool.threads());
        let blocks = g.out_h.div_ceil(rows);
        let share = Image::seen(g, rows) * self.line;
        let scratch = SharedMut::new(scratch);
        let y = Sink::new(y);
        let part = &panels.groups[0];
        pool.run_indexed(g.batch * blocks, &|worker, block| {
            let (n, first) = (block / blocks, block % blocks * rows);
            let count = rows.min(g.out_h - first);
            let a = if self.copied {
                // SAFETY: a worker runs one block at a time and its range is its own.
                let copy = unsafe { scratch.slice(worker * share..(worker + 1) * share) };
                self.copy(g, x, x_zero, n, first, Image::seen(g, count), copy);
                &*copy
            } else {
                &x[(n * g.in_h + first * g.stride[0]) * self.line..]
            };
            let offset = (n * g.out_h + first) * g.out_w * g.out_c;
            #[cfg(target_arch = "x86_64")]
            if AVX512 && self.folded {
                for i in 0..count {
                    let row = fold::Row {
                        a: &a[i * g.stride[0] * self.line..],
                        line: self.line,
                        lines: g.kernel[0],
                        stride: g.in_c,
                        steps: self.padded / STEP,
                        width: g.out_w,
                        channels: g.out_c,
                        columns: g.kernel[1],
                        weights: &part.weights,
                        bias: &part.bias,
                        scale: &part.scale,
                    };
                    y.fold(panels.isa, &row, offset + i * g.out_w * g.out_c, epilogue, after);
                }
                return;
            }
            let block = Block {
                a,
                stride: g.stride[1] * g.in_c,
                rows: count * g.out_w,
                steps: self.padded / STEP,
                lines: g.kernel[0],
                line: self.line,
                segment: g.out_w,
                segment_stride: g.stride[0] * self.line,
                weights: &part.weights,
                bias: &part.bias,
                scale: &part.scale,
                from: 0,
                to: panels.columns,
                saturates: panels.saturates,
            };
            let columns = 0..panels.columns;
            y.compute(panels.isa, &panels.layout, &block, offset, g.out_c, epilogue, after, 0, &columns);
        });
    }

    /// Copies `rows` rows of image `n`, from the first that output row `first` sees, with their padding.
    fn copy(&self, g: &ConvGeometry, x: &[u8], x_zero: u8, n: usize, first: usize, rows: usize, to: &mut [u8]) {
        let (left, width) = (g.pad_left * g.in_c, g.in_w * g.in_c);
        for (i, to) in to.chunks_exact_mut(self.line).take(rows).enumerate() {
            let inside = (first * g.stride[0] + i).checked_sub(g.pad_top).filter(|row| *row < g.in_h);
            let Some(row) = inside else {
                to.fill(x_zero);
                continue;
            };
            let from = &x[(n * g.in_h + row) * width..][..width.min(self.line.saturating_sub(left))];
            let (before, rest) = to.split_at_mut(left.min(self.line));
            let (middle, behind) = rest.split_at_mut(from.len());
            before.fill(x_zero);
            middle.copy_from_slice(from);
            behind.fill(x_zero);
        }
    }
}

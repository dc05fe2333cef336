//! Rows of the left matrix that are read from the image itself.
//!
//! With the channels last, what a kernel row sees of the image is one piece, and the next output pixel sees the same a few bytes
//! further on. So a convolution needs no copy of every tap (9 for 3×3): a kernel that steps from kernel row to kernel row reads
//! them from the image, or from a copy of a few of its rows with the padding around. Of a wide image only the pixels whose window reaches
//! into the padding are copied.

use super::After;
#[cfg(target_arch = "x86_64")]
use super::fold;
use super::layout::Layout;
use super::panels::{BLOCK_BYTES, Block, MIN_ROWS, Sink};
use super::rows::gather;
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
/// Bytes of a block of wide rows, of which more are copied than [`BLOCK_BYTES`] has room for: a part of the second-level cache.
const COPIED_BYTES: usize = 4 * BLOCK_BYTES;
/// Output pixels in a row from which on it is cheaper to compute those at its ends by themselves than to copy the row.
const WIDE: usize = 256;
/// Bytes that a kernel row is read in.
const STEP: usize = 4;
/// Output channels up to which a kernel's columns share a vector.
const MOST_FOLDED: usize = 4;
/// Columns of a vector of sums.
const LANES: usize = 16;

/// How the rows lie in the image.
#[derive(Debug, Clone, Copy)]
pub(in crate::quantized) struct Image {
    /// Bytes of a kernel row, and the same rounded up to whole steps; weights are zero for the difference.
    run: usize,
    padded: usize,
    /// Bytes from one row of the copy, or of the input if nothing is copied, to the next.
    line: usize,
    copied: bool,
    /// Whether pixels whose window lies inside the image are read from it all the same.
    inner: bool,
    /// Whether the columns of the kernel share a vector of sums (`fold.rs`).
    folded: bool,
}

/// Weights in the order that the matrix kernel reads, and what becomes of its sums. Bias and scale have a value for each column, padded to whole vectors.
#[derive(Clone, Copy)]
pub(in crate::quantized) struct Matrix<'a> {
    pub(in crate::quantized) isa: Isa,
    /// Output channels.
    pub(in crate::quantized) columns: usize,
    /// [`Epilogue::saturates`].
    pub(in crate::quantized) saturates: bool,
    pub(in crate::quantized) weights: &'a [i8],
    pub(in crate::quantized) bias: &'a [i32],
    pub(in crate::quantized) scale: &'a [f32],
}

impl Image {
    /// The way for a layer with weights in panels of 64 columns, four taps a step, without any between: how kernels of few bits make them.
    pub(in crate::quantized) fn plain(isa: Isa, g: &ConvGeometry) -> Option<Image> {
        Image::of(isa, g).filter(|image| !image.spaces())
    }

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
        let inner = copied && !folded && run == padded && g.in_c.is_multiple_of(STEP) && g.out_w >= WIDE;
        Some(Image { run, padded, line, copied, inner, folded })
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
        let again = g.kernel[0].saturating_sub(g.stride[0]);
        // Rows that the next block copies again are a small part of it.
        let fits = (BLOCK_BYTES.saturating_sub(again * self.line) / row).max((COPIED_BYTES / row).min(4 * again));
        let share = if threads == 1 { 1 } else { 2 * threads };
        let fine = (g.batch * g.out_h).div_ceil(share);
        let most = fits.max(MIN_ROWS.div_ceil(g.out_w)).min(fine).clamp(1, g.out_h);
        // As many blocks for every thread.
        let blocks = (g.batch * g.out_h).div_ceil(most).next_multiple_of(threads);
        g.out_h.div_ceil(blocks.div_ceil(g.batch))
    }

    /// Rows of the input that `rows` rows of the output see.
    fn seen(g: &ConvGeometry, rows: usize) -> usize {
        (rows - 1) * g.stride[0] + g.kernel[0]
    }

    pub(in crate::quantized) fn scratch_bytes(&self, g: &ConvGeometry, columns: usize, threads: usize) -> usize {
        (1..=threads).map(|threads| threads * self.share(g, self.rows(g, columns, threads))).max().unwrap_or(0)
    }

    /// Bytes that a block of `rows` rows of the output is copied to.
    fn share(&self, g: &ConvGeometry, rows: usize) -> usize {
        match (self.copied, self.inner) {
            (false, _) => 0,
            (true, false) => Image::seen(g, rows) * self.line,
            (true, true) => g.kernel[0] * self.line + rows * self.depth(g),
        }
    }

    /// Convolves. Lengths have been checked, `scratch` included.
    pub(in crate::quantized) fn run(
        &self,
        matrix: Matrix<'_>,
        g: &ConvGeometry,
        x: &[u8],
        x_zero: u8,
        epilogue: &Epilogue,
        after: After<'_>,
        y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) {
        let rows = self.rows(g, matrix.columns, pool.threads());
        let blocks = g.out_h.div_ceil(rows);
        let share = self.share(g, rows);
        let scratch = SharedMut::new(scratch);
        let y = Sink::new(y);
        pool.run_indexed(g.batch * blocks, &|worker, block| {
            let (n, first) = (block / blocks, block % blocks * rows);
            let count = rows.min(g.out_h - first);
            // SAFETY: a worker runs one block at a time and its range is its own.
            let copy = unsafe { scratch.slice(worker * share..(worker + 1) * share) };
            let job = Job { image: self, matrix, g, x, x_zero, n, first, count, epilogue, after, y: &y };
            if self.inner { job.inner(copy) } else { job.whole(copy) }
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

/// Some rows of the output of one image.
struct Job<'a> {
    image: &'a Image,
    matrix: Matrix<'a>,
    g: &'a ConvGeometry,
    x: &'a [u8],
    x_zero: u8,
    n: usize,
    first: usize,
    count: usize,
    epilogue: &'a Epilogue,
    after: After<'a>,
    y: &'a Sink<'a>,
}

impl Job<'_> {
    /// Values of the output before pixel (`row`, `column`).
    fn offset(&self, row: usize, column: usize) -> usize {
        ((self.n * self.g.out_h + row) * self.g.out_w + column) * self.g.out_c
    }

    /// Computes `rows` rows of as many pixels as `block` has in a segment, from `offset` on: pixels `y_stride` values apart.
    fn compute(&self, block: Block<'_>, offset: usize, y_stride: usize) {
        let Matrix { isa, columns, saturates, weights, bias, scale } = self.matrix;
        let block = Block { weights, bias, scale, from: 0, to: columns, saturates, ..block };
        let Some(layout) = Layout::of(isa) else { unreachable!("images are read by matrix kernels") };
        self.y.compute(isa, &layout, &block, offset, y_stride, self.epilogue, self.after, 0, &(0..columns));
    }

    /// Rows of pixels whose kernel rows are pieces of `a`, `line` bytes apart.
    fn pixels<'a>(&self, a: &'a [u8], line: usize, rows: usize, width: usize) -> Block<'a> {
        Block {
            a,
            stride: self.g.stride[1] * self.g.in_c,
            rows: rows * width,
            steps: self.image.padded / STEP,
            lines: self.g.kernel[0],
            line,
            segment: width,
            segment_stride: self.g.stride[0] * line,
            weights: &[],
            bias: &[],
            scale: &[],
            from: 0,
            to: 0,
            saturates: false,
        }
    }

    /// All rows, from a copy of what they see, or from the image where that has no padding.
    fn whole(&self, copy: &mut [u8]) {
        let Job { image, g, x, x_zero, n, first, count, .. } = *self;
        let a = if image.copied {
            image.copy(g, x, x_zero, n, first, Image::seen(g, count), copy);
            &*copy
        } else {
            &x[(n * g.in_h + first * g.stride[0]) * image.line..]
        };
        #[cfg(target_arch = "x86_64")]
        if AVX512 && image.folded {
            let Matrix { isa, weights, bias, scale, .. } = self.matrix;
            for i in 0..count {
                let row = fold::Row {
                    a: &a[i * g.stride[0] * image.line..],
                    line: image.line,
                    lines: g.kernel[0],
                    stride: g.in_c,
                    steps: image.padded / STEP,
                    width: g.out_w,
                    channels: g.out_c,
                    columns: g.kernel[1],
                    weights,
                    bias,
                    scale,
                };
                self.y.fold(isa, &row, self.offset(first + i, 0), self.epilogue, self.after);
            }
            return;
        }
        self.compute(self.pixels(a, image.line, count, g.out_w), self.offset(first, 0), g.out_c);
    }

    /// All rows: pixels whose window lies inside the image from the image, the others from copies of theirs.
    fn inner(&self, copy: &mut [u8]) {
        let Job { image, matrix, g, x, x_zero, n, first, count, .. } = *self;
        let (lines, windows) = copy.split_at_mut(image.line * g.kernel[0]);
        // Rows whose windows do not reach above or below the image, and of them the pixels whose windows do not reach beside it.
        let top = g.pad_top.div_ceil(g.stride[0]).clamp(first, first + count);
        let rows = (g.in_h + g.pad_top).checked_sub(g.kernel[0]).map_or(0, |room| room / g.stride[0] + 1);
        let bottom = rows.clamp(top, first + count);
        let left = g.pad_left.div_ceil(g.stride[1]).min(g.out_w);
        let columns = (g.in_w + g.pad_left).checked_sub(g.kernel[1]).map_or(0, |room| room / g.stride[1] + 1);
        let right = columns.clamp(left, g.out_w);
        for row in (first..top).chain(bottom..first + count) {
            image.copy(g, x, x_zero, n, row, g.kernel[0], lines);
            self.compute(self.pixels(lines, image.line, 1, g.out_w), self.offset(row, 0), g.out_c);
        }
        if top == bottom {
            return;
        }
        let line = g.in_w * g.in_c;
        for row in top..if left < right { bottom } else { top } {
            let pixel = (n * g.in_h + row * g.stride[0] - g.pad_top) * g.in_w + left * g.stride[1] - g.pad_left;
            let a = &x[pixel * g.in_c..];
            self.compute(self.pixels(a, line, 1, right - left), self.offset(row, left), g.out_c);
        }
        let depth = image.depth(g);
        for column in (0..left).chain(right..g.out_w) {
            for (row, window) in (top..bottom).zip(windows.chunks_exact_mut(depth)) {
                let pixel = (n * g.out_h + row) * g.out_w + column;
                gather(matrix.isa, g, 0, x, x_zero, pixel, 1, window, depth, false);
            }
            let block = Block {
                stride: depth,
                rows: bottom - top,
                steps: depth / STEP,
                lines: 1,
                segment: bottom - top,
                ..self.pixels(windows, 0, 1, 1)
            };
            self.compute(block, self.offset(top, column), g.out_w * g.out_c);
        }
    }
}

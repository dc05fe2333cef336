//! Depthwise convolution with VNNI.
//!
//! The instruction sums four products of neighbouring bytes, so the four have to be taps of the same channel: four rows of
//! the input are interleaved, and a column of them serves every output whose window covers it. Rows of output near each
//! other share the interleaved rows: they form a band, and each has its own copy of the weights, moved down to where its
//! window begins.
//!
//! The usual windows are slid along the row in registers (`slide.rs`); for others the interleaved columns are stored
//! (`columns.rs`). There the 64 channels of a block are scattered over four registers, four of every sixteen in each, which
//! narrowing the sums to bytes puts back in order; and a last block of at most 32 channels takes the left half of a row and
//! the right half side by side.

mod columns;
mod slide;

use std::ops::Range;

use super::Window;
use crate::aligned::Aligned;
use crate::cpu::has_vbmi;
use crate::geometry::ConvGeometry;
use crate::pool::{Pool, SharedMut};
use crate::prepacked::Tag;
use crate::quantized::IntegerSource;
use crate::quantized::epilogue::{Epilogue, Output, Requantize};
use crate::quantized::lookup;

/// Channels of a block whose columns are stored.
const BLOCK: usize = 64;
/// Bytes of one interleaved column of four rows, or of its weights.
const COLUMN: usize = 4 * BLOCK;

/// A depthwise convolution packed for these kernels.
#[derive(Debug, Clone)]
pub(super) struct Bands {
    window: Window,
    /// Whether windows are slid along the row.
    slides: bool,
    /// Channels of a block.
    block: usize,
    /// Rows of output of a band.
    rows: usize,
    /// Of them, those that have weights of their own, as they share their interleaved rows; or one, if all use the same.
    variants: usize,
    /// Interleaved rows in fours.
    groups: usize,
    /// Whether the last block takes two pixels at a time.
    paired: bool,
    saturates: bool,
    /// `[block][variant][kernel column][group][place][row of the group]`.
    weights: Aligned<i8>,
    /// `[block][place]`.
    bias: Aligned<i32>,
    scale: Aligned<f32>,
}

/// The place in a block's packed order, of which every 16 make a register, that channel `channel` takes.
fn place(channel: usize) -> usize {
    let (lane, within) = (channel / 16, channel % 16);
    within / 4 * 16 + lane * 4 + within % 4
}

/// Channels of a block side by side, and what of them is there.
#[derive(Clone, Copy)]
struct Span {
    channel: usize,
    count: usize,
    /// Whether the right half of the row lies in the upper half of each register.
    paired: bool,
}

/// A band of rows of output of one image, and what they read.
struct Band<'a> {
    window: &'a Window,
    x_zero: u8,
    /// The input rows under the band, four for each group; none for those in the padding and those nobody needs.
    lines: &'a [Option<&'a [u8]>],
    groups: usize,
    /// Rows of output, and values from one to the next.
    rows: usize,
    pitch: usize,
}

/// Packed weights, bias and scale of one block.
#[derive(Clone, Copy)]
struct Packed<'a> {
    weights: &'a [i8],
    /// Bytes of weights of a row of the band.
    row: usize,
    bias: &'a [i32],
    scale: &'a [f32],
}

/// How results are stored.
#[derive(Clone, Copy)]
enum Store<'a> {
    U8(*mut u8, &'a Requantize),
    F32(*mut f32),
}

impl Bands {
    pub(super) fn pack(
        g: &ConvGeometry,
        window: Window,
        weights: IntegerSource<'_>,
        bias: &[i32],
        epilogue: &Epilogue,
    ) -> Bands {
        let [kernel_rows, kernel_columns] = g.kernel;
        let groups = kernel_rows.div_ceil(4);
        let bytes = matches!(epilogue, Epilogue::Requantize(_));
        let slides = bytes && slide::fits(&window);
        // Rows whose windows lie within the same fours of lines.
        let together = if g.dilation[0] == 1 { (4 * groups - kernel_rows) / g.stride[0] + 1 } else { 1 };
        let (block, rows, variants) = match slides {
            true if together > 1 => (slide::BLOCK, slide::ROWS, slide::ROWS),
            true if g.stride[0] == 2 && g.dilation[0] == 1 => (slide::BLOCK, slide::ROWS, 1),
            true => (slide::BLOCK, 1, 1),
            false => (BLOCK, together.min(4), together.min(4)),
        };
        let order: Vec<usize> = if slides {
            (0..block).collect()
        } else {
            let mut order = vec![0; block];
            (0..block).for_each(|c| order[place(c)] = c);
            order
        };
        let tail = g.in_c % BLOCK;
        let paired = !slides && bytes && (1..=BLOCK / 2).contains(&tail) && g.out_w > 1;
        let padded = g.in_c.next_multiple_of(block);
        let (mut packed_bias, mut packed_scale) = (Aligned::zeros(padded), Aligned::zeros(padded));
        let channel_at = |first: usize, place: usize| {
            let halved = paired && first + block == padded;
            first + if halved { order[place] % (block / 2) } else { order[place] }
        };
        for first in (0..padded).step_by(block) {
            for place in 0..block {
                if let Some(bias) = bias.get(channel_at(first, place)) {
                    packed_bias[first + place] = *bias;
                    packed_scale[first + place] = epilogue.scale()[channel_at(first, place)];
                }
            }
        }
        let numbers = [g.in_c, kernel_rows, kernel_columns, g.stride[0], block, variants, slides.into(), paired.into()];
        let len = padded * variants * kernel_columns * 4 * groups;
        let packed = Aligned::packed(Tag::new("depthwise u8, bands", &numbers), len, |packed| {
            let weights: &[i8] = weights;
            let mut to = packed.chunks_exact_mut(4);
            for first in (0..padded).step_by(block) {
                for (row, column) in (0..variants).flat_map(|row| (0..kernel_columns).map(move |column| (row, column)))
                {
                    let down = row * g.stride[0];
                    for line in (0..4 * groups).step_by(4) {
                        for (place, to) in (0..block).zip(&mut to) {
                            let channel = channel_at(first, place);
                            for (line, to) in (line..line + 4).zip(to) {
                                *to = match line.checked_sub(down) {
                                    Some(tap) if tap < kernel_rows && channel < g.in_c => {
                                        weights[(channel * kernel_rows + tap) * kernel_columns + column]
                                    }
                                    _ => 0,
                                };
                            }
                        }
                    }
                }
            }
        });
        Bands {
            window,
            slides,
            block,
            rows,
            variants,
            groups,
            paired,
            saturates: epilogue.saturates(),
            weights: packed,
            bias: packed_bias,
            scale: packed_scale,
        }
    }

    /// Bytes of scratch of one thread.
    pub(super) fn scratch_bytes(&self) -> usize {
        // For a row of the padding, or for columns.
        if self.slides {
            self.window.in_w * self.window.channels
        } else {
            columns::scratch_bytes(&self.window, self.groups)
        }
    }

    /// Convolves. Lengths have been checked, `scratch` included.
    pub(super) fn run(
        &self,
        g: &ConvGeometry,
        x: &[u8],
        x_zero: u8,
        epilogue: &Epilogue,
        y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) {
        let blocks = g.in_c.div_ceil(self.block);
        let bands = g.out_h.div_ceil(self.rows);
        // Bands are the natural share; where there are few, each is cut along the channels.
        let pieces = if pool.threads() == 1 { 1 } else { (4 * pool.threads()).div_ceil(g.batch * bands).min(blocks) };
        let piece = blocks.div_ceil(pieces);
        let pieces = blocks.div_ceil(piece);
        let part = scratch.len() / pool.threads();
        let scratch = SharedMut::new(scratch);
        let (bytes, floats) = match y {
            Output::U8(y) => (Some(SharedMut::new(y)), None),
            Output::F32(y) => (None, Some(SharedMut::new(y))),
        };
        let table = match epilogue {
            Epilogue::Requantize(to) if !has_vbmi() => to.table.as_deref(),
            _ => None,
        };
        // At most a few dozen jobs: a row of a small image is over in less than a microsecond.
        let jobs = g.batch * bands * pieces;
        let batch = jobs.div_ceil(if pool.threads() == 1 { 1 } else { 8 * pool.threads() });
        pool.run_indexed(jobs.div_ceil(batch), &|worker, chunk| {
            // SAFETY: a worker runs one chunk at a time and its range is its own.
            let scratch = unsafe { scratch.slice(worker * part..(worker + 1) * part) };
            let end = ((chunk + 1) * batch).min(jobs);
            let mut job = chunk * batch;
            while job < end {
                let (image, band) = (job / pieces / bands, job / pieces % bands);
                let bands = band..if pieces == 1 { bands.min(band + end - job) } else { band + 1 };
                let blocks = job % pieces * piece..((job % pieces + 1) * piece).min(blocks);
                job += bands.len();
                let x = &x[image * g.in_h * g.in_w * g.in_c..][..g.in_h * g.in_w * g.in_c];
                let start = image * g.out_h * g.out_w * g.out_c;
                if self.slides
                    && let (Some(y), Epilogue::Requantize(to)) = (&bytes, epilogue)
                {
                    let padding = &mut scratch[..g.in_w * g.in_c];
                    padding.fill(x_zero);
                    let share = slide::Share { geometry: g, x, x_zero, padding, bands, blocks, to };
                    // SAFETY: windows only slide where the machine has the instructions; the image lies in the output, whose length
                    // was checked, and no other job has these channels of these bands.
                    unsafe { slide::run(self, &share, y.as_mut_ptr().add(start)) };
                    continue;
                }
                for band in bands {
                    let first = band * self.rows;
                    let rows = self.rows.min(g.out_h - first);
                    let start = start + first * g.out_w * g.out_c;
                    let store = match (&bytes, &floats, epilogue) {
                        (Some(y), _, Epilogue::Requantize(to)) => Store::U8(y.as_mut_ptr().wrapping_add(start), to),
                        (_, Some(y), _) => Store::F32(y.as_mut_ptr().wrapping_add(start)),
                        _ => unreachable!("the output was checked against the epilogue"),
                    };
                    // SAFETY: the machine has the instructions, as these weights were packed for it; the band lies in the
                    // output, whose length was checked, and no other job has these channels of it.
                    unsafe { self.band(g, x, x_zero, first, rows, blocks.clone(), store, scratch) };
                    let (Some(table), Some(y)) = (table, &bytes) else { continue };
                    for pixel in 0..rows * g.out_w {
                        let start = start + pixel * g.out_c;
                        // SAFETY: the same values as above.
                        let values = unsafe {
                            y.slice(start + blocks.start * self.block..start + (blocks.end * self.block).min(g.out_c))
                        };
                        lookup::in_place(crate::Isa::Avx512, table, values);
                    }
                }
            }
        });
    }

    /// Blocks `blocks` of rows `first..first + rows` of one image.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW, VL, DQ and VNNI, and the rows' values from the first one's on, which `store` points
    /// to, may be written at the blocks' channels.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn band(
        &self,
        g: &ConvGeometry,
        x: &[u8],
        x_zero: u8,
        first: usize,
        rows: usize,
        blocks: Range<usize>,
        store: Store<'_>,
        scratch: &mut [u8],
    ) {
        let length = g.in_w * g.in_c;
        let needed = (rows - 1) * g.stride[0] + g.kernel[0];
        let mut lines = [None; 4 * MOST_GROUPS];
        let lines = &mut lines[..4 * self.groups];
        for (i, line) in lines.iter_mut().enumerate().take(needed) {
            // Of a dilated window a band is one row.
            let row = (first * g.stride[0] + i * g.dilation[0]).checked_sub(g.pad_top).filter(|row| *row < g.in_h);
            *line = row.map(|row| &x[row * length..(row + 1) * length]);
        }
        let band = Band { window: &self.window, x_zero, lines, groups: self.groups, rows, pitch: g.out_w * g.out_c };
        // SAFETY: by the caller's promise.
        unsafe { self.blocks(g, &band, blocks, store, scratch) }
    }

    /// # Safety
    /// As [`Bands::band`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn blocks(
        &self,
        g: &ConvGeometry,
        band: &Band<'_>,
        blocks: Range<usize>,
        store: Store<'_>,
        scratch: &mut [u8],
    ) {
        for block in blocks {
            let channel = block * self.block;
            let count = (g.in_c - channel).min(self.block);
            let span = Span { channel, count, paired: self.paired && count <= BLOCK / 2 };
            let row = self.window.kernel[1] * self.groups * 4 * self.block;
            let packed = Packed {
                weights: &self.weights[block * self.variants * row..(block + 1) * self.variants * row],
                row,
                bias: &self.bias[channel..channel + self.block],
                scale: &self.scale[channel..channel + self.block],
            };
            // SAFETY: the addresses are of the block; the output is the caller's promise.
            unsafe {
                match store {
                    Store::U8(y, to) => {
                        columns::run_u8(band, span, packed, to, self.saturates, y.add(channel), scratch);
                    }
                    Store::F32(y) => columns::run_f32(band, span, packed, y.add(channel), scratch),
                }
            }
        }
    }
}

/// Kernel rows in fours that are supported; higher windows take another road.
pub(super) const MOST_GROUPS: usize = 15;

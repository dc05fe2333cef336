//! Depthwise convolution with VNNI.
//!
//! The instruction sums four products of neighbouring bytes, so the four have to be taps of the same channel: for a
//! row of output, the input rows under the kernel are interleaved four at a time, once for each column, and each
//! column then serves every output whose kernel covers it. Interleaving scatters the 64 channels of a block over four
//! registers, four of every sixteen in each; narrowing the sums to bytes puts them back in order.

use std::arch::x86_64::*;

use super::{Pixels, Row, Weights, slide};
use crate::quantized::epilogue::avx512::Clamp;
use crate::quantized::epilogue::{Epilogue, Requantize};

/// Channels of a block.
pub(super) const BLOCK: usize = 64;
/// Bytes of one interleaved column of four rows.
pub(super) const COLUMN: usize = 4 * BLOCK;
/// Columns of a stretch take at most this many bytes, to stay in the first-level cache.
const STRETCH_BYTES: usize = 24 * 1024;

/// The place in a block's packed order, of which every 16 make a register, that channel `channel` takes.
pub(super) fn place(channel: usize) -> usize {
    let (lane, within) = (channel / 16, channel % 16);
    within / 4 * 16 + lane * 4 + within % 4
}

/// Output columns computed between two fillings of the scratch, and the scratch's bytes.
fn stretch(out_w: usize, taps: usize, step: usize, reach: usize, groups: usize) -> (usize, usize) {
    let columns = (STRETCH_BYTES / (COLUMN * groups)).max(reach + 1);
    let outputs = ((columns - reach) / step).clamp(1, out_w);
    let _ = taps;
    (outputs, ((outputs - 1) * step + reach) * groups * COLUMN)
}

/// Bytes of scratch of one thread.
pub(super) fn scratch_bytes(row: &super::Window) -> usize {
    stretch(row.out_w, row.kernel[1], row.step, row.reach(), row.groups()).1 + 64
}

/// Computes blocks `blocks` of one row of output.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI. `row.y` may be written at the blocks' channels of each of its
/// pixels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn row(
    row: &Row<'_>,
    weights: &Weights,
    epilogue: &Epilogue,
    blocks: std::ops::Range<usize>,
    scratch: &mut [u8],
) {
    let window = row.window;
    let groups = window.groups();
    let (outputs, bytes) = stretch(window.out_w, window.kernel[1], window.step, window.reach(), groups);
    assert!(scratch.len() >= bytes + 64);
    // Aligned, so that no column straddles two cache lines.
    let skip = scratch.as_ptr().align_offset(64).min(63);
    let columns = &mut scratch[skip..skip + bytes];
    for block in blocks {
        let channel = block * BLOCK;
        let count = (window.channels - channel).min(BLOCK);
        if let (true, Epilogue::Requantize(to), Pixels::U8(y)) = (slide::fits(window), epilogue, row.y) {
            let weights = &weights.block(block, window.kernel[1] * groups);
            // SAFETY: weights, bias and scale are those of the block; the output is the caller's promise.
            unsafe { slide::row(row, to, channel, count, weights.0, weights.1, weights.2, y.add(channel)) };
            continue;
        }
        for first in (0..window.out_w).step_by(outputs) {
            let outputs = outputs.min(window.out_w - first);
            interleave(row, channel, count, first, outputs, columns);
            // SAFETY: `interleave` filled the columns these outputs read; the pixels are inside the row.
            unsafe { stretch_of_outputs(row, weights, epilogue, block, count, first, outputs, columns) };
        }
    }
}

/// Fills `columns` with what output columns `first..first + outputs` read of channels `channel..channel + count`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn interleave(row: &Row<'_>, channel: usize, count: usize, first: usize, outputs: usize, columns: &mut [u8]) {
    let window = row.window;
    let groups = window.groups();
    let zero = _mm512_set1_epi8(row.x_zero as i8);
    let mask = if count == BLOCK { u64::MAX } else { (1 << count) - 1 };
    let total = (outputs - 1) * window.step + window.reach();
    let start = first * window.step;
    // Columns left of, inside and right of the image.
    let left = window.pad_left.saturating_sub(start).min(total);
    let inside = (window.in_w + window.pad_left).saturating_sub(start).clamp(left, total);
    for group in 0..groups {
        // Rows in the padding, and those that only fill up the last group, read zeros over and over. A column is a
        // step of `pitch` bytes in a row of the image and of none in such a row.
        let zeros = [row.x_zero; BLOCK];
        let mut lines = [zeros.as_ptr(); 4];
        let mut pitch = [0; 4];
        if inside > left {
            let from = (start + left - window.pad_left) * window.channels + channel;
            let to = (start + inside - 1 - window.pad_left) * window.channels + channel + count;
            for i in 0..4 {
                if let Some(line) = row.line(4 * group + i) {
                    lines[i] = line[from..to].as_ptr();
                    pitch[i] = window.channels;
                }
            }
        }
        let columns = &mut columns[..total * groups * COLUMN];
        for (column, to) in columns.chunks_exact_mut(COLUMN).skip(group).step_by(groups).enumerate() {
            let mut rows = [zero; 4];
            if (left..inside).contains(&column) {
                for i in 0..4 {
                    // SAFETY: the slice taken above ends after the last column's `count` bytes, and the mask reads
                    // no more; zeros have a whole block.
                    rows[i] = unsafe { _mm512_maskz_loadu_epi8(mask, lines[i].add((column - left) * pitch[i]).cast()) };
                }
            }
            let (a, b) = (_mm512_unpacklo_epi8(rows[0], rows[1]), _mm512_unpacklo_epi8(rows[2], rows[3]));
            let (c, d) = (_mm512_unpackhi_epi8(rows[0], rows[1]), _mm512_unpackhi_epi8(rows[2], rows[3]));
            let to = to.as_mut_ptr();
            // SAFETY: four registers fill the column.
            unsafe {
                _mm512_storeu_si512(to.cast(), _mm512_unpacklo_epi16(a, b));
                _mm512_storeu_si512(to.add(64).cast(), _mm512_unpackhi_epi16(a, b));
                _mm512_storeu_si512(to.add(128).cast(), _mm512_unpacklo_epi16(c, d));
                _mm512_storeu_si512(to.add(192).cast(), _mm512_unpackhi_epi16(c, d));
            }
        }
    }
}

/// # Safety
/// `columns` holds what the outputs read; `row.y` may be written at the block's channels of the outputs' pixels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn stretch_of_outputs(
    row: &Row<'_>,
    weights: &Weights,
    epilogue: &Epilogue,
    block: usize,
    count: usize,
    first: usize,
    outputs: usize,
    columns: &[u8],
) {
    let window = row.window;
    let groups = window.groups();
    let taps = window.kernel[1] * groups;
    assert!(((outputs - 1) * window.step + window.reach()) * groups * COLUMN <= columns.len());
    let (packed, bias, scale) = weights.block(block, taps);
    let call = Stretch {
        columns: columns.as_ptr(),
        step: window.step * groups * COLUMN,
        dilation: window.dilation * groups * COLUMN,
        groups,
        taps,
        weights: packed,
        bias,
        scale,
        outputs,
        mask: if count == BLOCK { u64::MAX } else { (1 << count) - 1 },
        channels: window.channels,
    };
    let offset = first * window.channels + block * BLOCK;
    // SAFETY: lengths were checked above, the output is the caller's promise.
    unsafe {
        match (epilogue, row.y) {
            (Epilogue::Requantize(to), Pixels::U8(y)) => {
                call.bytes(y.add(offset), to);
            }
            (Epilogue::Dequantize { .. }, Pixels::F32(y)) => call.floats(y.add(offset), count),
            _ => unreachable!("the output was checked against the epilogue"),
        }
    }
}

/// One block's outputs in a stretch of a row.
struct Stretch {
    columns: *const u8,
    /// Bytes between the columns of neighbouring outputs and of neighbouring taps.
    step: usize,
    dilation: usize,
    groups: usize,
    taps: usize,
    weights: *const i8,
    bias: *const i32,
    scale: *const f32,
    outputs: usize,
    mask: u64,
    channels: usize,
}

impl Stretch {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn bytes(&self, y: *mut u8, to: &Requantize) {
        let clamp = Clamp::new(to);
        let mut output = 0;
        // SAFETY: see `stretch_of_outputs`.
        unsafe {
            while output + 4 <= self.outputs {
                self.some_bytes::<4>(output, y, &clamp);
                output += 4;
            }
            while output < self.outputs {
                self.some_bytes::<1>(output, y, &clamp);
                output += 1;
            }
        }
    }

    /// `N` outputs at once, so that each weight is loaded for all of them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn some_bytes<const N: usize>(&self, output: usize, y: *mut u8, clamp: &Clamp) {
        // SAFETY: see `stretch_of_outputs`.
        unsafe {
            let x = self.columns.add(output * self.step);
            let mut sums = [self.bias(); N];
            for i in 0..4 {
                let mut w = self.weights.add(64 * i);
                let scale = _mm512_loadu_ps(self.scale.add(16 * i));
                for tap in 0..self.taps / self.groups {
                    for group in 0..self.groups {
                        let x = x.add(tap * self.dilation + group * COLUMN + 64 * i);
                        let weight = _mm512_loadu_si512(w.cast());
                        for n in 0..N {
                            let x = _mm512_loadu_si512(x.add(n * self.step).cast());
                            sums[n][i] = _mm512_dpbusd_epi32(sums[n][i], x, weight);
                        }
                        w = w.add(COLUMN);
                    }
                }
                for n in 0..N {
                    sums[n][i] = clamp.round(sums[n][i], scale);
                }
            }
            for n in 0..N {
                let y = y.add((output + n) * self.channels);
                let bytes = clamp.narrow_lanes(sums[n]);
                if self.mask == u64::MAX {
                    _mm512_storeu_si512(y.cast(), bytes);
                } else {
                    _mm512_mask_storeu_epi8(y.cast(), self.mask, bytes);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn floats(&self, y: *mut f32, count: usize) {
        // SAFETY: see `stretch_of_outputs`.
        unsafe {
            let mut whole = [0f32; BLOCK];
            for output in 0..self.outputs {
                let mut sums = self.bias();
                self.accumulate(&mut sums, self.columns.add(output * self.step));
                for i in 0..4 {
                    let real = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i]), _mm512_loadu_ps(self.scale.add(16 * i)));
                    _mm512_storeu_ps(whole.as_mut_ptr().add(16 * i), real);
                }
                for channel in 0..count {
                    *y.add(output * self.channels + channel) = whole[place(channel)];
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn bias(&self) -> [__m512i; 4] {
        let mut sums = [_mm512_setzero_si512(); 4];
        for i in 0..4 {
            // SAFETY: a block has 64 biases.
            sums[i] = unsafe { _mm512_loadu_si512(self.bias.add(16 * i).cast()) };
        }
        sums
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn accumulate(&self, sums: &mut [__m512i; 4], x: *const u8) {
        // SAFETY: see `stretch_of_outputs`.
        unsafe {
            for tap in 0..self.taps / self.groups {
                for group in 0..self.groups {
                    let x = x.add(tap * self.dilation + group * COLUMN);
                    let w = self.weights.add((tap * self.groups + group) * COLUMN);
                    for i in 0..4 {
                        let x = _mm512_loadu_si512(x.add(64 * i).cast());
                        let w = _mm512_loadu_si512(w.add(64 * i).cast());
                        sums[i] = _mm512_dpbusd_epi32(sums[i], x, w);
                    }
                }
            }
        }
    }
}

//! Depthwise convolution with AVX2, with and without AVX-VNNI.
//!
//! Instructions add up products of neighbouring bytes, so those have to be taps of the same channel: for a stretch of a row of
//! output, the input rows under the kernel are interleaved four at a time, once for each column, and each column then
//! serves every output whose kernel covers it. Interleaving scatters the 32 channels of a block over four registers, four of
//! every sixteen in each; narrowing the sums to bytes puts them back in order.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Pixels, Row, Weights, Window};
use crate::quantized::epilogue::avx2::Clamp;
use crate::quantized::epilogue::{Epilogue, Requantize};

/// Channels of a block.
pub(super) const BLOCK: usize = 32;
/// Bytes of one interleaved column of four rows.
const COLUMN: usize = 4 * BLOCK;
/// Columns of a stretch take about this many bytes, to stay in the first-level cache.
const STRETCH_BYTES: usize = 12 * 1024;

/// The place in a block's packed order, of which every 8 make a register, that channel `channel` takes.
pub(super) fn place(channel: usize) -> usize {
    let (lane, within) = (channel / 16, channel % 16);
    within / 4 * 8 + lane * 4 + within % 4
}

/// Appends the weights of a block, `weight(place, row, column)`, 0 beyond the kernel: for every kernel column and four rows,
/// with VNNI `[place][row]`; else, for every register of places, 16-bit numbers of rows 0 and 2, then of rows 1 and 3.
pub(super) fn pack(vnni: bool, packed: &mut Vec<i8>, kernel: [usize; 2], weight: impl Fn(usize, usize, usize) -> i8) {
    for column in 0..kernel[1] {
        for four in (0..kernel[0]).step_by(4) {
            if vnni {
                for place in 0..BLOCK {
                    packed.extend((four..four + 4).map(|row| weight(place, row, column)));
                }
                continue;
            }
            for register in (0..BLOCK).step_by(8) {
                for rows in [[four, four + 2], [four + 1, four + 3]] {
                    for place in register..register + 8 {
                        for row in rows {
                            let [low, high] = i16::from(weight(place, row, column)).to_le_bytes();
                            packed.extend([low as i8, high as i8]);
                        }
                    }
                }
            }
        }
    }
}

/// How many outputs are computed between two fillings of the scratch, and the bytes of what they read.
fn stretch(window: &Window) -> (usize, usize) {
    let groups = window.kernel[0].div_ceil(4);
    let columns = (STRETCH_BYTES / (COLUMN * groups)).max(window.reach() + 1);
    let outputs = ((columns - window.reach()) / window.step).clamp(1, window.out_w);
    (outputs, ((outputs - 1) * window.step + window.reach()) * groups * COLUMN)
}

/// Bytes of scratch of one thread.
pub(super) fn scratch_bytes(window: &Window) -> usize {
    stretch(window).1 + 64
}

/// Computes blocks `blocks` of one row of output.
///
/// # Safety
/// The machine has AVX2, and the weights were packed without VNNI. `row.y` may be written at the blocks' channels of each of
/// its pixels.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn row(
    row: &Row<'_>,
    weights: &Weights,
    epilogue: &Epilogue,
    blocks: Range<usize>,
    scratch: &mut [u8],
) {
    // SAFETY: by the caller's promise.
    unsafe { any_row::<false>(row, weights, epilogue, blocks, scratch) }
}

/// Computes blocks `blocks` of one row of output.
///
/// # Safety
/// As [`row`], but the machine has AVX-VNNI and the weights were packed with it.
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn row_vnni(
    row: &Row<'_>,
    weights: &Weights,
    epilogue: &Epilogue,
    blocks: Range<usize>,
    scratch: &mut [u8],
) {
    // SAFETY: by the caller's promise.
    unsafe { any_row::<true>(row, weights, epilogue, blocks, scratch) }
}

/// # Safety
/// As [`row`] and [`row_vnni`], into which it is inlined.
#[inline(always)]
unsafe fn any_row<const VNNI: bool>(
    row: &Row<'_>,
    weights: &Weights,
    epilogue: &Epilogue,
    blocks: Range<usize>,
    scratch: &mut [u8],
) {
    let window = row.window;
    let groups = window.kernel[0].div_ceil(4);
    let taps = window.kernel[1] * groups;
    let (outputs, bytes) = stretch(window);
    // Aligned, so that no column straddles two cache lines.
    let skip = scratch.as_ptr().align_offset(64).min(63);
    let columns = &mut scratch[skip..skip + bytes];
    let block_bytes = taps * weight_bytes(VNNI);
    assert!(blocks.end * block_bytes <= weights.packed.len());
    assert!(blocks.end * BLOCK <= weights.bias.len().min(weights.scale.len()));
    for block in blocks {
        let channel = block * BLOCK;
        let count = (window.channels - channel).min(BLOCK);
        for first in (0..window.out_w).step_by(outputs) {
            let outputs = outputs.min(window.out_w - first);
            // SAFETY: the machine has AVX2. `interleave` fills the columns these outputs read; weights, bias and scale have
            // the block by the checks above; the pixels are inside the row.
            unsafe {
                interleave(row, channel, count, first, outputs, columns);
                let call = Stretch {
                    columns: columns.as_ptr(),
                    step: window.step * groups * COLUMN,
                    dilation: window.dilation * groups * COLUMN,
                    groups,
                    taps: window.kernel[1],
                    weights: weights.packed.as_ptr().add(block * block_bytes),
                    bias: weights.bias.as_ptr().add(channel),
                    scale: weights.scale.as_ptr().add(channel),
                    outputs,
                    count,
                    channels: window.channels,
                };
                let offset = first * window.channels + channel;
                match (epilogue, row.y) {
                    (Epilogue::Requantize(to), Pixels::U8(y)) => call.bytes::<VNNI>(y.add(offset), to),
                    (Epilogue::Dequantize { .. }, Pixels::F32(y)) => call.floats::<VNNI>(y.add(offset)),
                    _ => unreachable!("the output was checked against the epilogue"),
                }
            }
        }
    }
}

/// Bytes of weights of a kernel column and four rows.
const fn weight_bytes(vnni: bool) -> usize {
    if vnni { COLUMN } else { 2 * COLUMN }
}

/// Fills `columns` with what output columns `first..first + outputs` read of channels `channel..channel + count`.
#[target_feature(enable = "avx2")]
fn interleave(row: &Row<'_>, channel: usize, count: usize, first: usize, outputs: usize, columns: &mut [u8]) {
    let window = row.window;
    let groups = window.kernel[0].div_ceil(4);
    let zero = _mm256_set1_epi8(row.x_zero as i8);
    let total = (outputs - 1) * window.step + window.reach();
    let start = first * window.step;
    // Columns left of, inside and right of the image.
    let left = window.pad_left.saturating_sub(start).min(total);
    let inside = (window.in_w + window.pad_left).saturating_sub(start).clamp(left, total);
    let columns = &mut columns[..total * groups * COLUMN];
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
        for (column, to) in columns.chunks_exact_mut(COLUMN).skip(group).step_by(groups).enumerate() {
            let mut rows = [zero; 4];
            if (left..inside).contains(&column) {
                for i in 0..4 {
                    let from = lines[i].wrapping_add((column - left) * pitch[i]);
                    // SAFETY: the slice taken above ends after the last column's `count` bytes; zeros have a whole block.
                    rows[i] = unsafe { load(from, count) };
                }
            }
            let (a, b) = (_mm256_unpacklo_epi8(rows[0], rows[1]), _mm256_unpacklo_epi8(rows[2], rows[3]));
            let (c, d) = (_mm256_unpackhi_epi8(rows[0], rows[1]), _mm256_unpackhi_epi8(rows[2], rows[3]));
            let to = to.as_mut_ptr();
            // SAFETY: four registers fill the column.
            unsafe {
                _mm256_storeu_si256(to.cast(), _mm256_unpacklo_epi16(a, b));
                _mm256_storeu_si256(to.add(32).cast(), _mm256_unpackhi_epi16(a, b));
                _mm256_storeu_si256(to.add(64).cast(), _mm256_unpacklo_epi16(c, d));
                _mm256_storeu_si256(to.add(96).cast(), _mm256_unpackhi_epi16(c, d));
            }
        }
    }
}

/// The first `count` bytes of a block; the others are arbitrary.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const u8, count: usize) -> __m256i {
    // SAFETY: by the caller's promise; the array has a whole block.
    unsafe {
        match count {
            BLOCK => _mm256_loadu_si256(from.cast()),
            // The usual numbers of channels leave half a block.
            16 => _mm256_castsi128_si256(_mm_loadu_si128(from.cast())),
            _ => {
                let mut whole = [0u8; BLOCK];
                std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), count);
                _mm256_loadu_si256(whole.as_ptr().cast())
            }
        }
    }
}

/// Writes the first `count` bytes of a block.
///
/// # Safety
/// They can be written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(to: *mut u8, count: usize, bytes: __m256i) {
    // SAFETY: by the caller's promise; the array has a whole block.
    unsafe {
        match count {
            BLOCK => _mm256_storeu_si256(to.cast(), bytes),
            16 => _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(bytes)),
            _ => {
                let mut whole = [0u8; BLOCK];
                _mm256_storeu_si256(whole.as_mut_ptr().cast(), bytes);
                std::ptr::copy_nonoverlapping(whole.as_ptr(), to, count);
            }
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
    count: usize,
    channels: usize,
}

impl Stretch {
    /// # Safety
    /// The pointers lead to what `any_row` says; inlined into it.
    #[inline(always)]
    unsafe fn bytes<const VNNI: bool>(&self, y: *mut u8, to: &Requantize) {
        // SAFETY: by the caller's promise.
        unsafe {
            let clamp = Clamp::new(to);
            let mut output = 0;
            while output + 2 <= self.outputs {
                self.some_bytes::<VNNI, 2>(output, y, &clamp);
                output += 2;
            }
            if output < self.outputs {
                self.some_bytes::<VNNI, 1>(output, y, &clamp);
            }
        }
    }

    /// `N` outputs at once, so that each weight is loaded for all of them.
    ///
    /// # Safety
    /// As [`Stretch::bytes`].
    #[inline(always)]
    unsafe fn some_bytes<const VNNI: bool, const N: usize>(&self, output: usize, y: *mut u8, clamp: &Clamp) {
        // SAFETY: by the caller's promise.
        unsafe {
            let mut sums = self.sums::<VNNI, N>(output);
            for i in 0..4 {
                let scale = _mm256_loadu_ps(self.scale.add(8 * i));
                for sums in &mut sums {
                    sums[i] = clamp.round(sums[i], scale);
                }
            }
            for n in 0..N {
                let y = y.add((output + n) * self.channels);
                let bytes = clamp.narrow_lanes(sums[n]);
                store(y, self.count, bytes);
            }
        }
    }

    /// # Safety
    /// As [`Stretch::bytes`].
    #[inline(always)]
    unsafe fn floats<const VNNI: bool>(&self, y: *mut f32) {
        let mut whole = [0f32; BLOCK];
        // SAFETY: by the caller's promise; the array holds four registers.
        unsafe {
            for output in 0..self.outputs {
                let [sums] = self.sums::<VNNI, 1>(output);
                for i in 0..4 {
                    let real = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[i]), _mm256_loadu_ps(self.scale.add(8 * i)));
                    _mm256_storeu_ps(whole.as_mut_ptr().add(8 * i), real);
                }
                for channel in 0..self.count {
                    *y.add(output * self.channels + channel) = whole[place(channel)];
                }
            }
        }
    }

    /// The sums of outputs `output..output + N`.
    ///
    /// # Safety
    /// As [`Stretch::bytes`].
    #[inline(always)]
    unsafe fn sums<const VNNI: bool, const N: usize>(&self, output: usize) -> [[__m256i; 4]; N] {
        // SAFETY: by the caller's promise.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 4]; N];
            for i in 0..4 {
                let bias = _mm256_loadu_si256(self.bias.add(8 * i).cast());
                for sums in &mut sums {
                    sums[i] = bias;
                }
            }
            let even_bytes = _mm256_set1_epi16(0xff);
            let (mut x, mut w) = (self.columns.add(output * self.step), self.weights);
            for _ in 0..self.taps {
                for group in 0..self.groups {
                    let x = x.add(group * COLUMN);
                    for i in 0..4 {
                        let load = |n: usize| _mm256_loadu_si256(x.add(n * self.step + 32 * i).cast());
                        if VNNI {
                            let weight = _mm256_loadu_si256(w.add(32 * i).cast());
                            for n in 0..N {
                                sums[n][i] = _mm256_dpbusd_avx_epi32(sums[n][i], load(n), weight);
                            }
                        } else {
                            let even = _mm256_loadu_si256(w.add(64 * i).cast());
                            let odd = _mm256_loadu_si256(w.add(64 * i + 32).cast());
                            for n in 0..N {
                                let x = load(n);
                                let a = _mm256_madd_epi16(_mm256_and_si256(x, even_bytes), even);
                                let b = _mm256_madd_epi16(_mm256_srli_epi16::<8>(x), odd);
                                sums[n][i] = _mm256_add_epi32(sums[n][i], _mm256_add_epi32(a, b));
                            }
                        }
                    }
                    w = w.add(weight_bytes(VNNI));
                }
                x = x.add(self.dilation);
            }
            sums
        }
    }
}

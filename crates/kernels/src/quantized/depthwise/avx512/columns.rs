//! Windows of any size: the interleaved columns of a stretch of the row are stored where they stay in the first-level cache, and
//! the sums of a few outputs at a time are taken from there.

use std::arch::x86_64::*;

use super::{Band, COLUMN, Packed, Span, place};
use crate::cpu::has_vbmi;
use crate::quantized::depthwise::Window;
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx512::{Clamp, saturate};
use crate::quantized::lookup::avx512::Table;

/// Columns of a stretch take at most this many bytes, to stay in the first-level cache.
const STRETCH_BYTES: usize = 24 * 1024;

/// Outputs computed at a time: their sums take half the registers.
const OUTPUTS: usize = 4;

/// Output columns computed between two fillings of the scratch, and the scratch's bytes.
fn stretch(window: &Window, groups: usize) -> (usize, usize) {
    let (reach, step) = (window.reach(), window.step);
    let columns = (STRETCH_BYTES / (COLUMN * groups)).max(reach + 1);
    let outputs = ((columns - reach) / step).clamp(1, window.out_w);
    (outputs, ((outputs - 1) * step + reach) * groups * COLUMN)
}

/// Bytes of scratch of one thread.
pub(super) fn scratch_bytes(window: &Window, groups: usize) -> usize {
    stretch(window, groups).1 + 64
}

/// Computes the channels of `span` of a band.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI. `y` may be written at those channels of every pixel of the band.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run_u8(
    band: &Band<'_>,
    span: Span,
    packed: Packed<'_>,
    to: &Requantize,
    saturates: bool,
    y: *mut u8,
    scratch: &mut [u8],
) {
    let mut finish = Bytes {
        // SAFETY: the caller's machine has the instructions.
        clamp: unsafe { Clamp::new(to) },
        table: to.table.as_deref().filter(|_| has_vbmi()),
        mask: if span.count == 64 { u64::MAX } else { (1 << span.count) - 1 },
        right: None,
        pixel: band.window.channels,
        y,
    };
    let half = band.window.out_w.div_ceil(2);
    stretches(band, span, scratch, |call, row, first, outputs| {
        for done in (0..outputs).step_by(OUTPUTS) {
            let (call, at) = (call.at(row, done, packed), first + done);
            finish.y = y.wrapping_add(row * band.pitch + at * finish.pixel);
            finish.right = span.paired.then_some((half, band.window.out_w.saturating_sub(at + half)));
            macro_rules! with {
                ($($n:literal)*) => {
                    // SAFETY: the outputs lie in the band.
                    unsafe {
                        match ((outputs - done).min(OUTPUTS), saturates, call.shape) {
                            $(($n, true, Shape::Three) => call.bytes::<$n, 3, 1, true>(&finish),
                            ($n, false, Shape::Three) => call.bytes::<$n, 3, 1, false>(&finish),
                            ($n, true, Shape::Five) => call.bytes::<$n, 5, 1, true>(&finish),
                            ($n, false, Shape::Five) => call.bytes::<$n, 5, 1, false>(&finish),
                            ($n, true, Shape::FiveByTwo) => call.bytes::<$n, 5, 2, true>(&finish),
                            ($n, false, Shape::FiveByTwo) => call.bytes::<$n, 5, 2, false>(&finish),
                            ($n, _, Shape::Any) => call.bytes::<$n, 0, 0, false>(&finish),)*
                            _ => unreachable!("at most {OUTPUTS} outputs at a time"),
                        }
                    }
                };
            }
            with!(1 2 3 4);
        }
    });
}

/// [`run_u8`] for real results.
///
/// # Safety
/// As [`run_u8`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run_f32(band: &Band<'_>, span: Span, packed: Packed<'_>, y: *mut f32, scratch: &mut [u8]) {
    stretches(band, span, scratch, |call, row, first, outputs| {
        for output in 0..outputs {
            let y = y.wrapping_add(row * band.pitch + (first + output) * band.window.channels);
            // SAFETY: the outputs lie in the band.
            unsafe { call.at(row, output, packed).floats(y, span.count) };
        }
    });
}

/// Fills the scratch for one stretch of the band after another and calls `compute` with every row of it: the row, the first
/// output and how many there are.
#[inline(always)]
fn stretches(band: &Band<'_>, span: Span, scratch: &mut [u8], mut compute: impl FnMut(&Columns, usize, usize, usize)) {
    let (window, groups) = (band.window, band.groups);
    let (most, bytes) = stretch(window, groups);
    assert!(scratch.len() >= bytes + 64);
    // Aligned, so that no column straddles two cache lines.
    let skip = scratch.as_ptr().align_offset(64).min(63);
    let columns = &mut scratch[skip..skip + bytes];
    let all = if span.paired { window.out_w.div_ceil(2) } else { window.out_w };
    let shape = match (window.kernel[1], window.step, window.dilation) {
        (3, 1, 1) => Shape::Three,
        (5, 1, 1) => Shape::Five,
        (5, 2, 1) => Shape::FiveByTwo,
        _ => Shape::Any,
    };
    for first in (0..all).step_by(most) {
        let outputs = most.min(all - first);
        let total = (outputs - 1) * window.step + window.reach();
        let columns = &mut columns[..total * groups * COLUMN];
        // SAFETY: the caller's machine has the instructions.
        unsafe { interleave(band, span, first * window.step, columns) };
        let call = Columns {
            columns: columns.as_ptr(),
            step: window.step * groups * COLUMN,
            dilation: window.dilation * groups * COLUMN,
            groups,
            taps: window.kernel[1],
            shape,
        };
        for row in 0..band.rows {
            compute(&call, row, first, outputs);
        }
    }
}

/// Fills `columns` with the columns of the padded image from `start` on.
///
/// # Safety
/// The machine has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn interleave(band: &Band<'_>, span: Span, start: usize, columns: &mut [u8]) {
    let (window, groups) = (band.window, band.groups);
    let zero = _mm512_set1_epi8(band.x_zero as i8);
    let mask = if span.count == 64 { u64::MAX } else { (1 << span.count) - 1 };
    let half = window.out_w.div_ceil(2) * window.step;
    for (column, to) in columns.chunks_exact_mut(groups * COLUMN).enumerate() {
        let at = (start + column).wrapping_sub(window.pad_left);
        let right = at.wrapping_add(half);
        let (at_in, right_in) = (at < window.in_w, span.paired && right < window.in_w);
        for (lines, to) in band.lines.as_chunks::<4>().0.iter().zip(to.as_chunks_mut::<COLUMN>().0) {
            let mut rows = [zero; 4];
            for (row, line) in rows.iter_mut().zip(lines) {
                let Some(line) = line else { continue };
                let load = |at: usize| {
                    let from = line[at * window.channels + span.channel..][..span.count].as_ptr();
                    // SAFETY: the mask keeps the load to the slice.
                    unsafe { _mm512_maskz_loadu_epi8(mask, from.cast()) }
                };
                let low = if at_in { load(at) } else { zero };
                *row = low;
                if span.paired {
                    let high = if right_in { load(right) } else { zero };
                    *row = _mm512_inserti64x4::<1>(low, _mm512_castsi512_si256(high));
                }
            }
            // SAFETY: the machine has the instructions; four registers fill the column.
            unsafe {
                for (i, quarter) in four_rows(rows).into_iter().enumerate() {
                    _mm512_storeu_si512(to.as_mut_ptr().add(64 * i).cast(), quarter);
                }
            }
        }
    }
}

/// Four rows of 64 bytes as 64 dwords of a byte of each, the 16 bytes of a lane spread over the four registers.
///
/// # Safety
/// The machine has AVX-512 F and BW.
#[inline(always)]
unsafe fn four_rows(rows: [__m512i; 4]) -> [__m512i; 4] {
    let [r0, r1, r2, r3] = rows;
    // SAFETY: by the caller's promise.
    unsafe {
        let (a, b) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpacklo_epi8(r2, r3));
        let (c, d) = (_mm512_unpackhi_epi8(r0, r1), _mm512_unpackhi_epi8(r2, r3));
        [
            _mm512_unpacklo_epi16(a, b),
            _mm512_unpackhi_epi16(a, b),
            _mm512_unpacklo_epi16(c, d),
            _mm512_unpackhi_epi16(c, d),
        ]
    }
}

/// Windows whose columns are loaded once for all outputs computed at a time.
#[derive(Clone, Copy)]
enum Shape {
    Three,
    Five,
    FiveByTwo,
    Any,
}

/// Interleaved columns of a stretch.
struct Columns {
    columns: *const u8,
    /// Bytes between the columns of neighbouring outputs and of neighbouring taps.
    step: usize,
    dilation: usize,
    groups: usize,
    taps: usize,
    shape: Shape,
}

/// The outputs of a row from some one on.
struct Outputs<'a> {
    columns: &'a Columns,
    shape: Shape,
    x: *const u8,
    weights: *const i8,
    bias: *const i32,
    scale: *const f32,
}

/// Where and how bytes are stored.
struct Bytes<'a> {
    clamp: Clamp,
    table: Option<&'a [u8; 256]>,
    mask: u64,
    /// For paired channels, pixels to the other half and how many of its outputs there are.
    right: Option<(usize, usize)>,
    pixel: usize,
    y: *mut u8,
}

impl Columns {
    /// The outputs of row `row` of the band from the stretch's output `output` on.
    #[inline(always)]
    fn at<'a>(&'a self, row: usize, output: usize, packed: Packed<'_>) -> Outputs<'a> {
        Outputs {
            columns: self,
            shape: self.shape,
            x: self.columns.wrapping_add(output * self.step),
            weights: packed.weights[row * packed.row..(row + 1) * packed.row].as_ptr(),
            bias: packed.bias.as_ptr(),
            scale: packed.scale.as_ptr(),
        }
    }
}

impl Outputs<'_> {
    /// `N` outputs of a window `TAPS` columns wide and `STEP` apart, or of any if those are 0.
    ///
    /// # Safety
    /// The scratch holds what the outputs read, and they may be written.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn bytes<const N: usize, const TAPS: usize, const STEP: usize, const SATURATES: bool>(
        &self,
        to: &Bytes<'_>,
    ) {
        // SAFETY: by the caller's promise; the mask keeps stores to the block's channels.
        unsafe {
            let mut values = [[_mm512_setzero_si512(); 4]; N];
            for i in 0..4 {
                let sums = self.sums::<N, TAPS, STEP>(i);
                let scale = _mm512_loadu_ps(self.scale.add(16 * i));
                for n in 0..N {
                    values[n][i] =
                        if SATURATES { saturate::round(sums[n], scale) } else { to.clamp.round(sums[n], scale) };
                }
            }
            for n in 0..N {
                let mut bytes =
                    if SATURATES { saturate::narrow_lanes(values[n]) } else { to.clamp.narrow_lanes(values[n]) };
                if let Some(table) = to.table {
                    bytes = Table::load(table).find(bytes);
                }
                let y = to.y.add(n * to.pixel);
                match to.right {
                    None if to.mask == u64::MAX => _mm512_storeu_si512(y.cast(), bytes),
                    None => _mm512_mask_storeu_epi8(y.cast(), to.mask, bytes),
                    Some((half, there)) => {
                        let mask = to.mask as u32;
                        _mm256_mask_storeu_epi8(y.cast(), mask, _mm512_castsi512_si256(bytes));
                        if n < there {
                            let y = y.add(half * to.pixel);
                            _mm256_mask_storeu_epi8(y.cast(), mask, _mm512_extracti64x4_epi64::<1>(bytes));
                        }
                    }
                }
            }
        }
    }

    /// Register `i` of the sums of `N` outputs.
    #[inline(always)]
    unsafe fn sums<const N: usize, const TAPS: usize, const STEP: usize>(&self, i: usize) -> [__m512i; N] {
        let Columns { step, dilation, groups, taps, .. } = *self.columns;
        let load = |x: *const u8| {
            // SAFETY: the scratch holds what the outputs read.
            unsafe { _mm512_loadu_si512(x.add(64 * i).cast()) }
        };
        // SAFETY: a block has 64 biases and weights of every tap and group.
        unsafe {
            let mut sums = [_mm512_loadu_si512(self.bias.add(16 * i).cast()); N];
            for group in 0..groups {
                let x = self.x.add(group * COLUMN);
                let w = self.weights.add(group * COLUMN + 64 * i);
                if TAPS == 0 {
                    for tap in 0..taps {
                        let w = _mm512_loadu_si512(w.add(tap * groups * COLUMN).cast());
                        for n in 0..N {
                            sums[n] = _mm512_dpbusd_epi32(sums[n], load(x.add(n * step + tap * dilation)), w);
                        }
                    }
                    continue;
                }
                // Every column once, for all outputs whose window covers it.
                const { assert!(TAPS == 0 || (OUTPUTS - 1) * STEP + TAPS <= MOST) };
                let mut columns = [_mm512_setzero_si512(); MOST];
                for (c, column) in columns.iter_mut().enumerate().take((N - 1) * STEP + TAPS) {
                    *column = load(x.add(c * dilation));
                }
                for tap in 0..TAPS {
                    let w = _mm512_loadu_si512(w.add(tap * groups * COLUMN).cast());
                    for n in 0..N {
                        sums[n] = _mm512_dpbusd_epi32(sums[n], columns[n * STEP + tap], w);
                    }
                }
            }
            sums
        }
    }

    /// # Safety
    /// The scratch holds what the output reads, and its `count` channels may be written.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn floats(&self, y: *mut f32, count: usize) {
        // SAFETY: by the caller's promise.
        unsafe {
            let mut whole = [0f32; 64];
            for i in 0..4 {
                let [sums] = self.sums::<1, 0, 0>(i);
                let real = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(self.scale.add(16 * i)));
                _mm512_storeu_ps(whole.as_mut_ptr().add(16 * i), real);
            }
            for channel in 0..count {
                *y.add(channel) = whole[place(channel)];
            }
        }
    }
}

/// Columns that the outputs computed at a time read at most, of windows that have a shape.
const MOST: usize = 11;

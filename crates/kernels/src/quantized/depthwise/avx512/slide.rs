//! Windows three columns wide and at most four rows high, the usual ones.
//!
//! Here an interleaved column is never stored: it is added to the sums of the outputs whose window covers it, which stay
//! in registers.

use std::arch::x86_64::*;

use super::{Band, COLUMN, Packed, Span};
use crate::cpu::has_vbmi;
use crate::quantized::depthwise::Window;
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx512::{Clamp, saturate};
use crate::quantized::lookup::avx512::Table;

/// The most rows of a band.
pub(super) const ROWS: usize = 2;

/// The sums of 64 channels of one output.
type Sums = [__m512i; 4];

/// Whether [`run`] can compute windows like this one.
pub(super) fn fits(window: &Window) -> bool {
    window.kernel[1] == 3 && window.kernel[0] <= 4 && window.dilation == 1 && window.step <= 2
}

/// What lies in a register of 64 values: all channels of a block.
const FULL: usize = 64;
/// Fewer, kept apart by a mask.
const MASKED: usize = 63;
/// 32 channels of two pixels; 16 channels of two pixels.
const PAIR: usize = 32;
const SMALL_PAIR: usize = 16;
/// Fewer than 32 channels of two pixels.
const MASKED_PAIR: usize = 31;

/// Computes the channels of `span` of a band.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI. `y` may be written at those channels of every pixel of the band.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run(
    band: &Band<'_>,
    span: Span,
    packed: Packed<'_>,
    to: &Requantize,
    saturates: bool,
    y: *mut u8,
) {
    let window = band.window;
    assert!(band.groups == 1 && (1..=ROWS).contains(&band.rows) && band.lines.len() == 4);
    assert!(packed.row == 3 * COLUMN && packed.weights.len() >= band.rows * packed.row);
    let zeros = [band.x_zero; 64];
    // Rows in the padding read the same zeros over and over.
    let (mut lines, mut pitch) = ([zeros.as_ptr(); 4], [0; 4]);
    for i in 0..4 {
        if let Some(line) = band.lines[i] {
            lines[i] = line[span.channel..(window.in_w - 1) * window.channels + span.channel + span.count].as_ptr();
            pitch[i] = window.channels;
        }
    }
    let half = window.out_w.div_ceil(2);
    let slide = Slide {
        lines,
        pitch,
        zero: _mm512_set1_epi8(band.x_zero as i8),
        mask: if span.count == 64 { u64::MAX } else { (1 << span.count) - 1 },
        pad_left: window.pad_left,
        in_w: window.in_w,
        half_columns: half * window.step,
        weights: packed.weights.as_ptr(),
        bias: packed.bias.as_ptr(),
        scale: packed.scale.as_ptr(),
        // SAFETY: the caller's machine has the instructions.
        clamp: unsafe { Clamp::new(to) },
        table: to.table.as_deref().filter(|_| has_vbmi()),
        y,
        pixel: window.channels,
        line: band.pitch,
        half,
        out_w: window.out_w,
        outputs: if span.paired { half } else { window.out_w },
    };
    let kind = match (span.paired, span.count) {
        (false, 64) => FULL,
        (false, _) => MASKED,
        (true, 32) => PAIR,
        (true, 16) => SMALL_PAIR,
        (true, _) => MASKED_PAIR,
    };
    macro_rules! with {
        ($($kind:ident)*) => {
            match (window.step, band.rows, kind, saturates) {
                $((1, 1, $kind, true) => slide.by_one::<1, $kind, true>(),
                (1, 1, $kind, false) => slide.by_one::<1, $kind, false>(),
                (1, _, $kind, true) => slide.by_one::<2, $kind, true>(),
                (1, _, $kind, false) => slide.by_one::<2, $kind, false>(),
                (_, _, $kind, true) => slide.by_two::<$kind, true>(),
                (_, _, $kind, false) => slide.by_two::<$kind, false>(),)*
                _ => unreachable!("kinds are those listed"),
            }
        };
    }
    // SAFETY: the addresses above serve every column and output of the band.
    unsafe { with!(FULL MASKED PAIR SMALL_PAIR MASKED_PAIR) }
}

struct Slide<'a> {
    lines: [*const u8; 4],
    /// Bytes between columns in each line.
    pitch: [usize; 4],
    zero: __m512i,
    mask: u64,
    pad_left: usize,
    in_w: usize,
    /// Columns from a pixel to the one in the other half of the register.
    half_columns: usize,
    /// Weights of three columns for each row.
    weights: *const i8,
    bias: *const i32,
    scale: *const f32,
    clamp: Clamp,
    table: Option<&'a [u8; 256]>,
    y: *mut u8,
    /// Bytes between pixels and between rows of the output.
    pixel: usize,
    line: usize,
    /// Pixels from one to that in the other half.
    half: usize,
    out_w: usize,
    /// Steps along the row.
    outputs: usize,
}

impl Slide<'_> {
    /// Stride 1: each column is the last of one output, the middle of the next, and the first of the one after.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn by_one<const ROWS: usize, const KIND: usize, const SATURATES: bool>(&self) {
        // SAFETY: see `run`.
        unsafe {
            let (first, second) = (self.column::<KIND>(0), self.column::<KIND>(1));
            let mut a = self.begin::<ROWS>(first);
            self.add(&mut a, second, 1);
            let mut b = self.begin::<ROWS>(second);
            let mut c;
            let mut out = 0;
            loop {
                // Three steps, after which every sum is back in its own registers.
                c = self.step::<ROWS, KIND, SATURATES>(out, &mut a, &mut b);
                if out + 1 >= self.outputs {
                    break;
                }
                a = self.step::<ROWS, KIND, SATURATES>(out + 1, &mut b, &mut c);
                if out + 2 >= self.outputs {
                    break;
                }
                b = self.step::<ROWS, KIND, SATURATES>(out + 2, &mut c, &mut a);
                out += 3;
                if out >= self.outputs {
                    break;
                }
            }
        }
    }

    /// Finishes output `out`, continues the next and begins the one after.
    #[inline(always)]
    unsafe fn step<const ROWS: usize, const KIND: usize, const SATURATES: bool>(
        &self,
        out: usize,
        last: &mut [Sums; ROWS],
        middle: &mut [Sums; ROWS],
    ) -> [Sums; ROWS] {
        // SAFETY: see `run`.
        unsafe {
            let x = self.column::<KIND>(out + 2);
            self.add(last, x, 2);
            for row in 0..ROWS {
                self.store::<KIND, SATURATES>(&last[row], row, out);
            }
            self.add(middle, x, 1);
            self.begin(x)
        }
    }

    /// Stride 2: the last column of an output is the first of the next.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn by_two<const KIND: usize, const SATURATES: bool>(&self) {
        // SAFETY: see `run`.
        unsafe {
            let mut sums = self.begin::<1>(self.column::<KIND>(0));
            for out in 0..self.outputs {
                let middle = self.column::<KIND>(2 * out + 1);
                self.add(&mut sums, middle, 1);
                let last = self.column::<KIND>(2 * out + 2);
                self.add(&mut sums, last, 2);
                self.store::<KIND, SATURATES>(&sums[0], 0, out);
                sums = self.begin(last);
            }
        }
    }

    /// Column `column` of the padded image, its rows interleaved.
    #[inline(always)]
    unsafe fn column<const KIND: usize>(&self, column: usize) -> Sums {
        let at = column.wrapping_sub(self.pad_left);
        let mut rows = [self.zero; 4];
        // A fourth line is often in the padding, or has no weight.
        let fourth = self.pitch[3] != 0;
        // SAFETY: the lines reach to the last column, and no load is longer than the block has channels.
        unsafe {
            if KIND > 32 {
                if at >= self.in_w {
                    return [self.zero; 4];
                }
                let load = |i: usize| {
                    let from = self.lines[i].add(at * self.pitch[i]);
                    match KIND {
                        FULL => _mm512_loadu_si512(from.cast()),
                        _ => _mm512_maskz_loadu_epi8(self.mask, from.cast()),
                    }
                };
                for i in 0..3 {
                    rows[i] = load(i);
                }
                if fourth {
                    rows[3] = load(3);
                }
            } else {
                let right = at.wrapping_add(self.half_columns);
                let load = |i: usize, at: usize| {
                    let from = self.lines[i].add(at * self.pitch[i]);
                    match KIND {
                        PAIR => _mm256_loadu_si256(from.cast()),
                        SMALL_PAIR => _mm256_castsi128_si256(_mm_loadu_si128(from.cast())),
                        _ => _mm256_maskz_loadu_epi8(self.mask as u32, from.cast()),
                    }
                };
                let zero = _mm512_castsi512_si256(self.zero);
                let (left_in, right_in) = (at < self.in_w, right < self.in_w);
                let join = |left, right| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(left), right);
                if left_in && right_in {
                    for i in 0..3 {
                        rows[i] = join(load(i, at), load(i, right));
                    }
                    if fourth {
                        rows[3] = join(load(3, at), load(3, right));
                    }
                } else {
                    for i in 0..4 {
                        let left = if left_in { load(i, at) } else { zero };
                        let right = if right_in { load(i, right) } else { zero };
                        rows[i] = join(left, right);
                    }
                }
            }
        }
        // SAFETY: by the caller's promise.
        unsafe { interleave(rows) }
    }

    /// The sums of outputs whose first column is `x`.
    #[inline(always)]
    unsafe fn begin<const ROWS: usize>(&self, x: Sums) -> [Sums; ROWS] {
        let mut sums = [[self.zero; 4]; ROWS];
        for i in 0..4 {
            // SAFETY: a block has 64 biases.
            let bias = unsafe { _mm512_loadu_si512(self.bias.add(16 * i).cast()) };
            for row in 0..ROWS {
                sums[row][i] = bias;
            }
        }
        // SAFETY: there are weights of as many rows.
        unsafe { self.add(&mut sums, x, 0) };
        sums
    }

    #[inline(always)]
    unsafe fn add<const ROWS: usize>(&self, sums: &mut [Sums; ROWS], x: Sums, tap: usize) {
        for row in 0..ROWS {
            for i in 0..4 {
                // SAFETY: there are weights of three taps for each row.
                unsafe {
                    let w = _mm512_loadu_si512(self.weights.add((3 * row + tap) * COLUMN + 64 * i).cast());
                    sums[row][i] = _mm512_dpbusd_epi32(sums[row][i], x[i], w);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store<const KIND: usize, const SATURATES: bool>(&self, sums: &Sums, row: usize, out: usize) {
        // SAFETY: see `run`; the mask keeps the store to the block's channels.
        unsafe {
            let mut values = *sums;
            for i in 0..4 {
                let scale = _mm512_loadu_ps(self.scale.add(16 * i));
                values[i] = if SATURATES { saturate::round(sums[i], scale) } else { self.clamp.round(sums[i], scale) };
            }
            let mut bytes =
                if SATURATES { saturate::narrow_lanes(values) } else { self.clamp.narrow_lanes(values) };
            if let Some(table) = self.table {
                bytes = Table::load(table).find(bytes);
            }
            let y = self.y.add(row * self.line + out * self.pixel);
            match KIND {
                FULL => _mm512_storeu_si512(y.cast(), bytes),
                MASKED => _mm512_mask_storeu_epi8(y.cast(), self.mask, bytes),
                _ => {
                    let store = |y: *mut u8, bytes: __m256i| match KIND {
                        PAIR => _mm256_storeu_si256(y.cast(), bytes),
                        SMALL_PAIR => _mm_storeu_si128(y.cast(), _mm256_castsi256_si128(bytes)),
                        _ => _mm256_mask_storeu_epi8(y.cast(), self.mask as u32, bytes),
                    };
                    store(y, _mm512_castsi512_si256(bytes));
                    if out + self.half < self.out_w {
                        store(y.add(self.half * self.pixel), _mm512_extracti64x4_epi64::<1>(bytes));
                    }
                }
            }
        }
    }
}

/// Four rows of 64 bytes as 64 dwords of a byte of each, 16 bytes of a row in a register's lane spread over the four registers.
///
/// # Safety
/// The machine has AVX-512 F and BW.
#[inline(always)]
pub(super) unsafe fn interleave(rows: [__m512i; 4]) -> Sums {
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

//! Windows three columns wide and at most four rows high, the usual ones, with VBMI.
//!
//! Here an interleaved column is never stored: it is added to the sums of the outputs whose window covers it, which stay
//! in registers, and so do all weights, as loading them would take longer than multiplying by them. Thirty-two
//! channels of two rows of output fill the registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Bands;
use crate::cpu::has_vbmi;
use crate::geometry::ConvGeometry;
use crate::quantized::depthwise::Window;
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx512::{Clamp, in_order, saturate};
use crate::quantized::lookup::avx512::Table;

/// The most rows of a band.
pub(super) const ROWS: usize = 2;
/// Channels of a block.
pub(super) const BLOCK: usize = 32;
/// The most lines that a band reads.
const LINES: usize = 6;
/// Bytes of weights of a column.
const COLUMN: usize = 4 * BLOCK;
/// Bytes of input that one block of channels after the other goes over, so that they stay in the first-level cache.
const GROUP_BYTES: usize = 16 * 1024;

/// Four rows of 32 channels, a byte of each in a dword; or the sums of as many channels.
type Column = [__m512i; 2];

/// Whether [`run`] can compute windows like this one.
pub(super) fn fits(window: &Window) -> bool {
    has_vbmi() && window.kernel[1] == 3 && window.kernel[0] <= 4 && window.dilation == 1 && window.step <= 2
}

/// What lies in half a register: all channels of a block, half of them, or some other number.
const FULL: usize = 32;
const HALF: usize = 16;
const MASKED: usize = 0;

/// Some bands and channels of one image.
pub(super) struct Share<'a> {
    pub(super) geometry: &'a ConvGeometry,
    /// The image.
    pub(super) x: &'a [u8],
    pub(super) x_zero: u8,
    /// A row of the padding.
    pub(super) padding: &'a [u8],
    pub(super) bands: Range<usize>,
    pub(super) blocks: Range<usize>,
    pub(super) to: &'a Requantize,
}

/// Computes bands of one or two rows. With stride 1 the two share their interleaved rows, and each has its own weights; else
/// the second row's window lies so many lines below the first's.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ, VNNI and VBMI. `y` is the image's output, and may be written at those channels of the
/// bands' pixels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) unsafe fn run(packed: &Bands, share: &Share<'_>, y: *mut u8) {
    let Share { geometry: g, x, padding, to, .. } = *share;
    let (window, variants) = (&packed.window, packed.variants);
    let (length, weights) = (g.in_w * g.in_c, 3 * variants * COLUMN);
    let apart = if variants < packed.rows { g.stride[0] } else { 0 };
    assert!(x.len() >= g.in_h * length && padding.len() >= length && packed.block == BLOCK);
    assert!((1..=ROWS).contains(&packed.rows) && apart + 4 <= LINES && share.blocks.end * BLOCK <= packed.bias.len());
    assert!(share.blocks.end * weights <= packed.weights.len() && packed.scale.len() == packed.bias.len());
    assert!(
        share.bands.end.saturating_sub(1) * packed.rows < g.out_h && (packed.rows - 1) * apart + g.kernel[0] <= LINES
    );
    let order = |first: u8| {
        let mut order = [0u8; 64];
        for (i, at) in order.iter_mut().enumerate() {
            *at = first + i as u8 / 4 + i as u8 % 4 * 32;
        }
        // SAFETY: the load is of the array.
        unsafe { _mm512_loadu_si512(order.as_ptr().cast()) }
    };
    let mut slide = Slide {
        lines: [x.as_ptr(); LINES],
        order: [order(0), order(16)],
        zero: _mm512_set1_epi8(share.x_zero as i8),
        mask: 0,
        pad_left: window.pad_left,
        in_w: window.in_w,
        weights: packed.weights.as_ptr(),
        bias: packed.bias.as_ptr(),
        scale: packed.scale.as_ptr(),
        // SAFETY: the machine has the instructions.
        clamp: unsafe { Clamp::new(to) },
        table: to.table.as_deref(),
        y,
        pixel: window.channels,
        line: g.out_w * g.out_c,
        out_w: window.out_w,
    };
    let group = (GROUP_BYTES / (packed.rows * g.stride[0] * length).max(1)).max(1);
    for first in share.bands.clone().step_by(group) {
        for block in share.blocks.clone() {
            let channel = block * BLOCK;
            let count = BLOCK.min(g.in_c - channel);
            let kind = match count {
                BLOCK => FULL,
                16 => HALF,
                _ => MASKED,
            };
            slide.mask = ((1u64 << count) - 1) as u32;
            // SAFETY: the assertions above; a band's lines are those of the image or of the padding, from the block's first channel
            // on, and serve every column of it; its rows lie in the output.
            unsafe {
                slide.weights = packed.weights.as_ptr().add(block * weights);
                slide.bias = packed.bias.as_ptr().add(channel);
                slide.scale = packed.scale.as_ptr().add(channel);
                for band in first..(first + group).min(share.bands.end) {
                    let row = band * packed.rows;
                    let rows = packed.rows.min(g.out_h - row);
                    let needed = (rows - 1) * g.stride[0] + g.kernel[0];
                    for i in 0..LINES {
                        let line = (row * g.stride[0] + i * g.dilation[0]).wrapping_sub(g.pad_top);
                        // Lines that nobody needs have no weight, so any other does for them.
                        slide.lines[i] = if i < needed && line < g.in_h {
                            x.as_ptr().add(line * length + channel)
                        } else {
                            padding.as_ptr().add(channel)
                        };
                    }
                    slide.y = y.add(row * slide.line + channel);
                    slide.band(rows, window.step, apart, kind, packed.saturates);
                }
            }
        }
    }
}

struct Slide<'a> {
    lines: [*const u8; LINES],
    /// Which bytes of two pairs of rows make a column.
    order: Column,
    zero: __m512i,
    mask: u32,
    pad_left: usize,
    in_w: usize,
    /// Weights of three columns, for each row if rows share their columns.
    weights: *const i8,
    bias: *const i32,
    scale: *const f32,
    clamp: Clamp,
    table: Option<&'a [u8; 256]>,
    y: *mut u8,
    /// Bytes between pixels, and between rows of the output.
    pixel: usize,
    line: usize,
    out_w: usize,
}

/// Weights of three columns for each row.
type Weights<const ROWS: usize> = [[Column; 3]; ROWS];

impl Slide<'_> {
    /// Computes a band.
    ///
    /// # Safety
    /// See [`run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    unsafe fn band(&self, rows: usize, step: usize, apart: usize, kind: usize, saturates: bool) {
        macro_rules! with {
            ($($kind:ident)*) => {
                match (step, rows, apart, kind, saturates) {
                    $((1, 1, _, $kind, true) => self.by_one::<1, 0, $kind, true>(),
                    (1, 1, _, $kind, false) => self.by_one::<1, 0, $kind, false>(),
                    (1, _, 0, $kind, true) => self.by_one::<2, 0, $kind, true>(),
                    (1, _, 0, $kind, false) => self.by_one::<2, 0, $kind, false>(),
                    (1, _, _, $kind, _) => self.by_one::<2, 2, $kind, false>(),
                    (_, 1, _, $kind, true) => self.by_two::<1, 0, $kind, true>(),
                    (_, 1, _, $kind, false) => self.by_two::<1, 0, $kind, false>(),
                    (_, _, 0, $kind, _) => self.by_two::<2, 0, $kind, false>(),
                    (_, _, _, $kind, true) => self.by_two::<2, 2, $kind, true>(),
                    (_, _, _, $kind, false) => self.by_two::<2, 2, $kind, false>(),)*
                    _ => unreachable!("kinds are those listed"),
                }
            };
        }
        // SAFETY: by the caller's promise.
        unsafe { with!(FULL HALF MASKED) }
    }

    /// Stride 1: each column is the last of one output, the middle of the next, and the first of the one after.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    unsafe fn by_one<const ROWS: usize, const APART: usize, const KIND: usize, const SATURATES: bool>(&self) {
        // SAFETY: see `run`.
        unsafe {
            let w = self.weights::<ROWS, APART>();
            let x = self.columns::<ROWS, APART, KIND>(0);
            let mut a = self.begin(&w, &x);
            let x = self.columns::<ROWS, APART, KIND>(1);
            add(&mut a, &w, &x, 1);
            let mut b = self.begin(&w, &x);
            let mut c;
            let mut out = 0;
            loop {
                // Three steps, after which every sum is back in its own registers.
                c = self.step::<ROWS, APART, KIND, SATURATES>(&w, out, &mut a, &mut b);
                if out + 1 >= self.out_w {
                    break;
                }
                a = self.step::<ROWS, APART, KIND, SATURATES>(&w, out + 1, &mut b, &mut c);
                if out + 2 >= self.out_w {
                    break;
                }
                b = self.step::<ROWS, APART, KIND, SATURATES>(&w, out + 2, &mut c, &mut a);
                out += 3;
                if out >= self.out_w {
                    break;
                }
            }
        }
    }

    /// Finishes output `out`, continues the next and begins the one after.
    #[inline(always)]
    unsafe fn step<const ROWS: usize, const APART: usize, const KIND: usize, const SATURATES: bool>(
        &self,
        w: &Weights<ROWS>,
        out: usize,
        last: &mut [Column; ROWS],
        middle: &mut [Column; ROWS],
    ) -> [Column; ROWS] {
        // SAFETY: see `run`.
        unsafe {
            let x = self.columns::<ROWS, APART, KIND>(out + 2);
            add(last, w, &x, 2);
            self.store::<ROWS, KIND, SATURATES>(last, out);
            add(middle, w, &x, 1);
            self.begin(w, &x)
        }
    }

    /// Stride 2: the last column of an output is the first of the next.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    unsafe fn by_two<const ROWS: usize, const APART: usize, const KIND: usize, const SATURATES: bool>(&self) {
        // SAFETY: see `run`.
        unsafe {
            let w = self.weights::<ROWS, APART>();
            let mut sums = self.begin(&w, &self.columns::<ROWS, APART, KIND>(0));
            for out in 0..self.out_w {
                add(&mut sums, &w, &self.columns::<ROWS, APART, KIND>(2 * out + 1), 1);
                let last = self.columns::<ROWS, APART, KIND>(2 * out + 2);
                add(&mut sums, &w, &last, 2);
                self.store::<ROWS, KIND, SATURATES>(&sums, out);
                sums = self.begin(&w, &last);
            }
        }
    }

    #[inline(always)]
    unsafe fn weights<const ROWS: usize, const APART: usize>(&self) -> Weights<ROWS> {
        // SAFETY: there are three columns for each row, or for all where those do not share theirs.
        unsafe {
            let mut w = [[[self.zero; 2]; 3]; ROWS];
            for (row, w) in w.iter_mut().enumerate() {
                let row = if APART == 0 { row } else { 0 };
                for (tap, w) in w.iter_mut().enumerate() {
                    for (i, w) in w.iter_mut().enumerate() {
                        *w = _mm512_loadu_si512(self.weights.add((3 * row + tap) * COLUMN + 64 * i).cast());
                    }
                }
            }
            w
        }
    }

    /// Column `column` of the padded image, for each row of the band.
    #[inline(always)]
    unsafe fn columns<const ROWS: usize, const APART: usize, const KIND: usize>(
        &self,
        column: usize,
    ) -> [Column; ROWS] {
        let at = column.wrapping_sub(self.pad_left);
        if at >= self.in_w {
            return [[self.zero; 2]; ROWS];
        }
        // SAFETY: the lines reach to the last column, and no load is longer than the block has channels.
        unsafe {
            let load = |i: usize| {
                let from = self.lines[i].add(at * self.pixel);
                match KIND {
                    FULL => _mm256_loadu_si256(from.cast()),
                    HALF => _mm256_castsi128_si256(_mm_loadu_si128(from.cast())),
                    _ => _mm256_maskz_loadu_epi8(self.mask, from.cast()),
                }
            };
            let pair = |i: usize| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(load(i)), load(i + 1));
            let mut pairs = [pair(0), pair(2), self.zero];
            if APART > 0 && ROWS > 1 {
                pairs[2] = pair(4);
            }
            let mut columns = [[self.zero; 2]; ROWS];
            for (row, column) in columns.iter_mut().enumerate() {
                let first = row * APART / 2;
                for (i, column) in column.iter_mut().enumerate() {
                    *column = _mm512_permutex2var_epi8(pairs[first], self.order[i], pairs[first + 1]);
                }
            }
            columns
        }
    }

    /// The sums of outputs whose first column is `x`.
    #[inline(always)]
    unsafe fn begin<const ROWS: usize>(&self, w: &Weights<ROWS>, x: &[Column; ROWS]) -> [Column; ROWS] {
        // SAFETY: a block has 32 biases.
        unsafe {
            let bias = [_mm512_loadu_si512(self.bias.cast()), _mm512_loadu_si512(self.bias.add(16).cast())];
            let mut sums = [bias; ROWS];
            add(&mut sums, w, x, 0);
            sums
        }
    }

    #[inline(always)]
    unsafe fn store<const ROWS: usize, const KIND: usize, const SATURATES: bool>(
        &self,
        sums: &[Column; ROWS],
        out: usize,
    ) {
        // SAFETY: see `run`; the mask keeps stores to the block's channels.
        unsafe {
            let mut values = [self.zero; 4];
            for i in 0..2 {
                let scale = _mm512_loadu_ps(self.scale.add(16 * i));
                for row in 0..ROWS {
                    let sum = sums[row][i];
                    values[2 * row + i] =
                        if SATURATES { saturate::round(sum, scale) } else { self.clamp.round(sum, scale) };
                }
            }
            let bytes = if SATURATES { saturate::narrow_lanes(values) } else { self.clamp.narrow_lanes(values) };
            let mut bytes = in_order(bytes);
            if let Some(table) = self.table {
                bytes = Table::load(table).find(bytes);
            }
            let rows = [_mm512_castsi512_si256(bytes), _mm512_extracti64x4_epi64::<1>(bytes)];
            for (row, bytes) in rows.into_iter().enumerate().take(ROWS) {
                let y = self.y.add(row * self.line + out * self.pixel);
                match KIND {
                    FULL => _mm256_storeu_si256(y.cast(), bytes),
                    HALF => _mm_storeu_si128(y.cast(), _mm256_castsi256_si128(bytes)),
                    _ => _mm256_mask_storeu_epi8(y.cast(), self.mask, bytes),
                }
            }
        }
    }
}

/// Adds the products of column `x` and tap `tap` of the window to the sums of each row.
///
/// # Safety
/// The machine has VNNI.
#[inline(always)]
unsafe fn add<const ROWS: usize>(sums: &mut [Column; ROWS], w: &Weights<ROWS>, x: &[Column; ROWS], tap: usize) {
    for row in 0..ROWS {
        for i in 0..2 {
            // SAFETY: by the caller's promise.
            unsafe { sums[row][i] = _mm512_dpbusd_epi32(sums[row][i], x[row][i], w[row][tap][i]) };
        }
    }
}

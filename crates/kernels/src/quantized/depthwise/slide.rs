//! Windows three columns wide and at most three rows high, the usual ones, with AVX-512 VNNI.
//!
//! Here an interleaved column (see `avx512.rs`) is never stored: it is added to the sums of the outputs whose window
//! covers it, which stay in registers together with all weights of the block.

use std::arch::x86_64::*;

use super::avx512::{BLOCK, COLUMN};
use super::{Row, Window};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::avx512::Clamp;

/// The sums of 64 channels of one output.
type Sums = [__m512i; 4];

/// Whether [`row`] can compute windows like this one.
pub(super) fn fits(window: &Window) -> bool {
    window.kernel[1] == 3 && window.kernel[0] <= 3 && window.dilation == 1 && window.step <= 2
}

/// Computes channels `channel..channel + count` of one row of output.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI. `y` may be written at those channels of every pixel of the row;
/// `weights` are three columns, `bias` and `scale` 64 values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn row(
    row: &Row<'_>,
    to: &Requantize,
    channel: usize,
    count: usize,
    weights: *const i8,
    bias: *const i32,
    scale: *const f32,
    y: *mut u8,
) {
    let window = row.window;
    let zeros = [row.x_zero; BLOCK];
    // Rows in the padding read the same zeros over and over.
    let (mut lines, mut pitch) = ([zeros.as_ptr(); 3], [0; 3]);
    for i in 0..3 {
        if let Some(line) = row.line(i) {
            lines[i] = line[channel..(window.in_w - 1) * window.channels + channel + count].as_ptr();
            pitch[i] = window.channels;
        }
    }
    // SAFETY: three columns of weights by the caller's promise.
    let w = unsafe {
        let mut w = [[_mm512_setzero_si512(); 4]; 3];
        for (tap, w) in w.iter_mut().enumerate() {
            for (i, w) in w.iter_mut().enumerate() {
                *w = _mm512_loadu_si512(weights.add(tap * COLUMN + 64 * i).cast());
            }
        }
        w
    };
    let slide = Slide {
        lines,
        pitch,
        zero: _mm512_set1_epi8(row.x_zero as i8),
        mask: if count == BLOCK { u64::MAX } else { (1 << count) - 1 },
        pad_left: window.pad_left,
        in_w: window.in_w,
        w,
        bias,
        scale,
        clamp: Clamp::new(to),
        y,
        pixel: window.channels,
        out_w: window.out_w,
    };
    // SAFETY: the addresses above serve every column and output of the row.
    unsafe {
        // Masked stores are slow, so the usual numbers of channels do without.
        match (window.step, count) {
            (1, 64) => slide.by_one::<64>(),
            (1, 32) => slide.by_one::<32>(),
            (1, 16) => slide.by_one::<16>(),
            (1, _) => slide.by_one::<0>(),
            (_, 64) => slide.by_two::<64>(),
            (_, 32) => slide.by_two::<32>(),
            (_, 16) => slide.by_two::<16>(),
            _ => slide.by_two::<0>(),
        }
    }
}

struct Slide {
    lines: [*const u8; 3],
    /// Bytes between columns in each line.
    pitch: [usize; 3],
    zero: __m512i,
    mask: u64,
    pad_left: usize,
    in_w: usize,
    /// Weights of the three columns.
    w: [Sums; 3],
    bias: *const i32,
    scale: *const f32,
    clamp: Clamp,
    y: *mut u8,
    /// Bytes between pixels of the output.
    pixel: usize,
    out_w: usize,
}

impl Slide {
    /// Stride 1: each column is the last of one output, the middle of the next, and the first of the one after.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn by_one<const COUNT: usize>(&self) {
        // SAFETY: see `row`.
        unsafe {
            let (first, second) = (self.column::<COUNT>(0), self.column::<COUNT>(1));
            let mut a = self.bias();
            self.add(&mut a, first, 0);
            self.add(&mut a, second, 1);
            let mut b = self.bias();
            self.add(&mut b, second, 0);
            let mut c;
            let mut out = 0;
            loop {
                // Three steps, after which every sum is back in its own registers.
                c = self.step::<COUNT>(out, &mut a, &mut b);
                if out + 1 >= self.out_w {
                    break;
                }
                a = self.step::<COUNT>(out + 1, &mut b, &mut c);
                if out + 2 >= self.out_w {
                    break;
                }
                b = self.step::<COUNT>(out + 2, &mut c, &mut a);
                out += 3;
                if out >= self.out_w {
                    break;
                }
            }
        }
    }

    /// Finishes output `out`, continues the next and begins the one after.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn step<const COUNT: usize>(&self, out: usize, last: &mut Sums, middle: &mut Sums) -> Sums {
        // SAFETY: see `row`.
        unsafe {
            let x = self.column::<COUNT>(out + 2);
            let mut first = self.bias();
            self.add(last, x, 2);
            self.add(middle, x, 1);
            self.add(&mut first, x, 0);
            self.store::<COUNT>(last, out);
            first
        }
    }

    /// Stride 2: the last column of an output is the first of the next.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn by_two<const COUNT: usize>(&self) {
        // SAFETY: see `row`.
        unsafe {
            let mut sums = self.bias();
            let first = self.column::<COUNT>(0);
            self.add(&mut sums, first, 0);
            for out in 0..self.out_w {
                let (middle, last) = (self.column::<COUNT>(2 * out + 1), self.column::<COUNT>(2 * out + 2));
                self.add(&mut sums, middle, 1);
                self.add(&mut sums, last, 2);
                let mut next = self.bias();
                self.add(&mut next, last, 0);
                self.store::<COUNT>(&sums, out);
                sums = next;
            }
        }
    }

    /// Column `column` of the padded image, its rows interleaved.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn column<const COUNT: usize>(&self, column: usize) -> Sums {
        let at = column.wrapping_sub(self.pad_left);
        if at >= self.in_w {
            return [self.zero; 4];
        }
        let mut rows = [self.zero; 3];
        for i in 0..3 {
            // SAFETY: the lines reach to the last column, and no load is longer than the block has channels.
            rows[i] = unsafe {
                let from = self.lines[i].add(at * self.pitch[i]);
                match COUNT {
                    64 => _mm512_loadu_si512(from.cast()),
                    32 => _mm512_castsi256_si512(_mm256_loadu_si256(from.cast())),
                    16 => _mm512_castsi128_si512(_mm_loadu_si128(from.cast())),
                    _ => _mm512_maskz_loadu_epi8(self.mask, from.cast()),
                }
            };
        }
        let [r0, r1, r2] = rows;
        // The fourth row has no weight; any value does.
        let (a, b) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpacklo_epi8(r2, r2));
        let (c, d) = (_mm512_unpackhi_epi8(r0, r1), _mm512_unpackhi_epi8(r2, r2));
        [
            _mm512_unpacklo_epi16(a, b),
            _mm512_unpackhi_epi16(a, b),
            _mm512_unpacklo_epi16(c, d),
            _mm512_unpackhi_epi16(c, d),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn bias(&self) -> Sums {
        let mut sums = [self.zero; 4];
        for i in 0..4 {
            // SAFETY: a block has 64 biases.
            sums[i] = unsafe { _mm512_loadu_si512(self.bias.add(16 * i).cast()) };
        }
        sums
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn add(&self, sums: &mut Sums, x: Sums, tap: usize) {
        for i in 0..4 {
            sums[i] = _mm512_dpbusd_epi32(sums[i], x[i], self.w[tap][i]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn store<const COUNT: usize>(&self, sums: &Sums, out: usize) {
        // SAFETY: see `row`; the mask keeps the store to the block's channels.
        unsafe {
            let mut values = *sums;
            for i in 0..4 {
                values[i] = self.clamp.round(sums[i], _mm512_loadu_ps(self.scale.add(16 * i)));
            }
            let bytes = self.clamp.narrow_lanes(values);
            let y = self.y.add(out * self.pixel);
            match COUNT {
                64 => _mm512_storeu_si512(y.cast(), bytes),
                32 => _mm256_storeu_si256(y.cast(), _mm512_castsi512_si256(bytes)),
                16 => _mm_storeu_si128(y.cast(), _mm512_castsi512_si128(bytes)),
                _ => _mm512_mask_storeu_epi8(y.cast(), self.mask, bytes),
            }
        }
    }
}

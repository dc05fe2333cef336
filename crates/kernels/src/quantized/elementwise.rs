//! Kernels that look at one value of each input: addition, and the borders between real and quantized numbers.

use super::epilogue::{Clip, Limits};
use super::versions::per_isa;
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::pool::{Pool, SharedMut};

/// Values one thread takes at a time.
const CHUNK: usize = 16 * 1024;

/// Bits of the fraction of the multipliers of an addition.
const ADD_BITS: u32 = 14;

/// `acc = (a − a_zero)·m_a + (b − b_zero)·m_b`, then requantize with `scale`: a dot of two taps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QAdd {
    /// Stored value of `a` that means zero.
    pub a_zero: u8,
    /// Stored value of `b` that means zero.
    pub b_zero: u8,
    /// `rint(2^14 · a_scale / max(a_scale, b_scale))`, in `0..=2^14`.
    pub m_a: i32,
    /// The same for `b`.
    pub m_b: i32,
    /// `(max(a_scale, b_scale) ⊗ 2^−14) ⊘ y_scale`.
    pub scale: f32,
    /// Zero point and range of the output.
    pub clip: Clip,
}

impl QAdd {
    /// Adds `a` and `b` value by value.
    ///
    /// # Errors
    /// When the lengths differ, a multiplier is out of range or the scale is not finite.
    pub fn run(&self, isa: Isa, a: &[u8], b: &[u8], y: &mut [u8], pool: &Pool) -> Result<(), KernelError> {
        expect_len("second operand", b.len(), a.len())?;
        expect_len("output", y.len(), a.len())?;
        self.check()?;
        pool.for_each_chunk_mut(y, CHUNK, |chunk, y| {
            let range = chunk * CHUNK..chunk * CHUNK + y.len();
            add(isa, self, &a[range.clone()], &b[range], y);
        });
        Ok(())
    }

    /// Checks the multipliers, the scale and the clip.
    pub(crate) fn check(&self) -> Result<(), KernelError> {
        let most = 1 << ADD_BITS;
        if !(0..=most).contains(&self.m_a) || !(0..=most).contains(&self.m_b) || !self.scale.is_finite() {
            return Err(KernelError::Unsupported(format!(
                "multipliers {} and {} of a quantized addition must lie in 0..={most} and its scale {} be finite",
                self.m_a, self.m_b, self.scale
            )));
        }
        self.clip.check()
    }

    /// The sum of two stored values; what the vector kernels are held to.
    #[inline(always)]
    fn one(&self, a: u8, b: u8, limits: Limits) -> u8 {
        let (a, b) = (i32::from(a) - i32::from(self.a_zero), i32::from(b) - i32::from(self.b_zero));
        limits.close((a * self.m_a + b * self.m_b) as f32 * self.scale)
    }
}

per_isa! {
    fn add(with: &QAdd, a: &[u8], b: &[u8], y: &mut [u8]) {
        let (with, limits) = (*with, with.clip.limits());
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = with.one(*a, *b, limits);
        }
    }
}

per_isa! {
    /// Adds `b` to `a` value by value, in place; the sizes are equal and `with` has been checked.
    pub(super) fn add_in_place(with: &QAdd, a: &mut [u8], b: &[u8]) {
        let (with, limits) = (*with, with.clip.limits());
        for (a, b) in a.iter_mut().zip(b) {
            *a = with.one(*a, *b, limits);
        }
    }
}

/// A function of a quantized value that is linear on either side of zero, with a slope for each channel below:
/// `y = clamp(rint(f32(x − x_zero) ⊗ (x < x_zero ? below[c] : above)) + zero, lo, hi)`.
#[derive(Debug, Clone, PartialEq)]
pub struct QPRelu {
    /// Stored value of `x` that means zero.
    pub x_zero: u8,
    /// Factor of values above zero.
    pub above: f32,
    /// Factor of values below zero, for each channel.
    pub below: Vec<f32>,
    /// Zero point and range of the output.
    pub clip: Clip,
}

impl QPRelu {
    /// Checks the factors, of which there must be one for each of `channels`, and the clip.
    pub(crate) fn check(&self, channels: usize) -> Result<(), KernelError> {
        expect_len("slopes", self.below.len(), channels)?;
        if let Some(factor) = self.below.iter().chain([&self.above]).find(|f| !f.is_finite()) {
            return Err(KernelError::Unsupported(format!("a slope of {factor}")));
        }
        self.clip.check()
    }

    /// The function of one stored value of channel `channel`; what the vector kernels are held to.
    #[must_use]
    pub fn apply(&self, x: u8, channel: usize) -> u8 {
        let x = i32::from(x) - i32::from(self.x_zero);
        let factor = if x < 0 { self.below[channel] } else { self.above };
        self.clip.limits().close(x as f32 * factor)
    }
}

per_isa! {
    /// Replaces the values of one pixel, which begin at channel `first`.
    pub(super) fn prelu_in_place(with: &QPRelu, first: usize, values: &mut [u8]) {
        let (x_zero, above, limits) = (i32::from(with.x_zero), with.above, with.clip.limits());
        for (value, below) in values.iter_mut().zip(&with.below[first..]) {
            let x = i32::from(*value) - x_zero;
            *value = limits.close(x as f32 * if x < 0 { *below } else { above });
        }
    }
}

/// `y = clamp(rint(x ⊘ scale) + zero, lo, hi)`; NaN becomes the zero point.
///
/// # Errors
/// When the lengths differ or the range is empty.
pub fn quantize(isa: Isa, scale: f32, clip: Clip, x: &[f32], y: &mut [u8], pool: &Pool) -> Result<(), KernelError> {
    expect_len("output", y.len(), x.len())?;
    clip.check()?;
    pool.for_each_chunk_mut(y, CHUNK, |chunk, y| {
        let start = chunk * CHUNK;
        quantize_chunk(isa, scale, clip, &x[start..start + y.len()], y);
    });
    Ok(())
}

per_isa! {
    fn quantize_chunk(scale: f32, clip: Clip, x: &[f32], y: &mut [u8]) {
        let limits = clip.limits();
        for (y, x) in y.iter_mut().zip(x) {
            let real = x / scale;
            *y = limits.close(if real.is_nan() { 0.0 } else { real });
        }
    }
}

/// `y = scale ⊗ (x − zero)`.
///
/// # Errors
/// When the lengths differ.
pub fn dequantize(isa: Isa, scale: f32, zero: u8, x: &[u8], y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
    expect_len("output", y.len(), x.len())?;
    pool.for_each_chunk_mut(y, CHUNK, |chunk, y| {
        let start = chunk * CHUNK;
        dequantize_chunk(isa, scale, zero, &x[start..start + y.len()], y);
    });
    Ok(())
}

per_isa! {
    fn dequantize_chunk(scale: f32, zero: u8, x: &[u8], y: &mut [f32]) {
        let zero = i32::from(zero);
        for (y, x) in y.iter_mut().zip(x) {
            *y = (i32::from(*x) - zero) as f32 * scale;
        }
    }
}

/// Pixels and channels that [`quantize_channels_last`] takes at a time.
const PIXELS: usize = 2048;
const CHANNELS: usize = 8;

/// Colours side by side: `y[3i + c] = lines[c][i]`.
fn join_three(isa: Isa, lines: &[[u8; PIXELS]; CHANNELS], y: &mut [u8]) {
    // SAFETY: every set but the scalar one has these instructions.
    let done = if isa.or_supported() == Isa::Scalar { 0 } else { unsafe { join_sixteens(lines, y) } };
    for (pixel, y) in y.chunks_exact_mut(3).enumerate().skip(done) {
        for (y, line) in y.iter_mut().zip(lines) {
            *y = line[pixel];
        }
    }
}

/// [`join_three`] for as many whole groups of 16 pixels as there are; returns how many pixels those hold.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn join_sixteens(lines: &[[u8; PIXELS]; CHANNELS], y: &mut [u8]) -> usize {
    use std::arch::x86_64::*;

    /// Which pixel of its colour byte `k` of the output's third `part` takes, or 128 for none.
    const ORDER: [[[u8; 16]; 3]; 3] = {
        let mut order = [[[128; 16]; 3]; 3];
        let mut byte = 0;
        while byte < 48 {
            order[byte / 16][byte % 3][byte % 16] = (byte / 3) as u8;
            byte += 1;
        }
        order
    };
    let mut pixel = 0;
    for y in y.as_chunks_mut::<48>().0 {
        // SAFETY: every load and store is of 16 bytes of an array or piece that has them; a line holds all pixels.
        unsafe {
            for part in 0..3 {
                let mut bytes = _mm_setzero_si128();
                for (line, order) in lines[..3].iter().zip(&ORDER[part]) {
                    let line = _mm_loadu_si128(line[pixel..pixel + 16].as_ptr().cast());
                    let order = _mm_loadu_si128(order.as_ptr().cast());
                    bytes = _mm_or_si128(bytes, _mm_shuffle_epi8(line, order));
                }
                _mm_storeu_si128(y.as_mut_ptr().add(16 * part).cast(), bytes);
            }
        }
        pixel += 16;
    }
    pixel
}

/// [`join_three`] for as many whole groups of 16 pixels as there are; returns how many pixels those hold.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn join_sixteens(lines: &[[u8; PIXELS]; CHANNELS], y: &mut [u8]) -> usize {
    use std::arch::aarch64::*;

    let mut pixel = 0;
    for y in y.as_chunks_mut::<48>().0 {
        // SAFETY: a load is of 16 bytes of a line, which holds all pixels; the store fills the piece.
        unsafe {
            let line = |i: usize| vld1q_u8(lines[i][pixel..pixel + 16].as_ptr());
            vst3q_u8(y.as_mut_ptr(), uint8x16x3_t(line(0), line(1), line(2)));
        }
        pixel += 16;
    }
    pixel
}

/// No instructions for it: none is done.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn join_sixteens(_: &[[u8; PIXELS]; CHANNELS], _: &mut [u8]) -> usize {
    0
}

/// Quantizes and moves the channel last: `x` is `[batch, channels, pixels]`, `y` `[batch, pixels, channels]`.
///
/// # Errors
/// When a length is wrong or the range is empty.
pub fn quantize_channels_last(
    isa: Isa,
    [batch, channels, pixels]: [usize; 3],
    scale: f32,
    clip: Clip,
    x: &[f32],
    y: &mut [u8],
    pool: &Pool,
) -> Result<(), KernelError> {
    let len = batch * channels * pixels;
    expect_len("input", x.len(), len)?;
    expect_len("output", y.len(), len)?;
    clip.check()?;
    if channels == 1 {
        return quantize(isa, scale, clip, x, y, pool);
    }
    let pieces = pixels.div_ceil(PIXELS);
    let y = SharedMut::new(y);
    pool.run(batch * pieces, &|job| {
        let (image, first) = (job / pieces, job % pieces * PIXELS);
        let count = PIXELS.min(pixels - first);
        let start = (image * pixels + first) * channels;
        // SAFETY: jobs are distinct pairs of image and stretch of pixels.
        let y = unsafe { y.slice(start..start + count * channels) };
        let mut lines = [[0u8; PIXELS]; CHANNELS];
        for from_channel in (0..channels).step_by(CHANNELS) {
            let some = CHANNELS.min(channels - from_channel);
            for (i, line) in lines[..some].iter_mut().enumerate() {
                let from = (image * channels + from_channel + i) * pixels + first;
                quantize_chunk(isa, scale, clip, &x[from..from + count], &mut line[..count]);
            }
            if channels == 3 {
                join_three(isa, &lines, y);
                continue;
            }
            for (pixel, y) in y.chunks_exact_mut(channels).enumerate() {
                for (value, line) in y[from_channel..from_channel + some].iter_mut().zip(&lines) {
                    *value = line[pixel];
                }
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantized::requantize;
    use proptest::prelude::*;

    fn clip() -> impl Strategy<Value = Clip> {
        (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(zero, a, b)| Clip { zero, lo: a.min(b), hi: a.max(b) })
    }

    proptest! {
        #[test]
        fn addition_equals_the_definition(
            pairs in prop::collection::vec((any::<u8>(), any::<u8>()), 0..300),
            a_zero: u8, b_zero: u8, m_a in 0..=1i32 << 14, m_b in 0..=1i32 << 14,
            scale in 1e-6f32..1e-3, clip in clip(), threads in 1usize..4,
        ) {
            let add = QAdd { a_zero, b_zero, m_a, m_b, scale, clip };
            let (a, b): (Vec<u8>, Vec<u8>) = pairs.into_iter().unzip();
            let want: Vec<u8> = a.iter().zip(&b).map(|(a, b)| {
                let sum = (i32::from(*a) - i32::from(a_zero)) * m_a + (i32::from(*b) - i32::from(b_zero)) * m_b;
                requantize(sum, scale, clip.zero, clip.lo, clip.hi)
            }).collect();
            for isa in Isa::available() {
                let mut y = vec![0; a.len()];
                add.run(isa, &a, &b, &mut y, &Pool::kept(threads)).unwrap();
                prop_assert_eq!(&y, &want, "{:?}", isa);
            }
        }

        #[test]
        fn quantize_equals_the_definition(
            x in prop::collection::vec(prop_oneof![8 => -400.0f32..400.0, 1 => any::<f32>()], 0..300),
            scale in 1e-3f32..10.0, clip in clip(),
        ) {
            let want: Vec<u8> = x.iter().map(|x| {
                let real = x / scale;
                let whole = if real.is_nan() { 0 } else { real.round_ties_even() as i64 };
                whole.saturating_add(clip.zero.into()).clamp(clip.lo.into(), clip.hi.into()) as u8
            }).collect();
            let pool = Pool::kept(2);
            for isa in Isa::available() {
                let mut y = vec![0; x.len()];
                quantize(isa, scale, clip, &x, &mut y, &pool).unwrap();
                prop_assert_eq!(&y, &want, "{:?}", isa);
                let mut moved = vec![0; x.len()];
                quantize_channels_last(isa, [1, 1, x.len()], scale, clip, &x, &mut moved, &pool).unwrap();
                prop_assert_eq!(&moved, &want, "{:?}", isa);
            }
        }

        #[test]
        fn dequantize_equals_the_definition(x in prop::collection::vec(any::<u8>(), 0..200), scale in 1e-3f32..10.0, zero: u8) {
            let want: Vec<f32> = x.iter().map(|x| scale * (f32::from(*x) - f32::from(zero))).collect();
            for isa in Isa::available() {
                let mut y = vec![0.0; x.len()];
                dequantize(isa, scale, zero, &x, &mut y, &Pool::new(1)).unwrap();
                prop_assert_eq!(&y, &want, "{:?}", isa);
            }
        }
    }

    proptest! {
        #[test]
        fn channels_of_any_number_move_last(
            batch in 1usize..3, channels in 1usize..20, pixels in 1usize..600, threads in 1usize..4,
        ) {
            let x: Vec<f32> = (0..batch * channels * pixels).map(|i| (i * 7 % 256) as f32).collect();
            let clip = Clip { zero: 0, lo: 0, hi: 255 };
            for isa in Isa::available() {
                let mut y = vec![0; x.len()];
                quantize_channels_last(isa, [batch, channels, pixels], 1.0, clip, &x, &mut y, &Pool::kept(threads)).unwrap();
                for (i, y) in y.iter().enumerate() {
                    let (n, p, c) = (i / channels / pixels, i / channels % pixels, i % channels);
                    prop_assert_eq!(f32::from(*y), x[(n * channels + c) * pixels + p]);
                }
            }
        }
    }

    #[test]
    fn the_channel_moves_last() {
        let x: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let mut y = vec![0; 12];
        let clip = Clip { zero: 0, lo: 0, hi: 255 };
        quantize_channels_last(Isa::detect(), [2, 3, 2], 1.0, clip, &x, &mut y, &Pool::kept(2)).unwrap();
        assert_eq!(y, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }

    #[test]
    fn multipliers_out_of_range_are_refused() {
        let clip = Clip { zero: 0, lo: 0, hi: 255 };
        let add = QAdd { a_zero: 0, b_zero: 0, m_a: 1 << 15, m_b: 1, scale: 1.0, clip };
        assert!(add.run(Isa::Scalar, &[1], &[1], &mut [0], &Pool::new(1)).is_err());
    }
}

//! Convolutions with few output channels, by AVX-512 VNNI.
//!
//! A vector of sums has a lane for every kernel column and output channel, `[column][channel]`: a pixel is multiplied by the weights of all
//! kernel columns at once. What belongs to an output pixel then lies in neighbouring vectors, a few lanes further on in each.

use std::arch::x86_64::*;

use super::avx512::Tile;
use super::panels::Target;
use crate::quantized::epilogue::avx512::Clamp;

/// Pixels whose sums are in registers at a time.
const PIXELS: usize = 14;
/// Values of a tile, at most 13 pixels of 4 channels.
const VALUES: usize = 64;

/// Output pixels of a tile for a kernel of so many columns.
pub(super) const fn tile_width(kernel_columns: usize) -> usize {
    PIXELS + 1 - kernel_columns
}

/// A row of output pixels.
pub(super) struct Row<'a> {
    /// What the first kernel row sees of the image; the others are `line` bytes apart, pixels `stride` bytes.
    pub a: &'a [u8],
    pub line: usize,
    pub lines: usize,
    pub stride: usize,
    /// Steps of four bytes that a pixel takes.
    pub steps: usize,
    /// Output pixels, output channels, kernel columns.
    pub width: usize,
    pub channels: usize,
    pub columns: usize,
    pub weights: &'a [i8],
    pub bias: &'a [i32],
    pub scale: &'a [f32],
}

/// Computes a row.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI, and `y` may be written for the whole row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn row(r: &Row<'_>, y: Target<'_>) {
    let tile = tile_width(r.columns);
    let count = tile * r.channels;
    assert!(r.columns * r.channels <= 16 && r.columns > 1 && count <= VALUES && r.width >= tile);
    let last = (r.lines - 1) * r.line + (r.width + r.columns - 2) * r.stride + 4 * r.steps;
    assert!(last <= r.a.len() && 64 * r.steps * r.lines <= r.weights.len());
    assert!(r.channels <= r.bias.len() && r.channels <= r.scale.len());
    // Bias and scale of every value of a tile.
    let (mut bias, mut scale) = ([0i32; VALUES], [0f32; VALUES]);
    for i in 0..count {
        (bias[i], scale[i]) = (r.bias[i % r.channels], r.scale[i % r.channels]);
    }
    let none = [0i32; 16];
    // SAFETY: tiles lie in the row, whose bounds were checked; the buffers are longer than what is read and written of them.
    unsafe {
        let mut first = 0;
        while first < r.width {
            // The last tile ends with the row; what it computes again is the same.
            let start = first.min(r.width - tile);
            let sums = Tile {
                a: r.a.as_ptr().add(start * r.stride),
                stride: r.stride,
                steps: r.steps,
                lines: r.lines,
                line: r.line,
                weights: r.weights.as_ptr(),
                ahead: r.weights.as_ptr(),
                ahead_step: 0,
                bias: none.as_ptr(),
                scale: scale.as_ptr(),
                column: 0,
                columns: r.channels,
                y,
                y_stride: r.channels,
            }
            .sums::<PIXELS, 1>();
            let values = match r.channels {
                1 => side_by_side::<1>(&sums, r.columns, tile),
                2 => side_by_side::<2>(&sums, r.columns, tile),
                4 => side_by_side::<4>(&sums, r.columns, tile),
                _ => through_memory(&sums, r.columns, tile, r.channels),
            };
            let sum = |i: usize| _mm512_add_epi32(values[i], _mm512_loadu_si512(bias.as_ptr().add(16 * i).cast()));
            let scale = |i: usize| _mm512_loadu_ps(scale.as_ptr().add(16 * i));
            match y {
                Target::U8(y, finish) => {
                    let clamp = Clamp::new(finish.to);
                    let bytes = clamp.narrow([
                        clamp.round(sum(0), scale(0)),
                        clamp.round(sum(1), scale(1)),
                        clamp.round(sum(2), scale(2)),
                        clamp.round(sum(3), scale(3)),
                    ]);
                    let mask = u64::MAX >> (64 - count);
                    _mm512_mask_storeu_epi8(y.add(start * r.channels).cast(), mask, bytes);
                }
                Target::F32(y) => {
                    for i in 0..count.div_ceil(16) {
                        let mask = (u64::MAX >> (64 - count) >> (16 * i)) as u16;
                        let real = _mm512_mul_ps(_mm512_cvtepi32_ps(sum(i)), scale(i));
                        _mm512_mask_storeu_ps(y.add(start * r.channels + 16 * i), mask, real);
                    }
                }
            }
            first += tile;
        }
    }
}

/// The sums of a tile's output pixels, `C` channels each, one pixel after the other in four vectors. A whole number of them fits a vector.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn side_by_side<const C: usize>(sums: &[[__m512i; 1]; PIXELS], columns: usize, tile: usize) -> [__m512i; 4] {
    const { assert!(16 % C == 0) };
    // SAFETY: by the caller's promise.
    unsafe {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let mut values = [_mm512_setzero_si512(); 4];
        macro_rules! pixels {
            ($($m:literal)*) => {
                $(if $m < tile {
                    let (vector, place) = ($m * C / 16, $m * C % 16);
                    let own = ((1u16 << C) - 1) << place;
                    macro_rules! column {
                        ($k:literal) => {
                            if $k < columns && $m + $k < PIXELS {
                                let from = _mm512_add_epi32(lanes, _mm512_set1_epi32(($k * C) as i32 - place as i32));
                                let sum = _mm512_maskz_permutexvar_epi32(own, from, sums[($m + $k) % PIXELS][0]);
                                values[vector] = _mm512_add_epi32(values[vector], sum);
                            }
                        };
                    }
                    column!(0); column!(1); column!(2); column!(3); column!(4); column!(5); column!(6); column!(7); column!(8);
                })*
            };
        }
        pixels!(0 1 2 3 4 5 6 7 8 9 10 11 12);
        values
    }
}

/// [`side_by_side`] for any number of channels, each pixel stored behind the one before.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn through_memory(sums: &[[__m512i; 1]; PIXELS], columns: usize, tile: usize, channels: usize) -> [__m512i; 4] {
    let mut values = [0i32; VALUES + 16];
    let own = (1u16 << channels) - 1;
    // SAFETY: by the caller's promise; a tile has at most `VALUES` values.
    unsafe {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        macro_rules! pixels {
            ($($m:literal)*) => {
                $(if $m < tile {
                    let mut sum = sums[$m][0];
                    macro_rules! column {
                        ($k:literal) => {
                            if $k < columns && $m + $k < PIXELS {
                                let from = _mm512_add_epi32(lanes, _mm512_set1_epi32(($k * channels) as i32));
                                sum = _mm512_add_epi32(sum, _mm512_permutexvar_epi32(from, sums[($m + $k) % PIXELS][0]));
                            }
                        };
                    }
                    column!(1); column!(2); column!(3); column!(4); column!(5); column!(6); column!(7); column!(8);
                    _mm512_mask_storeu_epi32(values.as_mut_ptr().add($m * channels).cast(), own, sum);
                })*
            };
        }
        pixels!(0 1 2 3 4 5 6 7 8 9 10 11 12);
        std::array::from_fn(|i| _mm512_loadu_si512(values.as_ptr().add(16 * i).cast()))
    }
}

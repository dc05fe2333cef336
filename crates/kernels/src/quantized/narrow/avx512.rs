//! The kernel with VNNI: weights are taken out of their bytes in registers, between multiplications.
//!
//! A weight is used where it lies in its byte, in the highest bits: as a byte it is 16 or 64 times what it means, and so
//! is the sum, which is brought down at last. Sums have room for the factor: others are not packed ([`super::leaves_room`]).

use std::arch::x86_64::*;

use super::block::{Block, Target};
use super::packed::{BUNDLE, LANES, LINE, TRIT_BIAS, Width};
use crate::quantized::epilogue::avx512::Clamp;
use crate::quantized::panelled::avx512::store_bytes;

/// Rows of sums held in registers, by two panels.
const ROWS: usize = 12;
/// Rows up to which four panels are computed at a time: sums enough to hide the latency of multiplications.
const FEW_ROWS: usize = 3;

/// How far ahead of a product with few rows its weights are asked for: they come from memory.
const AHEAD: usize = 4096;

const FOUR: usize = 0;
const TWO: usize = 1;
const TERNARY: usize = 2;

/// Weights in a byte.
const fn per_byte(width: usize) -> usize {
    [2, 4, 5][width]
}

/// The power of two that a weight is multiplied by in its byte.
const fn factor(width: usize) -> u32 {
    [4, 6, 6][width]
}

/// Computes a block.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI; the block has been checked; `target` may be written at the block's
/// columns of each of its rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn block(b: &Block<'_>, target: &Target<'_>) {
    // SAFETY: by the caller's promise.
    unsafe {
        match b.packed.width {
            Width::Four => block_of::<FOUR>(b, target),
            Width::Two => block_of::<TWO>(b, target),
            Width::Ternary => block_of::<TERNARY>(b, target),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn block_of<const W: usize>(b: &Block<'_>, target: &Target<'_>) {
    let mut panel = 0;
    while panel < b.panels {
        // A tile does not reach over two bundles, as these start at every fourth panel.
        let left = b.panels - panel;
        let panels = if left >= BUNDLE && b.rows <= FEW_ROWS { BUNDLE } else { left.min(2) };
        let tiles = b.rows.div_ceil(ROWS);
        let mut row = 0;
        for tile in 0..tiles {
            let rows = (b.rows - row).div_ceil(tiles - tile);
            let t = Tile { b, target, panel, row };
            macro_rules! rows {
                ($n:literal: $($m:literal)*) => {
                    match rows {
                        // SAFETY: `row` and `panel` lie inside the block, with as many after them.
                        $($m => unsafe { t.run::<$m, $n, W>() },)*
                        _ => unreachable!("a tile of {rows} rows"),
                    }
                };
            }
            match panels {
                4 => rows!(4: 1 2 3),
                2 => rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12),
                _ => rows!(1: 1 2 3 4 5 6 7 8 9 10 11 12),
            }
            row += rows;
        }
        panel += panels;
    }
}

struct Tile<'a> {
    b: &'a Block<'a>,
    target: &'a Target<'a>,
    /// Of the block.
    panel: usize,
    row: usize,
}

/// Takes the weights of the next step out of 64 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn take<const W: usize>(bytes: &mut __m512i) -> __m512i {
    match W {
        FOUR => {
            let weights = _mm512_and_si512(*bytes, _mm512_set1_epi8(0xf0u8 as i8));
            *bytes = _mm512_slli_epi16::<4>(*bytes);
            weights
        }
        TWO => {
            let weights = _mm512_and_si512(*bytes, _mm512_set1_epi8(0xc0u8 as i8));
            *bytes = _mm512_slli_epi16::<2>(*bytes);
            weights
        }
        _ => {
            let third = _mm512_avg_epu8(*bytes, _mm512_avg_epu8(*bytes, _mm512_set1_epi8(TRIT_BIAS as i8)));
            // (third ^ 0x80) & 0xc0
            let (flip, top) = (_mm512_set1_epi8(0x80u8 as i8), _mm512_set1_epi8(0xc0u8 as i8));
            *bytes = _mm512_add_epi8(*bytes, _mm512_add_epi8(*bytes, *bytes));
            _mm512_ternarylogic_epi32::<0x28>(third, flip, top)
        }
    }
}

impl Tile<'_> {
    /// # Safety
    /// `M` rows and `N` panels are inside the block, and the machine has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn run<const M: usize, const N: usize, const W: usize>(&self) {
        // SAFETY: all addresses are of `M` rows and `N` panels of the block, by the caller's promise.
        unsafe {
            let b = self.b;
            let p = b.packed;
            let weights = p.panels(b.panel + self.panel, N).as_ptr();
            let line_step = p.line_step(b.panel + self.panel);
            let a = b.a.as_ptr().add(self.row * b.stride);
            let column = (b.panel + self.panel) * LANES;
            let columns = (b.columns - column).min(N * LANES);
            match *self.target {
                Target::U8 { y, stride, to } => {
                    let mut sums = self.sums::<M, N, W>(a, (weights, line_step), b.bias.as_ptr().add(column));
                    let clamp = Clamp::new(to);
                    for n in 0..N {
                        let scale = _mm512_loadu_ps(b.scale.as_ptr().add(column + 16 * n));
                        for row in &mut sums {
                            row[n] = clamp.round(row[n], scale);
                        }
                    }
                    let y = y.add(self.row * stride + self.panel * LANES);
                    store_bytes::<M, N>(&sums, &clamp, y, stride, columns);
                }
                Target::F32 { y, stride } => {
                    let mut reals = [[_mm512_setzero_ps(); N]; M];
                    for group in 0..p.groups {
                        let at = p.place(group, column);
                        let a = a.add(group * b.group_step());
                        let weights = weights.add(group * p.lines * line_step);
                        let sums = self.sums::<M, N, W>(a, (weights, line_step), b.bias.as_ptr().add(at));
                        for n in 0..N {
                            let scale = _mm512_loadu_ps(b.scale.as_ptr().add(at + 16 * n));
                            for m in 0..M {
                                let real = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[m][n]), scale);
                                reals[m][n] = _mm512_add_ps(reals[m][n], real);
                            }
                        }
                    }
                    let y = y.add(self.row * stride + self.panel * LANES);
                    for n in 0..N {
                        let left = columns.saturating_sub(16 * n).min(16);
                        let mask = ((1u32 << left) - 1) as u16;
                        for m in 0..M {
                            _mm512_mask_storeu_ps(y.wrapping_add(m * stride + 16 * n), mask, reals[m][n]);
                        }
                    }
                }
            }
        }
    }

    /// The sums of one group, bias included.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn sums<const M: usize, const N: usize, const W: usize>(
        &self,
        a: *const u8,
        (weights, line_step): (*const i8, usize),
        bias: *const i32,
    ) -> [[__m512i; N]; M] {
        // SAFETY: see `run`.
        unsafe {
            let (stride, steps) = (self.b.stride, self.b.packed.steps);
            let mut sums = [[_mm512_setzero_si512(); N]; M];
            let (mut a, mut weights) = (a, weights);
            let line = |weights: *const i8| {
                let mut bytes = [_mm512_setzero_si512(); N];
                for n in 0..N {
                    if M <= FEW_ROWS {
                        _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(n * LINE + AHEAD));
                    }
                    bytes[n] = _mm512_load_si512(weights.add(n * LINE).cast());
                }
                bytes
            };
            let step = |sums: &mut [[__m512i; N]; M], bytes: &mut [__m512i; N], a: *const u8| {
                let mut w = [_mm512_setzero_si512(); N];
                for n in 0..N {
                    w[n] = take::<W>(&mut bytes[n]);
                }
                for m in 0..M {
                    let x = _mm512_set1_epi32(a.add(m * stride).cast::<i32>().read_unaligned());
                    for n in 0..N {
                        sums[m][n] = _mm512_dpbusd_epi32(sums[m][n], x, w[n]);
                    }
                }
            };
            // The steps of a line are not unrolled: the compiler would load the rows of all of them first, and run out of
            // registers.
            let mut left = steps;
            while left > 0 {
                let mut bytes = line(weights);
                let some = left.min(per_byte(W));
                for _ in 0..some {
                    step(&mut sums, &mut bytes, a);
                    a = a.add(4);
                }
                weights = weights.add(line_step);
                left -= some;
            }
            let down = _mm_cvtsi32_si128(factor(W) as i32);
            for n in 0..N {
                let bias = _mm512_loadu_si512(bias.add(16 * n).cast());
                for row in &mut sums {
                    row[n] = _mm512_add_epi32(_mm512_sra_epi32(row[n], down), bias);
                }
            }
            sums
        }
    }
}

//! The kernel with AVX2: bytes times bytes in pairs, exact because few-bit weights leave room in sixteen bits.
//!
//! A pair of products of a byte by weights of −8 … 7 is at most 4,080, so eight of them can be summed in sixteen bits
//! before they must be widened; of −1 … 1, sixty-four. The kernel of eight-bit weights has no such room and does twice
//! the work.

use std::arch::x86_64::*;

use super::block::{Block, Target};
use super::packed::{LANES, TRIT_BIAS, Width};
use crate::quantized::epilogue::avx2::Clamp;

/// Rows of sums held in registers, by one panel.
const ROWS: usize = 4;

const FOUR: usize = 0;
const TWO: usize = 1;
const TERNARY: usize = 2;

/// Weights in a byte.
const fn per_byte(width: usize) -> usize {
    [2, 4, 5][width]
}

/// Lines whose pairs can be summed in sixteen bits: 8, 32 and 60 steps.
const fn lines(width: usize) -> usize {
    [4, 8, 12][width]
}

/// Computes a block.
///
/// # Safety
/// The machine has AVX2; the block has been checked; `target` may be written at the block's columns of each of its rows.
#[target_feature(enable = "avx2")]
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

#[target_feature(enable = "avx2")]
unsafe fn block_of<const W: usize>(b: &Block<'_>, target: &Target<'_>) {
    for panel in 0..b.panels {
        let mut row = 0;
        while row < b.rows {
            let t = Tile { b, target, panel, row };
            let rows = ROWS.min(b.rows - row);
            // SAFETY: `row` and `panel` lie inside the block, with as many rows after them.
            unsafe {
                match rows {
                    4 => t.run::<4, W>(),
                    3 => t.run::<3, W>(),
                    2 => t.run::<2, W>(),
                    _ => t.run::<1, W>(),
                }
            }
            row += rows;
        }
    }
}

struct Tile<'a> {
    b: &'a Block<'a>,
    target: &'a Target<'a>,
    /// Of the block.
    panel: usize,
    row: usize,
}

/// Takes the weights of the next step out of 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn take<const W: usize>(bytes: &mut __m256i) -> __m256i {
    let table = |values: __m128i, top: __m256i, bits: i32| {
        let mask = _mm256_set1_epi8(((1 << bits) - 1) as i8);
        let index = _mm256_and_si256(_mm256_srl_epi16(top, _mm_cvtsi32_si128(8 - bits)), mask);
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), index)
    };
    match W {
        FOUR => {
            let values = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
            let weights = table(values, *bytes, 4);
            *bytes = _mm256_slli_epi16::<4>(*bytes);
            weights
        }
        TWO => {
            let weights = table(_mm_setr_epi8(0, 1, -2, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), *bytes, 2);
            *bytes = _mm256_slli_epi16::<2>(*bytes);
            weights
        }
        _ => {
            let third = _mm256_avg_epu8(*bytes, _mm256_avg_epu8(*bytes, _mm256_set1_epi8(TRIT_BIAS as i8)));
            *bytes = _mm256_add_epi8(*bytes, _mm256_add_epi8(*bytes, *bytes));
            table(_mm_setr_epi8(0, -1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), third, 2)
        }
    }
}

impl Tile<'_> {
    /// # Safety
    /// `M` rows and the panel are inside the block, and the machine has the instructions.
    #[target_feature(enable = "avx2")]
    unsafe fn run<const M: usize, const W: usize>(&self) {
        // SAFETY: all addresses are of `M` rows and one panel of the block, by the caller's promise.
        unsafe {
            let b = self.b;
            let p = b.packed;
            let weights = p.panels(b.panel + self.panel, 1).as_ptr();
            let line_step = p.line_step(b.panel + self.panel);
            let a = b.a.as_ptr().add(self.row * b.stride);
            let column = (b.panel + self.panel) * LANES;
            let columns = (b.columns - column).min(LANES);
            let mut reals = [[_mm256_setzero_ps(); 2]; M];
            for group in 0..p.groups {
                let at = p.place(group, column);
                let a = a.add(group * b.group_step());
                let weights = (weights.add(group * p.lines * line_step), line_step);
                let sums = self.sums::<M, W>(a, weights, b.bias.as_ptr().add(at));
                let scale = [0, 8].map(|n| _mm256_loadu_ps(b.scale.as_ptr().add(at + n)));
                if let Target::U8 { y, stride, to } = *self.target {
                    let clamp = Clamp::new(to);
                    for m in 0..M {
                        let values = [clamp.round(sums[m][0], scale[0]), clamp.round(sums[m][1], scale[1])];
                        let bytes = clamp.narrow([values[0], values[1], values[0], values[1]]);
                        let bytes = _mm256_castsi256_si128(bytes);
                        let y = y.add((self.row + m) * stride + self.panel * LANES);
                        if columns == LANES {
                            _mm_storeu_si128(y.cast(), bytes);
                        } else {
                            let mut whole = [0u8; LANES];
                            _mm_storeu_si128(whole.as_mut_ptr().cast(), bytes);
                            std::ptr::copy_nonoverlapping(whole.as_ptr(), y, columns);
                        }
                    }
                    return;
                }
                for n in 0..2 {
                    for m in 0..M {
                        let real = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[m][n]), scale[n]);
                        reals[m][n] = _mm256_add_ps(reals[m][n], real);
                    }
                }
            }
            let Target::F32 { y, stride } = *self.target else { return };
            for n in 0..2 {
                let left = columns.saturating_sub(8 * n).min(8) as i32;
                let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), numbers);
                for m in 0..M {
                    let y = y.add((self.row + m) * stride).wrapping_add(self.panel * LANES + 8 * n);
                    _mm256_maskstore_ps(y, mask, reals[m][n]);
                }
            }
        }
    }

    /// The sums of one group, bias included.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sums<const M: usize, const W: usize>(
        &self,
        a: *const u8,
        (weights, line_step): (*const i8, usize),
        bias: *const i32,
    ) -> [[__m256i; 2]; M] {
        // SAFETY: see `run`.
        unsafe {
            let (stride, steps) = (self.b.stride, self.b.packed.steps);
            let bias = [0, 8].map(|n| _mm256_loadu_si256(bias.add(n).cast()));
            let mut sums = [bias; M];
            let (mut a, mut weights, mut left) = (a, weights, steps);
            while left > 0 {
                let mut pairs = [[_mm256_setzero_si256(); 2]; M];
                for _ in 0..lines(W) {
                    let mut bytes = [0, 32].map(|n| _mm256_load_si256(weights.add(n).cast()));
                    for _ in 0..per_byte(W).min(left) {
                        let w = [take::<W>(&mut bytes[0]), take::<W>(&mut bytes[1])];
                        for m in 0..M {
                            let x = _mm256_set1_epi32(a.add(m * stride).cast::<i32>().read_unaligned());
                            for n in 0..2 {
                                pairs[m][n] = _mm256_add_epi16(pairs[m][n], _mm256_maddubs_epi16(x, w[n]));
                            }
                        }
                        a = a.add(4);
                    }
                    left -= per_byte(W).min(left);
                    weights = weights.add(line_step);
                    if left == 0 {
                        break;
                    }
                }
                let one = _mm256_set1_epi16(1);
                for m in 0..M {
                    for n in 0..2 {
                        sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_madd_epi16(pairs[m][n], one));
                    }
                }
            }
            sums
        }
    }
}

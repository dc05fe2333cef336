//! The kernels with NEON: weights spread to bytes are multiplied as the kernels of eight bits do, four by four (`sdot`) or
//! eight by eight (`usmmla`). Without these instructions bytes are multiplied one by one into sixteen bits, where few-bit
//! weights leave room for many sums: twice what the kernel of eight bits does in an instruction.

use std::arch::aarch64::*;
use std::arch::asm;

use super::block::{Block, Target};
use super::packed::LANES;
use super::spread::{self, FOUR, Lines, Multiply, Rows, STRETCH, TERNARY, TWO, per_byte};
use crate::quantized::conv::neon::{halves, usmmla};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::neon::Clamp;

/// Vectors of a panel: of weights of a step, or of sums.
const VECTORS: usize = 4;
/// Bytes of the weights of a step.
const STEP: usize = 16 * VECTORS;

/// Computes a block.
///
/// # Safety
/// The machine has NEON; the block has been checked; `target` may be written at the block's columns of each of its rows.
#[target_feature(enable = "neon")]
pub(super) unsafe fn block(b: &Block<'_>, target: &Target<'_>) {
    // SAFETY: by the caller's promise.
    unsafe { spread::block::<Words, { STRETCH * STEP }>(b, target) }
}

/// Computes a block.
///
/// # Safety
/// As [`block`], and the machine has dot products.
#[target_feature(enable = "neon")]
pub(super) unsafe fn block_dot(b: &Block<'_>, target: &Target<'_>) {
    // SAFETY: by the caller's promise.
    unsafe { spread::block::<Dot, { STRETCH * STEP }>(b, target) }
}

/// Computes a block.
///
/// # Safety
/// As [`block`], and the machine has the matrix product of bytes.
#[target_feature(enable = "neon")]
pub(super) unsafe fn block_i8mm(b: &Block<'_>, target: &Target<'_>) {
    // SAFETY: by the caller's promise.
    unsafe { spread::block::<I8mm, { STRETCH * STEP }>(b, target) }
}

/// Declares a kernel of the walk.
macro_rules! multiply {
    ($(#[$doc:meta])* $name:ident, $few_rows:literal, $rows:literal, $down:expr, $few:path, $spread:path, $add:path) => {
        $(#[$doc])*
        struct $name;

        impl Multiply for $name {
            const FEW: usize = $few_rows;
            const ROWS: usize = $rows;
            const STEP: usize = STEP;
            const DOWN: [u32; 3] = $down;

            #[inline(always)]
            unsafe fn few<const M: usize, const W: usize>(rows: Rows, lines: Lines) -> [[i32; LANES]; M] {
                // SAFETY: by the caller's promise.
                unsafe { $few(rows, lines) }
            }

            #[inline(always)]
            unsafe fn spread<const W: usize>(lines: Lines, steps: usize, to: *mut i8) {
                // SAFETY: by the caller's promise.
                unsafe { $spread(lines, steps, to) }
            }

            #[inline(always)]
            unsafe fn add<const M: usize, const W: usize>(rows: Rows, weights: *const i8, sums: *mut [i32; LANES]) {
                // SAFETY: by the caller's promise.
                unsafe { $add(rows, weights, sums) }
            }

            #[inline(always)]
            unsafe fn reals(sums: &[i32; LANES], scale: *const f32, reals: &mut [f32; LANES]) {
                // SAFETY: by the caller's promise.
                unsafe { real(sums, scale, reals) }
            }

            #[inline(always)]
            unsafe fn bytes(sums: &[i32; LANES], scale: *const f32, to: &Requantize) -> [u8; LANES] {
                // SAFETY: by the caller's promise.
                unsafe { byte(sums, scale, to) }
            }
        }
    };
}

multiply! {
    /// Products of bytes in sixteen bits.
    Words, 1, 2, [0; 3], few_words::<M, W>, spread_to::<W, true>, words::<M, W>
}
multiply! {
    /// Four products of signed bytes in one instruction.
    Dot, 4, 4, DOWN, few_dot::<M, W, false>, spread_to::<W, false>, dot::<M>
}
multiply! {
    /// Eight products of bytes for each of four sums in one instruction.
    I8mm, 4, 4, DOWN, few_dot::<M, W, true>, spread_pairs::<W>, i8mm::<M>
}

/// How many bits up [`Unpack::steps`] leaves weights in their bytes where sums have room for it.
const DOWN: [u32; 3] = [4, 6, 0];

/// What it takes to take ternary weights out of their bytes.
struct Unpack {
    /// Of what is above the byte after multiplying by 27: its first three digits, each less one.
    three: [int8x16x2_t; 3],
    /// Of what is above the byte after multiplying by 9: its next two digits, each less one.
    two: [int8x16_t; 2],
}

/// A table of the digit to base three with this factor, less one, of 0 …
const fn digits(factor: usize) -> [i8; 32] {
    let mut digits = [0; 32];
    let mut i = 0;
    while i < 32 {
        digits[i] = (i / factor % 3) as i8 - 1;
        i += 1;
    }
    digits
}

impl Unpack {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new() -> Unpack {
        static DIGITS: [[i8; 32]; 3] = [digits(9), digits(3), digits(1)];
        // SAFETY: 32 bytes are read from each table, or 16.
        unsafe {
            Unpack {
                three: [0, 1, 2].map(|i| vld1q_s8_x2(DIGITS[i].as_ptr())),
                two: [1, 2].map(|i| vld1q_s8(DIGITS[i].as_ptr())),
            }
        }
    }

    /// The weights of the steps in 16 bytes, one after the other: what they mean if `SMALL`, else `2^DOWN` times that.
    #[inline]
    #[target_feature(enable = "neon")]
    fn steps<const W: usize, const SMALL: bool>(&self, bytes: uint8x16_t) -> [int8x16_t; 5] {
        let zero = vdupq_n_s8(0);
        let signed = |bytes: uint8x16_t| vreinterpretq_s8_u8(bytes);
        match W {
            FOUR => {
                let (first, second) = (bytes, vshlq_n_u8::<4>(bytes));
                if SMALL {
                    [vshrq_n_s8::<4>(signed(first)), vshrq_n_s8::<4>(signed(second)), zero, zero, zero]
                } else {
                    [signed(vandq_u8(first, vdupq_n_u8(0xf0))), signed(second), zero, zero, zero]
                }
            }
            TWO => {
                let tops = [bytes, vshlq_n_u8::<2>(bytes), vshlq_n_u8::<4>(bytes), vshlq_n_u8::<6>(bytes)];
                let [a, b, c, d] = if SMALL {
                    tops.map(|top| vshrq_n_s8::<6>(signed(top)))
                } else {
                    let mask = vdupq_n_u8(0xc0);
                    [vandq_u8(tops[0], mask), vandq_u8(tops[1], mask), vandq_u8(tops[2], mask), tops[3]].map(signed)
                };
                [a, b, c, d, zero]
            }
            _ => {
                // A byte is a fraction of 256 to base three; products with powers of three have whole digits above the byte
                // and leave the other digits in it.
                let split = |bytes: uint8x16_t, factor: u8| {
                    let low = vmull_u8(vget_low_u8(bytes), vdup_n_u8(factor));
                    let high = vmull_high_u8(bytes, vdupq_n_u8(factor));
                    let (low, high) = (vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
                    (vuzp2q_u8(low, high), vuzp1q_u8(low, high))
                };
                let (three, rest) = split(bytes, 27);
                let (two, _) = split(rest, 9);
                let [a, b, c] = self.three;
                [
                    vqtbl2q_s8(a, three),
                    vqtbl2q_s8(b, three),
                    vqtbl2q_s8(c, three),
                    vqtbl1q_s8(self.two[0], two),
                    vqtbl1q_s8(self.two[1], two),
                ]
            }
        }
    }
}

/// Spreads lines to `[step][column][tap]`.
#[target_feature(enable = "neon")]
unsafe fn spread_to<const W: usize, const SMALL: bool>(lines: Lines, steps: usize, to: *mut i8) {
    // SAFETY: the lines and the room for a stretch are there, by the caller's promise.
    unsafe {
        let unpack = Unpack::new();
        for line in 0..steps.div_ceil(per_byte(W)) {
            for n in 0..VECTORS {
                let bytes = vreinterpretq_u8_s8(vld1q_s8(lines.first.add(line * lines.step + 16 * n)));
                let weights = unpack.steps::<W, SMALL>(bytes);
                for (i, weights) in weights[..per_byte(W)].iter().enumerate() {
                    vst1q_s8(to.add((line * per_byte(W) + i) * STEP + 16 * n), *weights);
                }
            }
        }
    }
}

/// Spreads lines to `[two steps][column][tap of eight]`.
#[target_feature(enable = "neon")]
unsafe fn spread_pairs<const W: usize>(lines: Lines, steps: usize, to: *mut i8) {
    // SAFETY: as above; a stretch is of whole pairs.
    unsafe {
        spread_to::<W, false>(lines, steps, to);
        for pair in 0..steps.div_ceil(2) {
            let pair = to.add(2 * STEP * pair).cast::<u32>();
            let mut both = [uint32x4x2_t(vdupq_n_u32(0), vdupq_n_u32(0)); VECTORS];
            for n in 0..VECTORS {
                both[n] = uint32x4x2_t(vld1q_u32(pair.add(4 * n)), vld1q_u32(pair.add(4 * (VECTORS + n))));
            }
            for n in 0..VECTORS {
                vst2q_u32(pair.add(8 * n), both[n]);
            }
        }
    }
}

/// Four products of each lane of `w` with lane `LANE` of `x`, added to `sum`. `x` is unsigned with `MIXED`.
///
/// # Safety
/// The machine has dot products; with `MIXED`, the matrix product of bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn products<const LANE: usize, const MIXED: bool>(sum: int32x4_t, w: int8x16_t, x: uint8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the instructions only read and write their registers; the machine has them, by the caller's promise.
    unsafe {
        if MIXED {
            asm!(
                ".arch_extension i8mm",
                "sudot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        } else {
            asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    sum
}

/// Sums of `M` rows by a panel, weights taken out of their bytes in registers.
#[target_feature(enable = "neon")]
unsafe fn few_dot<const M: usize, const W: usize, const MIXED: bool>(rows: Rows, lines: Lines) -> [[i32; LANES]; M] {
    // SAFETY: rows and lines are as long as `rows.steps` says, by the caller's promise.
    unsafe {
        let unpack = Unpack::new();
        // What makes bytes signed, or leaves them alone.
        let flip = vdupq_n_u8(if MIXED { 0 } else { 128 });
        let last = last_line::<M, W>(rows);
        let whole_lines = rows.steps / per_byte(W);
        let mut sums = [[vdupq_n_s32(0); VECTORS]; M];
        for line in 0..rows.steps.div_ceil(per_byte(W)) {
            let (a, stride) = if line < whole_lines {
                (rows.a.add(4 * per_byte(W) * line), rows.stride)
            } else {
                (last.as_ptr().cast(), last[0].len())
            };
            // The first four words of a row, and the fifth.
            let mut x = [[vdupq_n_u8(0); 2]; M];
            for m in 0..M {
                let a = a.add(m * stride);
                let words = if W == FOUR { vcombine_u8(vld1_u8(a), vdup_n_u8(0)) } else { vld1q_u8(a) };
                x[m][0] = veorq_u8(words, flip);
                if W == TERNARY {
                    let fifth = a.add(16).cast::<u32>().read_unaligned();
                    x[m][1] = veorq_u8(vreinterpretq_u8_u32(vdupq_n_u32(fifth)), flip);
                }
            }
            let bytes = lines.first.add(line * lines.step);
            for n in 0..VECTORS {
                let w = unpack.steps::<W, false>(vreinterpretq_u8_s8(vld1q_s8(bytes.add(16 * n))));
                for m in 0..M {
                    let mut sum = sums[m][n];
                    sum = products::<0, MIXED>(sum, w[0], x[m][0]);
                    sum = products::<1, MIXED>(sum, w[1], x[m][0]);
                    if W != FOUR {
                        sum = products::<2, MIXED>(sum, w[2], x[m][0]);
                        sum = products::<3, MIXED>(sum, w[3], x[m][0]);
                    }
                    if W == TERNARY {
                        sum = products::<0, MIXED>(sum, w[4], x[m][1]);
                    }
                    sums[m][n] = sum;
                }
            }
        }
        let mut whole = [[0; LANES]; M];
        store::<M>(whole.as_mut_ptr(), &sums);
        whole
    }
}

/// What rows have of a line that they do not fill, followed by anything: the weights of steps that are not there are zeros.
#[inline]
unsafe fn last_line<const M: usize, const W: usize>(rows: Rows) -> [[u8; 20]; M] {
    let mut last = [[0; 20]; M];
    let steps = rows.steps % per_byte(W);
    for (m, last) in last.iter_mut().enumerate() {
        // SAFETY: rows have so many steps, and a line has at most five.
        unsafe {
            let from = rows.a.add(m * rows.stride + 4 * (rows.steps - steps));
            std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), 4 * steps);
        }
    }
    last
}

/// Adds the products of `M` rows and spread weights to sums.
#[target_feature(enable = "neon")]
unsafe fn dot<const M: usize>(rows: Rows, weights: *const i8, sums: *mut [i32; LANES]) {
    // SAFETY: rows and weights are as long as `rows.steps` says, by the caller's promise.
    unsafe {
        let half = vdupq_n_u8(128);
        let mut all = load::<M>(sums);
        let (mut a, mut weights) = (rows.a, weights);
        let mut x = [vdupq_n_u8(0); M];
        macro_rules! step {
            ($($lane:literal)*) => {$({
                for n in 0..VECTORS {
                    let w = vld1q_s8(weights.add(16 * n));
                    for m in 0..M {
                        all[m][n] = products::<$lane, false>(all[m][n], w, x[m]);
                    }
                }
                weights = weights.add(STEP);
            })*};
        }
        for _ in 0..rows.steps / 4 {
            for m in 0..M {
                x[m] = veorq_u8(vld1q_u8(a.add(m * rows.stride)), half);
            }
            step!(0 1 2 3);
            a = a.add(16);
        }
        for _ in 0..rows.steps % 4 {
            for m in 0..M {
                let four = a.add(m * rows.stride).cast::<u32>().read_unaligned();
                x[m] = veorq_u8(vreinterpretq_u8_u32(vdupq_n_u32(four)), half);
            }
            step!(0);
            a = a.add(4);
        }
        store::<M>(sums, &all);
    }
}

/// Adds the products of `M` rows and weights spread in pairs of steps to sums.
#[target_feature(enable = "neon,i8mm")]
unsafe fn i8mm<const M: usize>(rows: Rows, weights: *const i8, sums: *mut [i32; LANES]) {
    // SAFETY: rows and weights are as long as `rows.steps` says, by the caller's promise.
    unsafe {
        // Pairs of rows by pairs of columns; an odd last row is paired with itself.
        let pairs = M.div_ceil(2);
        let second = |pair: usize| (2 * pair + 1).min(M - 1);
        let mut all = load::<M>(sums);
        let mut squares = [[vdupq_n_s32(0); 2 * VECTORS]; 2];
        for pair in 0..pairs {
            for n in 0..VECTORS {
                let [low, high] = halves(all[2 * pair][n], all[second(pair)][n]);
                (squares[pair][2 * n], squares[pair][2 * n + 1]) = (low, high);
            }
        }
        let (mut a, mut weights) = (rows.a, weights);
        let mut x = [vdupq_n_u8(0); 2];
        macro_rules! step {
            ($x:expr) => {{
                for i in 0..2 * VECTORS {
                    let w = vld1q_s8(weights.add(16 * i));
                    for pair in 0..pairs {
                        squares[pair][i] = usmmla(squares[pair][i], $x[pair], w);
                    }
                }
                weights = weights.add(2 * STEP);
            }};
        }
        for _ in 0..rows.steps / 4 {
            let mut next = x;
            for pair in 0..pairs {
                let one = vreinterpretq_s32_u8(vld1q_u8(a.add(2 * pair * rows.stride)));
                let two = vreinterpretq_s32_u8(vld1q_u8(a.add(second(pair) * rows.stride)));
                let [low, high] = halves(one, two);
                (x[pair], next[pair]) = (vreinterpretq_u8_s32(low), vreinterpretq_u8_s32(high));
            }
            step!(x);
            step!(next);
            a = a.add(16);
        }
        for left in [rows.steps % 4, (rows.steps % 4).saturating_sub(2)] {
            if left == 0 {
                break;
            }
            // Of the last step's second half, zeros meet whatever lies there.
            let half = |row: usize| {
                let a = a.add(row * rows.stride);
                if left == 1 { vcreate_u8(u64::from(a.cast::<u32>().read_unaligned())) } else { vld1_u8(a) }
            };
            for pair in 0..pairs {
                x[pair] = vcombine_u8(half(2 * pair), half(second(pair)));
            }
            step!(x);
            a = a.add(8);
        }
        for m in 0..M {
            for n in 0..VECTORS {
                all[m][n] = halves(squares[m / 2][2 * n], squares[m / 2][2 * n + 1])[m % 2];
            }
        }
        store::<M>(sums, &all);
    }
}

/// Steps whose products a sum of sixteen bits holds: of −128 … 127 by weights of −8 … 7, 31; by smaller ones, more than a
/// stretch has.
const fn room(width: usize) -> usize {
    if width == FOUR { 28 } else { STRETCH }
}

/// Sums in sixteen bits of `M` rows by a panel: of every column four, one for each tap.
type Shorts<const M: usize> = [[int16x8_t; 2 * VECTORS]; M];

/// Adds the products of a step; `x` has the row's word in every lane.
#[inline]
#[target_feature(enable = "neon")]
fn shorts(sums: &mut [int16x8_t; 2 * VECTORS], n: usize, w: int8x16_t, x: int8x16_t) {
    sums[2 * n] = vmlal_s8(sums[2 * n], vget_low_s8(w), vget_low_s8(x));
    sums[2 * n + 1] = vmlal_high_s8(sums[2 * n + 1], w, x);
}

/// Moves sums of sixteen bits into those of 32.
#[inline]
#[target_feature(enable = "neon")]
fn widen<const M: usize>(sums: &mut [[int32x4_t; VECTORS]; M], shorts: &mut Shorts<M>) {
    for m in 0..M {
        for n in 0..VECTORS {
            let taps = [0, 1].map(|i| vpaddlq_s16(shorts[m][2 * n + i]));
            sums[m][n] = vaddq_s32(sums[m][n], vpaddq_s32(taps[0], taps[1]));
        }
        shorts[m] = [vdupq_n_s16(0); 2 * VECTORS];
    }
}

/// Adds the products of `M` rows and spread weights to sums.
#[target_feature(enable = "neon")]
unsafe fn words<const M: usize, const W: usize>(rows: Rows, weights: *const i8, sums: *mut [i32; LANES]) {
    // SAFETY: rows and weights are as long as `rows.steps` says, by the caller's promise.
    unsafe {
        let half = vdupq_n_u8(128);
        let mut all = load::<M>(sums);
        let mut sixteen = [[vdupq_n_s16(0); 2 * VECTORS]; M];
        let (mut a, mut weights, mut left) = (rows.a, weights, rows.steps);
        let mut x = [vdupq_n_s32(0); M];
        macro_rules! step {
            ($($lane:literal)*) => {$({
                let mut each = [vdupq_n_s8(0); M];
                for m in 0..M {
                    each[m] = vreinterpretq_s8_s32(vdupq_laneq_s32::<$lane>(x[m]));
                }
                for n in 0..VECTORS {
                    let w = vld1q_s8(weights.add(16 * n));
                    for m in 0..M {
                        shorts(&mut sixteen[m], n, w, each[m]);
                    }
                }
                weights = weights.add(STEP);
            })*};
        }
        while left > 0 {
            let some = left.min(room(W));
            for _ in 0..some / 4 {
                for m in 0..M {
                    x[m] = vreinterpretq_s32_u8(veorq_u8(vld1q_u8(a.add(m * rows.stride)), half));
                }
                step!(0 1 2 3);
                a = a.add(16);
            }
            for _ in 0..some % 4 {
                for m in 0..M {
                    let four = a.add(m * rows.stride).cast::<u32>().read_unaligned();
                    x[m] = vreinterpretq_s32_u8(veorq_u8(vreinterpretq_u8_u32(vdupq_n_u32(four)), half));
                }
                step!(0);
                a = a.add(4);
            }
            widen(&mut all, &mut sixteen);
            left -= some;
        }
        store::<M>(sums, &all);
    }
}

/// Sums of `M` rows by a panel, weights taken out of their bytes in registers.
#[target_feature(enable = "neon")]
unsafe fn few_words<const M: usize, const W: usize>(rows: Rows, lines: Lines) -> [[i32; LANES]; M] {
    // SAFETY: rows and lines are as long as `rows.steps` says, by the caller's promise.
    unsafe {
        let unpack = Unpack::new();
        let half = vdupq_n_u8(128);
        let last = last_line::<M, W>(rows);
        let (whole_lines, all_lines) = (rows.steps / per_byte(W), rows.steps.div_ceil(per_byte(W)));
        let mut all = [[vdupq_n_s32(0); VECTORS]; M];
        let mut sixteen = [[vdupq_n_s16(0); 2 * VECTORS]; M];
        for first in (0..all_lines).step_by(room(W) / per_byte(W)) {
            for line in first..all_lines.min(first + room(W) / per_byte(W)) {
                let (a, stride) = if line < whole_lines {
                    (rows.a.add(4 * per_byte(W) * line), rows.stride)
                } else {
                    (last.as_ptr().cast(), last[0].len())
                };
                let bytes = lines.first.add(line * lines.step);
                for n in 0..VECTORS {
                    let w = unpack.steps::<W, true>(vreinterpretq_u8_s8(vld1q_s8(bytes.add(16 * n))));
                    for m in 0..M {
                        for i in 0..per_byte(W) {
                            let x = vreinterpretq_u8_u32(vld1q_dup_u32(a.add(m * stride + 4 * i).cast()));
                            shorts(&mut sixteen[m], n, w[i], vreinterpretq_s8_u8(veorq_u8(x, half)));
                        }
                    }
                }
            }
            widen(&mut all, &mut sixteen);
        }
        let mut whole = [[0; LANES]; M];
        store::<M>(whole.as_mut_ptr(), &all);
        whole
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn load<const M: usize>(sums: *const [i32; LANES]) -> [[int32x4_t; VECTORS]; M] {
    let mut all = [[vdupq_n_s32(0); VECTORS]; M];
    for m in 0..M {
        for n in 0..VECTORS {
            // SAFETY: there are `M` rows of sums.
            all[m][n] = unsafe { vld1q_s32(sums.add(m).cast::<i32>().add(4 * n)) };
        }
    }
    all
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn store<const M: usize>(sums: *mut [i32; LANES], all: &[[int32x4_t; VECTORS]; M]) {
    for m in 0..M {
        for n in 0..VECTORS {
            // SAFETY: there are `M` rows of sums.
            unsafe { vst1q_s32(sums.add(m).cast::<i32>().add(4 * n), all[m][n]) };
        }
    }
}

/// Adds `f32(sum) ⊗ scale`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn real(sums: &[i32; LANES], scale: *const f32, reals: &mut [f32; LANES]) {
    for n in (0..LANES).step_by(4) {
        // SAFETY: there are sixteen of each.
        unsafe {
            let sum = vcvtq_f32_s32(vld1q_s32(sums.as_ptr().add(n)));
            let product = vmulq_f32(sum, vld1q_f32(scale.add(n)));
            vst1q_f32(reals.as_mut_ptr().add(n), vaddq_f32(vld1q_f32(reals.as_ptr().add(n)), product));
        }
    }
}

/// Requantizes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn byte(sums: &[i32; LANES], scale: *const f32, to: &Requantize) -> [u8; LANES] {
    let clamp = Clamp::new(to);
    let mut bytes = [0; LANES];
    // SAFETY: there are sixteen of each.
    unsafe {
        let round = |n: usize| clamp.round(vld1q_s32(sums.as_ptr().add(4 * n)), vld1q_f32(scale.add(4 * n)));
        vst1_u8(bytes.as_mut_ptr(), clamp.narrow(round(0), round(1)));
        vst1_u8(bytes.as_mut_ptr().add(8), clamp.narrow(round(2), round(3)));
    }
    bytes
}

//! The matrix kernels with NEON: 8 rows by 8 columns of sums.
//!
//! Three ways to multiply: widened to 16 bits, four products of one column (`sdot`, for which inputs are made signed by
//! taking 128 from them), eight products of two rows and two columns (`usmmla`).

use std::arch::aarch64::*;
use std::arch::asm;

use super::panels::{Block, Target};
use super::walk::{self, Micro, Tile};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::neon::Clamp;

/// Computes a block.
///
/// # Safety
/// The machine has NEON; the block's slices hold what its sizes say; `y` may be written at the block's columns of each
/// of its rows, `y_stride` apart.
#[target_feature(enable = "neon")]
pub(super) unsafe fn block(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    // SAFETY: by the caller's promise.
    unsafe { walk::block::<Words>(b, y, y_stride) }
}

/// Computes a block.
///
/// # Safety
/// As [`block`], and the machine has dot products.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn block_dot(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    // SAFETY: by the caller's promise.
    unsafe { walk::block::<Dot>(b, y, y_stride) }
}

/// Computes a block.
///
/// # Safety
/// As [`block`], and the machine has the matrix product of bytes.
#[target_feature(enable = "neon,i8mm")]
pub(super) unsafe fn block_i8mm(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    // SAFETY: by the caller's promise.
    unsafe { walk::block::<I8mm>(b, y, y_stride) }
}

/// Declares a kernel of the walk.
macro_rules! micro {
    ($(#[$doc:meta])* $name:ident, $weight:literal, $tile:ident) => {
        $(#[$doc])*
        struct $name;

        impl Micro for $name {
            const ROWS: usize = 8;
            const LANES: usize = 4;
            const WEIGHT: usize = $weight;

            #[inline(always)]
            unsafe fn tile<const M: usize, const N: usize>(tile: &Tile<'_>) {
                // SAFETY: by the caller's promise.
                unsafe { $tile::<M, N>(tile) }
            }
        }
    };
}

micro! {
    /// Products of 16-bit numbers.
    Words, 4, words
}
micro! {
    /// Four products of signed bytes in one instruction.
    Dot, 4, dot
}
micro! {
    /// Eight products of bytes for each of four sums in one instruction.
    I8mm, 8, i8mm
}

/// # Safety
/// See [`Micro::tile`].
#[target_feature(enable = "neon")]
unsafe fn words<const M: usize, const N: usize>(tile: &Tile<'_>) {
    // SAFETY: all addresses are of `M` rows and `N` vectors of the block, by the caller's promise.
    unsafe {
        let mut sums = bias::<M, N>(tile);
        let (mut a, mut weights) = (tile.a, tile.weights);
        let mut x = [vdupq_n_s16(0); M];
        /// Adds the products of four taps, those in lanes `$lane` of `x`, with the weights from `$weights` on.
        macro_rules! step {
            ($weights:expr, $($lane:literal)*) => {{
                if N == 2 {
                    $({
                        let w = vmovl_s8(vld1_s8($weights.add(8 * ($lane % 4))));
                        for m in 0..M {
                            sums[m][0] = vmlal_laneq_s16::<$lane>(sums[m][0], vget_low_s16(w), x[m]);
                            sums[m][N - 1] = vmlal_high_laneq_s16::<$lane>(sums[m][N - 1], w, x[m]);
                        }
                    })*
                } else {
                    let mut w = [vdup_n_s16(0); 4];
                    for i in 0..2 {
                        let pair = vmovl_s8(vld1_s8($weights.add(8 * i)));
                        (w[2 * i], w[2 * i + 1]) = (vget_low_s16(pair), vget_high_s16(pair));
                    }
                    $(for m in 0..M {
                        sums[m][0] = vmlal_laneq_s16::<$lane>(sums[m][0], w[$lane % 4], x[m]);
                    })*
                }
            }};
        }
        for _ in 0..tile.steps / 2 {
            for m in 0..M {
                x[m] = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(a.add(m * tile.stride))));
            }
            step!(weights, 0 1 2 3);
            step!(weights.add(16 * N), 4 5 6 7);
            a = a.add(8);
            weights = weights.add(32 * N);
        }
        if tile.steps % 2 == 1 {
            for m in 0..M {
                let four = a.add(m * tile.stride).cast::<u32>().read_unaligned();
                x[m] = vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(u64::from(four))));
            }
            step!(weights, 0 1 2 3);
        }
        store(tile, &sums);
    }
}

/// Four products of each lane of `w` with lane `LANE` of `x`, added to `sum`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: usize>(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the instruction only reads and writes its registers, and the function is compiled for machines that have it.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// # Safety
/// See [`Micro::tile`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot<const M: usize, const N: usize>(tile: &Tile<'_>) {
    // SAFETY: all addresses are of `M` rows and `N` vectors of the block, by the caller's promise.
    unsafe {
        let half = vdupq_n_u8(128);
        let mut sums = bias::<M, N>(tile);
        let (mut a, mut weights) = (tile.a, tile.weights);
        let mut x = [vdupq_n_s8(0); M];
        macro_rules! step {
            ($($lane:literal)*) => {$({
                let mut w = [vdupq_n_s8(0); N];
                for n in 0..N {
                    w[n] = vld1q_s8(weights.add(16 * n));
                }
                weights = weights.add(16 * N);
                for m in 0..M {
                    for n in 0..N {
                        sums[m][n] = sdot::<$lane>(sums[m][n], w[n], x[m]);
                    }
                }
            })*};
        }
        for _ in 0..tile.steps / 4 {
            for m in 0..M {
                x[m] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a.add(m * tile.stride)), half));
            }
            step!(0 1 2 3);
            a = a.add(16);
        }
        for _ in 0..tile.steps % 4 {
            for m in 0..M {
                let four = vdupq_n_u32(a.add(m * tile.stride).cast::<u32>().read_unaligned());
                x[m] = vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u32(four), half));
            }
            step!(0);
            a = a.add(4);
        }
        store(tile, &sums);
    }
}

/// Adds the products of two rows of eight unsigned bytes with two columns of eight signed ones:
/// `[row 0 · column 0, row 0 · column 1, row 1 · column 0, row 1 · column 1]`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(in crate::quantized) fn usmmla(sums: int32x4_t, rows: uint8x16_t, columns: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: the instruction only reads and writes its registers, and the function is compiled for machines that have it.
    unsafe {
        asm!(
            "usmmla {sums:v}.4s, {rows:v}.16b, {columns:v}.16b",
            sums = inout(vreg) sums, rows = in(vreg) rows, columns = in(vreg) columns,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The lower halves of two registers, then the upper halves.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::quantized) fn halves(a: int32x4_t, b: int32x4_t) -> [int32x4_t; 2] {
    let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
    [vreinterpretq_s32_s64(vzip1q_s64(a, b)), vreinterpretq_s32_s64(vzip2q_s64(a, b))]
}

/// # Safety
/// See [`Micro::tile`].
#[target_feature(enable = "neon,i8mm")]
unsafe fn i8mm<const M: usize, const N: usize>(tile: &Tile<'_>) {
    // SAFETY: all addresses are of `M` rows and `N` vectors of the block, by the caller's promise.
    unsafe {
        // Pairs of rows by pairs of columns; an odd last row is paired with itself.
        let pairs = M.div_ceil(2);
        let mut squares = [[vdupq_n_s32(0); 4]; 4];
        for n in 0..N {
            let bias = vld1q_s32(tile.bias.add(4 * n));
            let [low, _] = halves(bias, bias);
            let [_, high] = halves(bias, bias);
            for pair in &mut squares[..pairs] {
                (pair[2 * n], pair[2 * n + 1]) = (low, high);
            }
        }
        let (mut a, mut weights) = (tile.a, tile.weights);
        let second = |pair: usize| (2 * pair + 1).min(M - 1);
        let mut x = [vdupq_n_u8(0); 4];
        macro_rules! step {
            ($x:expr, $weights:expr) => {{
                for i in 0..2 * N {
                    let w = vld1q_s8($weights.add(16 * i));
                    for pair in 0..pairs {
                        squares[pair][i] = usmmla(squares[pair][i], $x[pair], w);
                    }
                }
            }};
        }
        for _ in 0..tile.steps / 2 {
            let mut next = [vdupq_n_u8(0); 4];
            for pair in 0..pairs {
                let one = vreinterpretq_s32_u8(vld1q_u8(a.add(2 * pair * tile.stride)));
                let two = vreinterpretq_s32_u8(vld1q_u8(a.add(second(pair) * tile.stride)));
                let [low, high] = halves(one, two);
                (x[pair], next[pair]) = (vreinterpretq_u8_s32(low), vreinterpretq_u8_s32(high));
            }
            step!(x, weights);
            step!(next, weights.add(32 * N));
            a = a.add(16);
            weights = weights.add(64 * N);
        }
        if tile.steps % 2 == 1 {
            for pair in 0..pairs {
                let (one, two) = (vld1_u8(a.add(2 * pair * tile.stride)), vld1_u8(a.add(second(pair) * tile.stride)));
                x[pair] = vcombine_u8(one, two);
            }
            step!(x, weights);
        }
        let mut sums = [[vdupq_n_s32(0); N]; M];
        for m in 0..M {
            for n in 0..N {
                sums[m][n] = halves(squares[m / 2][2 * n], squares[m / 2][2 * n + 1])[m % 2];
            }
        }
        store(tile, &sums);
    }
}

/// The sums before the first product.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn bias<const M: usize, const N: usize>(tile: &Tile<'_>) -> [[int32x4_t; N]; M] {
    let mut sums = [[vdupq_n_s32(0); N]; M];
    for n in 0..N {
        // SAFETY: the tile has `N` vectors of columns.
        let bias = unsafe { vld1q_s32(tile.bias.add(4 * n)) };
        for row in &mut sums {
            row[n] = bias;
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn store<const M: usize, const N: usize>(tile: &Tile<'_>, sums: &[[int32x4_t; N]; M]) {
    // SAFETY: see `Micro::tile`.
    unsafe {
        match tile.y {
            Target::U8(y, finish) => store_u8(tile, sums, y, finish.to),
            Target::F32(y) => store_f32(tile, sums, y),
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_u8<const M: usize, const N: usize>(
    tile: &Tile<'_>,
    sums: &[[int32x4_t; N]; M],
    y: *mut u8,
    to: &Requantize,
) {
    // SAFETY: see `Micro::tile`; only columns of the block are written.
    unsafe {
        let clamp = Clamp::new(to);
        let count = tile.columns.min(4 * N);
        for m in 0..M {
            let mut values = [vdupq_n_s32(0); 2];
            for n in 0..N {
                values[n] = clamp.round(sums[m][n], vld1q_f32(tile.scale.add(4 * n)));
            }
            let bytes = clamp.narrow(values[0], values[1]);
            let row = y.add(m * tile.y_stride);
            if count == 8 {
                vst1_u8(row, bytes);
            } else if count == 4 {
                row.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
            } else {
                let mut whole = [0u8; 8];
                vst1_u8(whole.as_mut_ptr(), bytes);
                std::ptr::copy_nonoverlapping(whole.as_ptr(), row, count);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_f32<const M: usize, const N: usize>(tile: &Tile<'_>, sums: &[[int32x4_t; N]; M], y: *mut f32) {
    // SAFETY: see `Micro::tile`; only columns of the block are written.
    unsafe {
        for n in 0..N {
            let scale = vld1q_f32(tile.scale.add(4 * n));
            let left = tile.columns.saturating_sub(4 * n).min(4);
            for m in 0..M {
                let value = vmulq_f32(vcvtq_f32_s32(sums[m][n]), scale);
                let row = y.add(m * tile.y_stride);
                if left == 4 {
                    vst1q_f32(row.add(4 * n), value);
                } else if left > 0 {
                    let mut whole = [0f32; 4];
                    vst1q_f32(whole.as_mut_ptr(), value);
                    std::ptr::copy_nonoverlapping(whole.as_ptr(), row.add(4 * n), left);
                }
            }
        }
    }
}

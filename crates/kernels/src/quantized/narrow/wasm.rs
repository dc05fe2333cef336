//! The kernel of WebAssembly: weights spread to numbers of sixteen bits, products as in the kernel of eight bits.

use std::arch::wasm32::*;

use super::block::{Block, Target};
use super::packed::{LANES, TRIT_BIAS};
use super::spread::{self, FOUR, Lines, Multiply, Rows, STRETCH, TWO, per_byte};
use crate::quantized::epilogue::Requantize;
use crate::quantized::epilogue::wasm::Clamp;

/// Vectors of a panel, and of half a panel, whose sums are held in registers.
const VECTORS: usize = 4;
const HALF: usize = VECTORS / 2;
/// Bytes of half a panel's spread weights of a step, and of a stretch.
const STEP: usize = 32 * HALF;
const STRIDE: usize = STRETCH * STEP;

/// Computes a block.
///
/// # Safety
/// The block has been checked; `target` may be written at the block's columns of each of its rows.
pub(super) unsafe fn block(b: &Block<'_>, target: &Target<'_>) {
    // SAFETY: by the caller's promise.
    unsafe { spread::block::<Words, { 2 * STRIDE }>(b, target) }
}

/// Products of 16-bit numbers.
struct Words;

/// The weights of the next step in 16 bytes of a line: taps 0 and 2 of every column, and taps 1 and 3.
#[inline(always)]
fn take<const W: usize>(bytes: &mut v128) -> [v128; 2] {
    let (top, bits) = match W {
        FOUR | TWO => (*bytes, if W == FOUR { 4 } else { 2 }),
        _ => {
            let third = u8x16_avgr(*bytes, u8x16_avgr(*bytes, u8x16_splat(TRIT_BIAS)));
            (v128_xor(third, u8x16_splat(0x80)), 2)
        }
    };
    *bytes = if W == FOUR || W == TWO {
        // Bits of one byte that move into the next one's lowest are never looked at.
        i16x8_shl(*bytes, bits)
    } else {
        i8x16_add(*bytes, i8x16_add(*bytes, *bytes))
    };
    [i16x8_shr(i16x8_shl(top, 8), 16 - bits), i16x8_shr(top, 16 - bits)]
}

impl Multiply for Words {
    const FEW: usize = 1;
    const ROWS: usize = 4;
    const STEP: usize = 2 * STEP;
    const DOWN: [u32; 3] = [0; 3];

    unsafe fn few<const M: usize, const W: usize>(rows: Rows, lines: Lines) -> [[i32; LANES]; M] {
        // SAFETY: rows and lines are as long as `rows.steps` says, by the caller's promise.
        unsafe {
            let mut sums = [[i32x4_splat(0); VECTORS]; M];
            let (mut a, mut line) = (rows.a, lines.first);
            for _ in 0..rows.steps / per_byte(W) {
                add_line::<M, W>(&mut sums, a, rows.stride, per_byte(W), line);
                a = a.add(4 * per_byte(W));
                line = line.add(lines.step);
            }
            let left = rows.steps % per_byte(W);
            if left > 0 {
                add_line::<M, W>(&mut sums, a, rows.stride, left, line);
            }
            let mut whole = [[0; LANES]; M];
            for m in 0..M {
                for n in 0..VECTORS {
                    v128_store(whole[m].as_mut_ptr().add(4 * n).cast(), sums[m][n]);
                }
            }
            whole
        }
    }

    /// To `[half of the panel][step][even or odd][column][2]`.
    unsafe fn spread<const W: usize>(lines: Lines, steps: usize, to: *mut i8) {
        // SAFETY: the lines and the room for a stretch are there, by the caller's promise.
        unsafe {
            for line in 0..steps.div_ceil(per_byte(W)) {
                for n in 0..VECTORS {
                    let mut bytes = v128_load(lines.first.add(line * lines.step + 16 * n).cast());
                    let to = to.add(n / HALF * STRIDE + 16 * (n % HALF));
                    for i in 0..per_byte(W) {
                        let to = to.add((line * per_byte(W) + i) * STEP);
                        let [even, odd] = take::<W>(&mut bytes);
                        v128_store(to.cast(), even);
                        v128_store(to.add(16 * HALF).cast(), odd);
                    }
                }
            }
        }
    }

    unsafe fn add<const M: usize, const W: usize>(rows: Rows, weights: *const i8, sums: *mut [i32; LANES]) {
        // SAFETY: rows and weights are as long as `rows.steps` says, by the caller's promise.
        unsafe {
            add_half::<M>(rows, weights, sums.cast());
            add_half::<M>(rows, weights.add(STRIDE), sums.cast::<i32>().add(4 * HALF));
        }
    }

    #[inline(always)]
    unsafe fn reals(sums: &[i32; LANES], scale: *const f32, reals: &mut [f32; LANES]) {
        for n in (0..LANES).step_by(4) {
            // SAFETY: there are sixteen of each.
            unsafe {
                let sum = f32x4_convert_i32x4(v128_load(sums.as_ptr().add(n).cast()));
                let product = f32x4_mul(sum, v128_load(scale.add(n).cast()));
                let reals = reals.as_mut_ptr().add(n).cast();
                v128_store(reals, f32x4_add(v128_load(reals), product));
            }
        }
    }

    #[inline(always)]
    unsafe fn bytes(sums: &[i32; LANES], scale: *const f32, to: &Requantize) -> [u8; LANES] {
        let clamp = Clamp::new(to);
        let mut bytes = [0; LANES];
        // SAFETY: there are sixteen of each.
        unsafe {
            let values = [0, 4, 8, 12].map(|n| {
                let (sum, scale) = (v128_load(sums.as_ptr().add(n).cast()), v128_load(scale.add(n).cast()));
                clamp.round(sum, scale)
            });
            v128_store(bytes.as_mut_ptr().cast(), clamp.narrow(values));
        }
        bytes
    }
}

/// A row's bytes 0 and 2 of four in every lane, and bytes 1 and 3.
///
/// # Safety
/// Four bytes can be read.
#[inline(always)]
unsafe fn pairs(a: *const u8) -> [v128; 2] {
    // SAFETY: by the caller's promise.
    let x = unsafe { v128_load32_splat(a.cast()) };
    [v128_and(x, u16x8_splat(0xff)), u16x8_shr(x, 8)]
}

/// Adds the products of the first `steps` steps of a line, its weights taken out of their bytes in registers.
#[inline(always)]
unsafe fn add_line<const M: usize, const W: usize>(
    sums: &mut [[v128; VECTORS]; M],
    a: *const u8,
    stride: usize,
    steps: usize,
    line: *const i8,
) {
    // SAFETY: the line and as much of the rows is there, by the caller's promise.
    unsafe {
        let mut bytes = [i32x4_splat(0); VECTORS];
        for n in 0..VECTORS {
            bytes[n] = v128_load(line.add(16 * n).cast());
        }
        for i in 0..steps {
            let mut x = [[i32x4_splat(0); 2]; M];
            for m in 0..M {
                x[m] = pairs(a.add(m * stride + 4 * i));
            }
            for n in 0..VECTORS {
                let w = take::<W>(&mut bytes[n]);
                for m in 0..M {
                    for i in 0..2 {
                        sums[m][n] = i32x4_add(sums[m][n], i32x4_dot_i16x8(x[m][i], w[i]));
                    }
                }
            }
        }
    }
}

/// Adds the products of `M` rows and the spread weights of half a panel to sums, `LANES` of them a row.
#[inline(never)]
unsafe fn add_half<const M: usize>(rows: Rows, weights: *const i8, to: *mut i32) {
    // SAFETY: rows and weights are as long as `rows.steps` says, by the caller's promise.
    unsafe {
        let mut sums = [[i32x4_splat(0); HALF]; M];
        for m in 0..M {
            for n in 0..HALF {
                sums[m][n] = v128_load(to.add(LANES * m + 4 * n).cast());
            }
        }
        let (mut a, mut weights) = (rows.a, weights);
        for _ in 0..rows.steps {
            let mut w = [[i32x4_splat(0); HALF]; 2];
            for i in 0..2 {
                for n in 0..HALF {
                    w[i][n] = v128_load(weights.add(16 * (HALF * i + n)).cast());
                }
            }
            for m in 0..M {
                let x = pairs(a.add(m * rows.stride));
                for n in 0..HALF {
                    for i in 0..2 {
                        sums[m][n] = i32x4_add(sums[m][n], i32x4_dot_i16x8(x[i], w[i][n]));
                    }
                }
            }
            a = a.add(4);
            weights = weights.add(STEP);
        }
        for m in 0..M {
            for n in 0..HALF {
                v128_store(to.add(LANES * m + 4 * n).cast(), sums[m][n]);
            }
        }
    }
}

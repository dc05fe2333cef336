//! Tables of 32 bytes with NEON.

use std::arch::aarch64::*;

use super::super::neon;
use super::super::strip::Target;
use super::{LANES, PAIRS, Sums, Tile};

/// Panels of sums held in registers.
pub(super) const PANELS: usize = 4;

/// Sums of one look-up that half a byte holds: of five channels with one bit, each at most 5; with two bits, 15.
const THREE: usize = 3;

/// Look-ups whose sums a byte holds.
const fn room(two: bool) -> usize {
    if two { 255 / 15 } else { 255 / 5 / THREE * THREE }
}

/// Sums of `M` pairs by `N` panels. With `TWO`, tables are of two planes.
///
/// # Safety
/// The tile's tables and indices are there.
#[target_feature(enable = "neon")]
pub(super) unsafe fn tile<const M: usize, const N: usize, const TWO: bool>(t: &Tile<'_>, sums: &mut Sums<u16>) {
    // SAFETY: by the caller's promise.
    unsafe {
        let zero = vdupq_n_u8(0);
        for sums in &mut sums[..M] {
            *sums = [[[0; LANES]; PANELS]; 2];
        }
        let (mut all, mut high) = ([[zero; N]; M], [[zero; N]; M]);
        let mut indices = t.indices;
        let mut rounds = 0;
        // What the next tables and indices give.
        let next = |x: *const u8, indices: *const u8| {
            let mut given = [[zero; N]; M];
            let mut tables = [uint8x16x2_t(zero, zero); M];
            for m in 0..M {
                tables[m] = vld1q_u8_x2(x.add(m * t.step));
            }
            for n in 0..N {
                let index = vld1q_u8(indices.add(n * t.panel));
                for m in 0..M {
                    given[m][n] = vqtbl2q_u8(tables[m], index);
                }
            }
            given
        };
        for segment in t.segments {
            let mut x = *segment;
            let mut left = t.run;
            while left > 0 {
                let some = left.min(room(TWO) - rounds);
                let threes = if TWO { 0 } else { some / THREE };
                for _ in 0..threes {
                    let mut given = next(x, indices);
                    for i in 1..THREE {
                        let more = next(x.add(32 * i), indices.add(LANES * i));
                        for m in 0..M {
                            for n in 0..N {
                                given[m][n] = vaddq_u8(given[m][n], more[m][n]);
                            }
                        }
                    }
                    for m in 0..M {
                        for n in 0..N {
                            all[m][n] = vaddq_u8(all[m][n], given[m][n]);
                            high[m][n] = vsraq_n_u8::<4>(high[m][n], given[m][n]);
                        }
                    }
                    x = x.add(32 * THREE);
                    indices = indices.add(LANES * THREE);
                }
                for _ in THREE * threes..some {
                    let given = next(x, indices);
                    for m in 0..M {
                        for n in 0..N {
                            all[m][n] = vaddq_u8(all[m][n], given[m][n]);
                            high[m][n] = vsraq_n_u8::<4>(high[m][n], given[m][n]);
                        }
                    }
                    x = x.add(32);
                    indices = indices.add(LANES);
                }
                left -= some;
                rounds += some;
                if rounds == room(TWO) {
                    widen::<M, N>(&mut all, &mut high, sums);
                    rounds = 0;
                }
            }
        }
        widen::<M, N>(&mut all, &mut high, sums);
    }
}

/// Moves sums of bytes into those of 16 bits.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn widen<const M: usize, const N: usize>(
    all: &mut [[uint8x16_t; N]; M],
    high: &mut [[uint8x16_t; N]; M],
    sums: &mut Sums<u16>,
) {
    const { assert!(M <= PAIRS && N <= PANELS) };
    for m in 0..M {
        for n in 0..N {
            let low = vmlsq_u8(all[m][n], high[m][n], vdupq_n_u8(16));
            for (second, bytes) in [low, high[m][n]].into_iter().enumerate() {
                let sums = sums[m][second][n].as_mut_ptr();
                // SAFETY: a panel has sixteen sums.
                unsafe {
                    vst1q_u16(sums, vaddw_u8(vld1q_u16(sums), vget_low_u8(bytes)));
                    vst1q_u16(sums.add(8), vaddw_high_u8(vld1q_u16(sums.add(8)), bytes));
                }
            }
            (all[m][n], high[m][n]) = (vdupq_n_u8(0), vdupq_n_u8(0));
        }
    }
}

/// Brings the sums of a pixel by two panels to where they are wanted, at most `columns` of them.
///
/// # Safety
/// The target may be written there.
pub(super) unsafe fn store(sums: &[[i32; LANES]; 2], scale: &[[f32; LANES]; 2], columns: usize, target: &Target<'_>) {
    // SAFETY: by the caller's promise; panels have sixteen columns.
    unsafe {
        let sums = sums.each_ref().map(|sums| [0, 4, 8, 12].map(|n| vld1q_u32(sums.as_ptr().add(n).cast())));
        let scale = scale.each_ref().map(|scale| [0, 4, 8, 12].map(|n| vld1q_f32(scale.as_ptr().add(n))));
        neon::store_pixel(&sums, &scale, columns.min(2 * LANES), target, 0);
    }
}

//! Tables of sixteen bytes in WebAssembly.

use std::arch::wasm32::*;

use super::super::strip::Target;
use super::super::wasm;
use super::{LANES, PAIRS, Sums, Tile};

/// Panels of sums held in registers: not all runtimes have more than sixteen.
pub(super) const PANELS: usize = 2;

/// Sums of one look-up that half a byte holds: of four channels with one bit, each at most 4; with two bits, 12.
const THREE: usize = 3;

/// Look-ups whose sums a byte holds.
const fn room(two: bool) -> usize {
    if two { 255 / 12 } else { 255 / 4 / THREE * THREE }
}

/// Sums of `M` pairs by `N` panels. With `TWO`, tables are of two planes.
///
/// # Safety
/// The tile's tables and indices are there.
pub(super) unsafe fn tile<const M: usize, const N: usize, const TWO: bool>(t: &Tile<'_>, sums: &mut Sums<u16>) {
    // SAFETY: by the caller's promise.
    unsafe {
        let zero = u8x16_splat(0);
        for sums in &mut sums[..M] {
            *sums = [[[0; LANES]; PANELS]; 2];
        }
        let (mut all, mut high) = ([[zero; N]; M], [[zero; N]; M]);
        let mut indices = t.indices;
        let mut rounds = 0;
        for segment in t.segments {
            let mut x = *segment;
            let mut left = t.run;
            while left > 0 {
                let some = left.min(room(TWO) - rounds);
                let threes = if TWO { 0 } else { some / THREE };
                for _ in 0..threes {
                    add::<M, N, THREE>(t, x, indices, &mut all, &mut high);
                    x = x.add(16 * THREE);
                    indices = indices.add(LANES * THREE);
                }
                for _ in THREE * threes..some {
                    add::<M, N, 1>(t, x, indices, &mut all, &mut high);
                    x = x.add(16);
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

/// Adds what the next tables and indices give, so many that half a byte holds their sums.
#[inline(always)]
unsafe fn add<const M: usize, const N: usize, const COUNT: usize>(
    t: &Tile<'_>,
    x: *const u8,
    indices: *const u8,
    all: &mut [[v128; N]; M],
    high: &mut [[v128; N]; M],
) {
    for n in 0..N {
        for m in 0..M {
            // SAFETY: by the caller's promise.
            let given = |i: usize| unsafe {
                let index = v128_load(indices.add(n * t.panel + LANES * i).cast());
                u8x16_swizzle(v128_load(x.add(m * t.step + 16 * i).cast()), index)
            };
            let sum = (1..COUNT).fold(given(0), |sum, i| u8x16_add(sum, given(i)));
            all[m][n] = u8x16_add(all[m][n], sum);
            high[m][n] = u8x16_add(high[m][n], v128_and(u16x8_shr(sum, 4), u8x16_splat(15)));
        }
    }
}

/// Moves sums of bytes into those of 16 bits.
#[inline(always)]
unsafe fn widen<const M: usize, const N: usize>(
    all: &mut [[v128; N]; M],
    high: &mut [[v128; N]; M],
    sums: &mut Sums<u16>,
) {
    const { assert!(M <= PAIRS && N <= PANELS) };
    for m in 0..M {
        for n in 0..N {
            // 16·high: what moves into the next byte is masked away.
            let sixteen = v128_and(i16x8_shl(high[m][n], 4), u8x16_splat(0xf0));
            let low = u8x16_sub(all[m][n], sixteen);
            for (second, bytes) in [low, high[m][n]].into_iter().enumerate() {
                let sums: *mut v128 = sums[m][second][n].as_mut_ptr().cast();
                // SAFETY: a panel has sixteen sums.
                unsafe {
                    v128_store(sums, u16x8_add(v128_load(sums), u16x8_extend_low_u8x16(bytes)));
                    v128_store(sums.add(1), u16x8_add(v128_load(sums.add(1)), u16x8_extend_high_u8x16(bytes)));
                }
            }
            (all[m][n], high[m][n]) = (u8x16_splat(0), u8x16_splat(0));
        }
    }
}

/// Brings the sums of a pixel by two panels to where they are wanted, at most `columns` of them.
///
/// # Safety
/// The target may be written there.
pub(super) unsafe fn store(sums: &[[i32; LANES]; 2], scale: &[[f32; LANES]; 2], columns: usize, target: &Target<'_>) {
    let mut words = [0; 4];
    for panel in 0..columns.div_ceil(LANES).min(2) {
        let columns = (columns - LANES * panel).min(LANES);
        // SAFETY: by the caller's promise; panels have sixteen columns.
        unsafe {
            let sums = [0, 4, 8, 12].map(|n| v128_load(sums[panel].as_ptr().add(n).cast()));
            let scale = [0, 4, 8, 12].map(|n| v128_load(scale[panel].as_ptr().add(n).cast()));
            wasm::store_panel(sums, scale, [panel, columns], target, 0, &mut words);
        }
    }
    // SAFETY: as above.
    unsafe { wasm::store_words(&words, target, 0) };
}

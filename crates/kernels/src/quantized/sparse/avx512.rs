//! The kernel with VNNI and VBMI: a pick slot is one permutation and one multiplication of 64 bytes.

use std::arch::x86_64::*;

use super::super::epilogue::avx512::Clamp;
use super::super::panelled::avx512::store_bytes;
use super::super::panelled::{Block, LANES, Target};
use super::slots::{LINE, Slots, TAPS, WINDOW};

/// Rows of sums held in registers beside the bytes of their windows.
const ROWS: usize = 13;

/// Computes a block.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ, VNNI and VBMI; the block has been checked; `target` may be written at the block's columns of each
/// of its rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) unsafe fn block(slots: &Slots, b: &Block<'_>, target: &Target<'_>) {
    let tiles = b.rows.div_ceil(ROWS);
    for panel in 0..b.panels {
        let mut row = 0;
        for tile in 0..tiles {
            let rows = (b.rows - row).div_ceil(tiles - tile);
            macro_rules! rows {
                ($($m:literal)*) => {
                    match rows {
                        // SAFETY: `row` and `panel` lie inside the block, with as many rows after them.
                        $($m => unsafe { run::<$m>(slots, b, target, panel, row) },)*
                        _ => unreachable!("a tile of {rows} rows"),
                    }
                };
            }
            rows!(1 2 3 4 5 6 7 8 9 10 11 12 13);
            row += rows;
        }
    }
}

/// # Safety
/// As [`block`]; `M` rows from `row` on and panel `panel` of the block are inside it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run<const M: usize>(slots: &Slots, b: &Block<'_>, target: &Target<'_>, panel: usize, row: usize) {
    // SAFETY: addresses are of `M` rows, `slots.row` bytes each, which the mask of the last window keeps to; block slots are of whole fours of
    // them; lines are those of the window. By the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 1]; M];
        let mut x = b.a.as_ptr().add(row * b.stride);
        let mut left = slots.row;
        for window in slots.windows(b.panel + panel) {
            let mut lines = slots.lines(window).as_ptr();
            for group in slots.blocks(window) {
                let w = _mm512_load_si512(lines.cast());
                lines = lines.add(LINE);
                let at = x.add(TAPS * usize::from(*group));
                for m in 0..M {
                    let four = _mm512_set1_epi32(at.add(m * b.stride).cast::<i32>().read_unaligned());
                    sums[m][0] = _mm512_dpbusd_epi32(sums[m][0], four, w);
                }
            }
            if window.picks > 0 {
                let mask = u64::MAX >> (WINDOW - left.min(WINDOW));
                let mut bytes = [_mm512_setzero_si512(); M];
                for m in 0..M {
                    bytes[m] = _mm512_maskz_loadu_epi8(mask, x.add(m * b.stride).cast());
                }
                for _ in 0..window.picks {
                    let places = _mm512_load_si512(lines.cast());
                    let w = _mm512_load_si512(lines.add(LINE).cast());
                    lines = lines.add(2 * LINE);
                    for m in 0..M {
                        let picked = _mm512_permutexvar_epi8(places, bytes[m]);
                        sums[m][0] = _mm512_dpbusd_epi32(sums[m][0], picked, w);
                    }
                }
            }
            x = x.wrapping_add(WINDOW);
            left = left.saturating_sub(WINDOW);
        }
        let column = (b.panel + panel) * LANES;
        let columns = (b.columns - column).min(LANES);
        let bias = _mm512_loadu_si512(b.bias.as_ptr().add(column).cast());
        let scale = _mm512_loadu_ps(b.scale.as_ptr().add(column));
        match *target {
            Target::U8 { y, stride, to } => {
                let clamp = Clamp::new(to);
                for row in &mut sums {
                    row[0] = clamp.round(_mm512_add_epi32(row[0], bias), scale);
                }
                store_bytes::<M, 1>(&sums, &clamp, y.add(row * stride + panel * LANES), stride, columns);
            }
            Target::F32 { y, stride } => {
                let mask = ((1u32 << columns) - 1) as u16;
                for m in 0..M {
                    let real = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sums[m][0], bias)), scale);
                    _mm512_mask_storeu_ps(y.add((row + m) * stride + panel * LANES), mask, real);
                }
            }
        }
    }
}

//! The kernel with AVX-512 BF16.

use std::arch::x86_64::*;

use super::{LANES, LINE};
use crate::float::Clamp;

/// Rows of sums held in registers, by two panels.
const ROWS: usize = 13;

/// Some rows by the panels from one on.
pub(super) struct Block<'a> {
    /// Rounded rows, `stride` bytes apart, of `steps` pairs.
    pub(super) a: &'a [u8],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) steps: usize,
    /// Of the first panel on.
    pub(super) weights: &'a [i8],
    pub(super) bias: &'a [f32],
    pub(super) clamp: Clamp,
    /// Columns to compute.
    pub(super) columns: usize,
    /// The first row and column of what is added, laid out as the results are.
    pub(super) residual: Option<*const f32>,
    /// The first row and column of the results, whose rows are `y_stride` values apart.
    pub(super) y: *mut f32,
    pub(super) y_stride: usize,
}

/// Rounds values into as many bfloat16.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn round(from: &[f32], to: &mut [u8]) {
    assert_eq!(2 * from.len(), to.len());
    for (i, values) in from.chunks(LANES).enumerate() {
        let mask = ((1u32 << values.len()) - 1) as u16;
        // SAFETY: masked to the values there are; as many bytes as are written follow in `to`.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, values.as_ptr()));
            let bits = std::mem::transmute::<__m256bh, __m256i>(rounded);
            _mm256_mask_storeu_epi16(to.as_mut_ptr().add(2 * LANES * i).cast(), mask, bits);
        }
    }
}

/// The bits of a register as bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, of which every pattern is valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}

/// Computes a block.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL and BF16; `a` holds the rows, `weights` and `bias` the panels of the columns; `y` may be written, and
/// `residual` read, at the block's columns of each of its rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn block(b: &Block<'_>) {
    let panels = b.columns.div_ceil(LANES);
    let tiles = b.rows.div_ceil(ROWS);
    for panel in (0..panels).step_by(2) {
        let mut row = 0;
        for tile in 0..tiles {
            let rows = (b.rows - row).div_ceil(tiles - tile);
            macro_rules! rows {
                ($n:literal: $($m:literal)*) => {
                    match rows {
                        // SAFETY: `row` and `panel` lie inside the block, with as many after them.
                        $($m => unsafe { run::<$m, $n>(b, row, panel) },)*
                        _ => unreachable!("a tile of {rows} rows"),
                    }
                };
            }
            if panels - panel >= 2 {
                rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13);
            } else {
                rows!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13);
            }
            row += rows;
        }
    }
}

/// # Safety
/// As [`block`]; `M` rows from `row` on and `N` panels from `panel` on are inside the block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn run<const M: usize, const N: usize>(b: &Block<'_>, row: usize, panel: usize) {
    // SAFETY: all addresses are of `M` rows and `N` panels of the block, by the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        let mut a = b.a.as_ptr().add(row * b.stride);
        let mut weights = b.weights.as_ptr().add(panel * b.steps * LINE);
        for _ in 0..b.steps {
            let mut w = [_mm512_setzero_si512(); N];
            for n in 0..N {
                w[n] = _mm512_load_si512(weights.add(n * b.steps * LINE).cast());
            }
            for m in 0..M {
                let x = _mm512_set1_epi32(a.add(m * b.stride).cast::<i32>().read_unaligned());
                for n in 0..N {
                    sums[m][n] = _mm512_dpbf16_ps(sums[m][n], pairs(x), pairs(w[n]));
                }
            }
            a = a.add(4);
            weights = weights.add(LINE);
        }
        let (lo, hi) = (_mm512_set1_ps(b.clamp.lo), _mm512_set1_ps(b.clamp.hi));
        for n in 0..N {
            let column = (panel + n) * LANES;
            let mask = ((1u32 << (b.columns - column).min(LANES)) - 1) as u16;
            let bias = _mm512_loadu_ps(b.bias.as_ptr().add(column));
            for m in 0..M {
                let at = (row + m) * b.y_stride + column;
                let mut value = _mm512_add_ps(sums[m][n], bias);
                if let Some(residual) = b.residual {
                    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, residual.add(at)));
                }
                // NaN is the second operand and stays.
                let value = _mm512_min_ps(hi, _mm512_max_ps(lo, value));
                _mm512_mask_storeu_ps(b.y.add(at), mask, value);
            }
        }
    }
}

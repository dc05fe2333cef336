//! The kernel with AVX-512 BF16.

use std::arch::x86_64::*;

use super::{LANES, LINE, PAIR};
use crate::float::Clamp;

/// Rows of sums held in registers, by two panels.
const ROWS: usize = 13;
/// Rows of sums whose pixels overlap.
const RUN: usize = 16;
/// Broadcast values of a block of [`PairSums`] at most,
pub(super) const BROADCAST: usize = 8;
/// and vectors.
pub(super) const VECTORS: usize = 3;

/// Some rows by the panels from one on.
pub(super) struct Block<'a> {
    /// Rounded rows, `stride` bytes apart, each of `pieces` that are `piece` bytes apart and have `steps` pairs.
    pub(super) a: &'a [u8],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) pieces: usize,
    pub(super) piece: usize,
    pub(super) steps: usize,
    /// Whether a row is three pixels of so many pairs, and the next begins with the second of them.
    pub(super) three: Option<usize>,
    /// Of the first panel on.
    pub(super) weights: &'a [i8],
    /// Empty for none.
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

/// Asks for a cache line that will be read; it need not be there.
#[inline]
pub(super) fn prefetch(line: *const f32) {
    // SAFETY: prefetching any address is harmless, and every x86-64 processor can.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
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
    if let (Some(pixel), true) = (b.three, panels == 1 && b.rows >= RUN) {
        for first in (0..b.rows).step_by(RUN) {
            // SAFETY: the caller's; the last run goes over some rows again rather than be shorter.
            unsafe { run_three(b, first.min(b.rows - RUN), pixel) };
        }
        return;
    }
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
        let panel_bytes = b.pieces * b.steps * LINE;
        let mut weights = b.weights.as_ptr().add(panel * panel_bytes);
        for piece in 0..b.pieces {
            let mut a = b.a.as_ptr().add(row * b.stride + piece * b.piece);
            for _ in 0..b.steps {
                let mut w = [_mm512_setzero_si512(); N];
                for n in 0..N {
                    w[n] = _mm512_loadu_si512(weights.add(n * panel_bytes).cast());
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
        }
        store(b, row, panel, &sums);
    }
}

/// [`run`] of one panel where neighbouring rows share pixels: a pair, once broadcast, serves the three rows that it is in. With one vector a row,
/// there are as many loads as products otherwise.
///
/// # Safety
/// As [`block`]; [`RUN`] rows from `row` on are inside the block, each of three pixels of `pixel` pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn run_three(b: &Block<'_>, row: usize, pixel: usize) {
    // SAFETY: all addresses are of rows of the block and of its panel, by the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 1]; RUN];
        for piece in 0..b.pieces {
            let a = b.a.as_ptr().add(row * b.stride + piece * b.piece);
            let weights = b.weights.as_ptr().add(piece * b.steps * LINE);
            for pair in 0..pixel {
                let tap = |right: usize| _mm512_loadu_si512(weights.add((right * pixel + pair) * LINE).cast());
                let [left, middle, right] = [tap(0), tap(1), tap(2)];
                let mut from = a.add(4 * pair);
                let mut next = || {
                    let x = _mm512_set1_epi32(from.cast::<i32>().read_unaligned());
                    from = from.wrapping_add(b.stride);
                    x
                };
                let mut add = |i: usize, x: __m512i, w: __m512i| {
                    sums[i][0] = _mm512_dpbf16_ps(sums[i][0], pairs(x), pairs(w));
                };
                let x = next();
                add(0, x, left);
                for i in 0..RUN {
                    let x = next();
                    // This pixel is the right one of the row before, the middle of its own, and the left one of the next.
                    if i > 0 {
                        add(i - 1, x, right);
                    }
                    add(i, x, middle);
                    if i + 1 < RUN {
                        add(i + 1, x, left);
                    }
                }
                let x = next();
                add(RUN - 1, x, right);
            }
        }
        store(b, row, 0, &sums);
    }
}

/// Adds bias and residual to sums and stores them.
///
/// # Safety
/// As [`block`]; `M` rows from `row` on and `N` panels from `panel` on are inside the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn store<const M: usize, const N: usize>(b: &Block<'_>, row: usize, panel: usize, sums: &[[__m512; N]; M]) {
    // SAFETY: all addresses are of `M` rows and `N` panels of the block, by the caller's promise.
    unsafe {
        let (lo, hi) = (_mm512_set1_ps(b.clamp.lo), _mm512_set1_ps(b.clamp.hi));
        for n in 0..N {
            let column = (panel + n) * LANES;
            let mask = ((1u32 << (b.columns - column).min(LANES)) - 1) as u16;
            let bias =
                if b.bias.is_empty() { _mm512_setzero_ps() } else { _mm512_loadu_ps(b.bias.as_ptr().add(column)) };
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

/// The pixels of a row that are copied as pairs: `count` of them, from `first` on, `step` apart. Those outside of the row are zeros.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    pub(super) first: isize,
    pub(super) step: usize,
    pub(super) count: usize,
}

/// Rounds the chosen pixels of a row of pixels of `channels` values, and interleaves each two that follow each other: the first values of both,
/// the second values of both. Where their number is odd, the last meets zeros.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn round_pairs(row: &[f32], channels: usize, chosen: Chosen, out: &mut [u8]) {
    let Chosen { first, step, count } = chosen;
    let pixels = row.len() / channels;
    let bytes = 2 * PAIR * channels;
    assert_eq!(out.len(), count.div_ceil(PAIR) * bytes);
    let mut order = [0u16; 2 * LANES];
    for (i, at) in order.iter_mut().enumerate() {
        *at = (i % PAIR * LANES + i / PAIR) as u16;
    }
    // SAFETY: 64 bytes of `order`; values of pixels that the row has, results of pairs that fit into `out`, both masked to a pixel's values.
    unsafe {
        let order = _mm512_loadu_si512(order.as_ptr().cast());
        for pair in 0..count.div_ceil(PAIR) {
            let pixel = |i: usize| {
                let at = (i < count).then(|| first + (i * step) as isize)?;
                (at >= 0 && at.unsigned_abs() < pixels).then(|| row.as_ptr().add(at.unsigned_abs() * channels))
            };
            let both = [pixel(PAIR * pair), pixel(PAIR * pair + 1)];
            let to = out.as_mut_ptr().add(pair * bytes);
            for first in (0..channels).step_by(LANES) {
                let mask = ((1u32 << (channels - first).min(LANES)) - 1) as u16;
                let load = |pixel: Option<*const f32>| match pixel {
                    Some(pixel) => _mm512_maskz_loadu_ps(mask, pixel.add(first)),
                    None => _mm512_setzero_ps(),
                };
                let rounded = _mm512_cvtne2ps_pbh(load(both[1]), load(both[0]));
                let rounded = _mm512_permutexvar_epi16(order, std::mem::transmute::<__m512bh, __m512i>(rounded));
                _mm512_mask_storeu_epi32(to.add(2 * PAIR * first).cast(), mask, rounded);
            }
        }
    }
}

/// Some broadcast values by some vectors, both as pairs of pixels, summed over rows of such pairs.
pub(super) struct PairSums {
    pub(super) rows: usize,
    pub(super) pairs: usize,
    /// The first broadcast value; bytes from pair to pair and from row to row.
    pub(super) a: *const u8,
    pub(super) a_steps: [usize; 2],
    /// The first vectors; bytes likewise.
    pub(super) b: [*const u8; VECTORS],
    pub(super) b_steps: [usize; 2],
    /// What the sums are added to: the vectors of a broadcast value side by side, those of the next `stride` values on.
    pub(super) out: *mut f32,
    pub(super) stride: usize,
}

impl PairSums {
    /// Adds the sums of `count` broadcast values, [`BROADCAST`] at most, by `vectors`, [`VECTORS`] at most.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW, VL and BF16; the pairs of all rows can be read and the sums written.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn add(&self, count: usize, vectors: usize) {
        macro_rules! with {
            ($vectors:literal: $($n:literal)*) => {
                match count {
                    // SAFETY: the caller's.
                    $($n => unsafe { self.add_block::<$n, $vectors>() },)*
                    _ => unreachable!("{count} broadcast values"),
                }
            };
        }
        match vectors {
            1 => with!(1: 1 2 3 4 5 6 7 8),
            2 => with!(2: 1 2 3 4 5 6 7 8),
            _ => with!(3: 1 2 3 4 5 6 7 8),
        }
    }

    /// # Safety
    /// As [`PairSums::add`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn add_block<const R: usize, const V: usize>(&self) {
        // SAFETY: all addresses are of pairs and sums that the caller promised.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); V]; R];
            for row in 0..self.rows {
                let mut a = self.a.add(row * self.a_steps[1]);
                let mut b = [self.b[0]; V];
                for v in 0..V {
                    b[v] = self.b[v].add(row * self.b_steps[1]);
                }
                for _ in 0..self.pairs {
                    let mut vectors = [_mm512_setzero_si512(); V];
                    for v in 0..V {
                        vectors[v] = _mm512_loadu_si512(b[v].cast());
                        b[v] = b[v].wrapping_add(self.b_steps[0]);
                    }
                    for r in 0..R {
                        let value = _mm512_set1_epi32(a.add(2 * PAIR * r).cast::<i32>().read_unaligned());
                        for v in 0..V {
                            sums[r][v] = _mm512_dpbf16_ps(sums[r][v], pairs(value), pairs(vectors[v]));
                        }
                    }
                    a = a.wrapping_add(self.a_steps[0]);
                }
            }
            for r in 0..R {
                for v in 0..V {
                    let to = self.out.add(r * self.stride + v * LANES);
                    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sums[r][v]));
                }
            }
        }
    }
}

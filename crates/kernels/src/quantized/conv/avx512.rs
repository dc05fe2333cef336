//! The matrix kernel with VNNI: up to 28 vectors of sums in registers, four products per lane and step. A tile is as wide as
//! a cache line of the output where there are that many channels, so that each line is written, and read for a residual, once.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::panels::{Block, Finish, Target};
use crate::cpu::has_vbmi;
use crate::quantized::epilogue::avx512::{Bend, Clamp, Sum, saturate};
use crate::quantized::lookup::avx512::Table;

/// The most rows of a tile with so many vectors of columns: with the weights of a step and a value of the input, the sums
/// take at most the 32 registers.
const ROWS: [usize; 5] = [0, 14, 14, 9, 6];

/// Computes a block.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI; the block's slices hold what its sizes say; `y` may be written
/// at the block's columns of each of its rows, `y_stride` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn block(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    let mut column = b.from;
    while column < b.to {
        let vectors = ((b.bias.len() - column) / 16).clamp(1, 4);
        let tiles = b.segment.div_ceil(ROWS[vectors]);
        // Where all rows are one segment, every tile fetches its share of the weights that come next.
        let size = 64 * vectors * b.steps * b.lines;
        let share = if b.segment == b.rows { size / tiles } else { 0 };
        for segment in 0..b.rows / b.segment {
            let mut row = 0;
            for tile in 0..tiles {
                // Tiles of nearly equal height: a last tile of one row would leave the multipliers waiting.
                let rows = (b.segment - row).div_ceil(tiles - tile);
                // SAFETY: `segment`, `row` and `column` lie inside the block.
                unsafe {
                    let mut call = Tile::at(b, segment, row, column, y, y_stride);
                    call.ahead = call.weights.wrapping_add(size + tile * share);
                    call.ahead_step = share / (b.steps * b.lines);
                    macro_rules! with {
                        ($($n:literal: $($m:literal)*;)*) => {
                            match (vectors, rows) {
                                $($(($n, $m) => call.run::<$m, $n>(),)*)*
                                _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                            }
                        };
                    }
                    with! {
                        4: 1 2 3 4 5 6;
                        3: 1 2 3 4 5 6 7 8 9;
                        2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
                        1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
                    }
                }
                row += rows;
            }
        }
        column += 16 * vectors;
    }
}

/// A tile of the block: addresses of its first row and column.
pub(super) struct Tile<'a> {
    pub(super) a: *const u8,
    pub(super) stride: usize,
    pub(super) steps: usize,
    pub(super) lines: usize,
    pub(super) line: usize,
    pub(super) weights: *const i8,
    /// What is wanted in the second-level cache next, and from where on at the next step. Need not be readable.
    pub(super) ahead: *const i8,
    pub(super) ahead_step: usize,
    pub(super) bias: *const i32,
    pub(super) scale: *const f32,
    /// Columns before it, and from it to the end of the block.
    pub(super) column: usize,
    pub(super) columns: usize,
    pub(super) y: Target<'a>,
    pub(super) y_stride: usize,
}

impl<'a> Tile<'a> {
    /// # Safety
    /// `row` of `segment` and `column` lie inside the block.
    #[inline(always)]
    unsafe fn at(b: &Block<'_>, segment: usize, row: usize, column: usize, y: Target<'a>, y_stride: usize) -> Self {
        let offset = (segment * b.segment + row) * y_stride + (column - b.from);
        // SAFETY: inside the block's slices by the caller's promise.
        unsafe {
            Tile {
                a: b.a.as_ptr().add(segment * b.segment_stride + row * b.stride),
                stride: b.stride,
                steps: b.steps,
                lines: b.lines,
                line: b.line,
                weights: b.weights.as_ptr().add(column * 4 * b.steps * b.lines),
                ahead: b.weights.as_ptr(),
                ahead_step: 0,
                bias: b.bias.as_ptr().add(column),
                scale: b.scale.as_ptr().add(column),
                column,
                columns: b.to - column,
                y: y.add(offset),
                y_stride,
            }
        }
    }

    /// # Safety
    /// `M` rows and `N` vectors of columns are inside the block, and the machine has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn run<const M: usize, const N: usize>(&self) {
        // SAFETY: all addresses are of `M` rows and `N` vectors of the block, by the caller's promise.
        unsafe {
            let sums = self.sums::<M, N>();
            if let Target::U8(y, Finish { to, saturates, prelu: None, residual: None }) = self.y
                && to.table.is_none()
            {
                if saturates {
                    self.store_u8::<M, N>(&sums, y, |sum, scale| saturate::round(sum, scale), |v| saturate::narrow(v));
                } else {
                    let clamp = Clamp::new(to);
                    self.store_u8::<M, N>(&sums, y, |sum, scale| clamp.round(sum, scale), |v| clamp.narrow(v));
                }
                return;
            }
            // Through memory, so that one copy of the rest serves tiles of every height.
            let mut stored = [const { MaybeUninit::<__m512i>::uninit() }; 28];
            for m in 0..M {
                for n in 0..N {
                    stored[m * N + n].write(sums[m][n]);
                }
            }
            let stored = stored.as_ptr().cast();
            match self.y {
                Target::U8(y, finish) => self.finish::<N>(stored, M, y, finish),
                Target::F32(y) => self.store_f32::<N>(stored, M, y),
            }
        }
    }

    /// The sums of its rows, with the bias.
    ///
    /// # Safety
    /// See [`block`].
    #[inline(always)]
    pub(super) unsafe fn sums<const M: usize, const N: usize>(&self) -> [[__m512i; N]; M] {
        // SAFETY: see `run`.
        unsafe {
            let mut sums = [[_mm512_setzero_si512(); N]; M];
            for n in 0..N {
                let bias = _mm512_loadu_si512(self.bias.add(16 * n).cast());
                for m in 0..M {
                    sums[m][n] = bias;
                }
            }
            let (mut weights, mut ahead) = (self.weights, self.ahead);
            for line in 0..self.lines {
                let mut a = self.a.add(line * self.line);
                for _ in 0..self.steps {
                    let mut w = [_mm512_setzero_si512(); N];
                    for n in 0..N {
                        w[n] = _mm512_loadu_si512(weights.add(64 * n).cast());
                    }
                    for m in 0..M {
                        let x = _mm512_set1_epi32(a.add(m * self.stride).cast::<i32>().read_unaligned());
                        for n in 0..N {
                            sums[m][n] = _mm512_dpbusd_epi32(sums[m][n], x, w[n]);
                        }
                    }
                    _mm_prefetch::<_MM_HINT_T1>(ahead);
                    ahead = ahead.wrapping_add(self.ahead_step);
                    a = a.add(4);
                    weights = weights.add(64 * N);
                }
            }
            sums
        }
    }

    /// Stores sums of which nothing else becomes than bytes.
    #[inline(always)]
    unsafe fn store_u8<const M: usize, const N: usize>(
        &self,
        sums: &[[__m512i; N]; M],
        y: *mut u8,
        round: impl Fn(__m512i, __m512) -> __m512i,
        narrow: impl Fn([__m512i; 4]) -> __m512i,
    ) {
        // SAFETY: see `run`.
        unsafe {
            let mut scale = [_mm512_setzero_ps(); N];
            for n in 0..N {
                scale[n] = _mm512_loadu_ps(self.scale.add(16 * n));
            }
            // Spelled out, as the sums must not become an array that is indexed while running.
            macro_rules! rows {
                ($($first:literal)*) => {
                    $(if $first < M && $first % (4 / N) == 0 {
                        let mut values = [_mm512_setzero_si512(); 4];
                        for i in 0..4 / N * N {
                            let m = if $first + i / N < M { $first + i / N } else { M - 1 };
                            values[i] = round(sums[m][i % N], scale[i % N]);
                        }
                        let bytes = narrow(values);
                        let count = if M - $first < 4 / N { M - $first } else { 4 / N };
                        self.store::<N>(y.add($first * self.y_stride), count, bytes);
                    })*
                };
            }
            rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
        }
    }

    /// Stores sums with whatever else becomes of them: `rows` rows of `N` vectors.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn finish<const N: usize>(&self, sums: *const __m512i, rows: usize, y: *mut u8, finish: Finish<'_>) {
        // SAFETY: see `run`; masked loads and stores touch only columns of the block.
        unsafe {
            let mut scale = [_mm512_setzero_ps(); N];
            for n in 0..N {
                scale[n] = _mm512_loadu_ps(self.scale.add(16 * n));
            }
            let clamp = Clamp::new(finish.to);
            let table = finish.to.table.as_deref().filter(|_| has_vbmi()).map(|table| Table::load(table));
            let mut below = [_mm512_setzero_ps(); N];
            let prelu = finish.prelu.map(|(slopes, prelu)| {
                for n in 0..N {
                    let slopes = &slopes[(self.column + 16 * n).min(slopes.len())..];
                    let mask = (1u32 << slopes.len().min(16)) - 1;
                    below[n] = _mm512_maskz_loadu_ps(mask as u16, slopes.as_ptr());
                }
                Bend::new(finish.to, prelu)
            });
            let residual = finish.residual.map(|(values, add)| (values, Sum::new(add)));
            for first in (0..rows).step_by(4 / N) {
                let mut values = [_mm512_setzero_si512(); 4];
                for i in 0..4 / N * N {
                    let m = (first + i / N).min(rows - 1);
                    values[i] = clamp.round(*sums.add(m * N + i % N), scale[i % N]);
                }
                let mut bytes = match (&prelu, &table) {
                    (Some(prelu), _) => {
                        for i in 0..4 / N * N {
                            values[i] = prelu.apply(values[i], below[i % N]);
                        }
                        prelu.clamp.narrow(values)
                    }
                    (None, Some(table)) => table.find(clamp.narrow(values)),
                    (None, None) => clamp.narrow(values),
                };
                let (count, offset) = ((4 / N).min(rows - first), first * self.y_stride);
                if let Some((values, sum)) = &residual {
                    bytes = sum.apply(bytes, self.load::<N>(values.add(offset), count));
                }
                self.store::<N>(y.add(offset), count, bytes);
            }
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn store_f32<const N: usize>(&self, sums: *const __m512i, rows: usize, y: *mut f32) {
        // SAFETY: see `run`; masked stores write only columns of the block.
        unsafe {
            for n in 0..N {
                let scale = _mm512_loadu_ps(self.scale.add(16 * n));
                let left = self.columns.saturating_sub(16 * n).min(16);
                let mask = ((1u32 << left) - 1) as u16;
                for m in 0..rows {
                    let value = _mm512_mul_ps(_mm512_cvtepi32_ps(*sums.add(m * N + n)), scale);
                    _mm512_mask_storeu_ps(y.wrapping_add(m * self.y_stride + 16 * n), mask, value);
                }
            }
        }
    }

    /// Which bytes of a row of `N` vectors lie in the block.
    #[inline(always)]
    fn mask<const N: usize>(&self) -> u64 {
        if self.columns >= 16 * N { u64::MAX >> (64 - 16 * N) } else { (1 << self.columns) - 1 }
    }

    /// Stores `count` rows, at most `4 / N`, that lie one after the other in a register.
    #[inline(always)]
    unsafe fn store<const N: usize>(&self, y: *mut u8, count: usize, bytes: __m512i) {
        let full = self.columns >= 16 * N;
        // SAFETY: see `run`; the mask keeps the store to the block's columns.
        unsafe {
            match N {
                3 | 4 if full && N == 4 => _mm512_storeu_si512(y.cast(), bytes),
                3 | 4 => _mm512_mask_storeu_epi8(y.cast(), self.mask::<N>(), bytes),
                2 => {
                    let halves = [_mm512_castsi512_si256(bytes), _mm512_extracti64x4_epi64::<1>(bytes)];
                    for (i, half) in halves.into_iter().enumerate() {
                        if i < count && full {
                            _mm256_storeu_si256(y.add(i * self.y_stride).cast(), half);
                        } else if i < count {
                            _mm256_mask_storeu_epi8(y.add(i * self.y_stride).cast(), self.mask::<N>() as u32, half);
                        }
                    }
                }
                _ => {
                    let quarters = [
                        _mm512_castsi512_si128(bytes),
                        _mm512_extracti32x4_epi32::<1>(bytes),
                        _mm512_extracti32x4_epi32::<2>(bytes),
                        _mm512_extracti32x4_epi32::<3>(bytes),
                    ];
                    for (i, quarter) in quarters.into_iter().enumerate() {
                        if i < count && full {
                            _mm_storeu_si128(y.add(i * self.y_stride).cast(), quarter);
                        } else if i < count {
                            _mm_mask_storeu_epi8(y.add(i * self.y_stride).cast(), self.mask::<N>() as u16, quarter);
                        }
                    }
                }
            }
        }
    }

    /// Loads what [`store`](Self::store) would store to.
    #[inline(always)]
    unsafe fn load<const N: usize>(&self, x: *const u8, count: usize) -> __m512i {
        // SAFETY: the residual is as long as the output; the mask keeps the load to the block's columns.
        unsafe {
            match N {
                3 | 4 => _mm512_maskz_loadu_epi8(self.mask::<N>(), x.cast()),
                2 => {
                    let mask = self.mask::<N>() as u32;
                    let low = _mm256_maskz_loadu_epi8(mask, x.cast());
                    if count == 1 {
                        return _mm512_castsi256_si512(low);
                    }
                    let high = _mm256_maskz_loadu_epi8(mask, x.add(self.y_stride).cast());
                    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
                }
                _ => {
                    let mut rows = [_mm_setzero_si128(); 4];
                    for (i, row) in rows.iter_mut().enumerate().take(count) {
                        *row = _mm_maskz_loadu_epi8(self.mask::<N>() as u16, x.add(i * self.y_stride).cast());
                    }
                    let low = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(rows[0]), rows[1]);
                    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(low, rows[2]), rows[3])
                }
            }
        }
    }
}

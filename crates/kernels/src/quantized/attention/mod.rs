//! Attention between quantized queries, keys, values and weights, without a matrix of scores in memory.
//!
//! Both products are exact integer dots; the softmax between them is an island of float, and its result is quantized again before it
//! multiplies the values.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
mod plain;

use super::epilogue::{Clip, Requantize};
use super::versions::per_isa;
#[cfg(target_arch = "x86_64")]
use crate::cpu::AVX512;
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::float::attention::{Line, weigh};
use crate::float::simd::{Kernel, Simd, dispatch};
use crate::heads::{BLOCK, Heads};
use crate::pool::{Pool, SharedMut};

/// How a sum of products of a query and a key becomes a score: `clamp(rint(f32(sum) ⊗ step), lo, hi) · unit`, or without rounding where
/// the graph does not quantize scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// Scores as integers around zero, if they are quantized: factor, least and largest.
    pub rounded: Option<(f32, f32, f32)>,
    /// What one of the integers, or of the sums, stands for, scaling of the scores included.
    pub unit: f32,
}

/// The sizes and constants of a quantized attention.
#[derive(Debug, Clone, PartialEq)]
pub struct QAttention {
    /// Sizes and places.
    pub heads: Heads,
    /// Stored values that mean zero: of queries, keys and values.
    pub zeros: [u8; 3],
    /// From sums to scores.
    pub scores: Scores,
    /// Scale of the weights.
    pub weight_scale: f32,
    /// Zero and range of the weights, as stored.
    pub weights: Clip,
    /// From sums of products of weights and values to results; one factor.
    pub output: Requantize,
}

/// Keys are worked on in groups of so many; also bytes of a vector of sums in the widest set.
pub(super) const LANES: usize = 16;

/// The parts of a task's scratch, in bytes; each a multiple of 64.
#[derive(Debug, Clone, Copy)]
struct Parts {
    /// Packed keys, and for each the sum of its values less zero.
    keys: usize,
    key_sums: usize,
    /// Packed values, and for each column the sum less zero.
    values: usize,
    value_sums: usize,
    /// A block of queries, padded.
    queries: usize,
    /// Their scores.
    scores: usize,
    /// The weights as bytes.
    weights: usize,
}

/// Keys, sizes of queries and sizes of values as packed.
#[derive(Debug, Clone, Copy)]
struct Padded {
    keys: usize,
    size: usize,
    value_size: usize,
}

impl QAttention {
    fn padded(&self) -> Padded {
        let Heads { keys, size, value_size, .. } = self.heads;
        Padded {
            keys: keys.next_multiple_of(LANES),
            size: size.next_multiple_of(4),
            value_size: value_size.next_multiple_of(LANES),
        }
    }

    fn parts(&self) -> Parts {
        let Padded { keys, size, value_size } = self.padded();
        let round = |bytes: usize| bytes.next_multiple_of(64);
        Parts {
            // Two bytes a value, which the plain loops need.
            keys: round(2 * keys * size),
            key_sums: round(4 * keys),
            values: round(2 * keys * value_size),
            value_sums: round(4 * value_size),
            queries: round(BLOCK * size),
            scores: round(4 * BLOCK * keys),
            weights: round(BLOCK * keys),
        }
    }

    /// Bytes of scratch that [`QAttention::run`] needs on a pool of `threads`.
    #[must_use]
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        threads * self.parts().total() + 64
    }

    /// Checks the constants, and that no sum can leave the range of `i32`.
    ///
    /// # Errors
    /// [`KernelError`] that says what is wrong.
    pub fn check(&self) -> Result<(), KernelError> {
        expect_len("requantization scale", self.output.scale.len(), 1)?;
        let [q, k, v] = self.zeros.map(|zero| i64::from(zero.max(255 - zero)));
        let weight = i64::from(self.weights.zero.max(255 - self.weights.zero));
        let bound = (q * k * self.heads.size as i64).max(weight * v * self.heads.keys as i64);
        // Sums of stored values, too, and those of weights are exact as floats.
        if bound > i64::from(i32::MAX) / 2 || self.heads.keys > 1 << 15 || self.heads.size > 1 << 15 {
            return Err(KernelError::Overflow { channel: 0, bound });
        }
        let finite = self.scores.unit.is_finite() && self.weight_scale.is_finite() && self.output.scale[0].is_finite();
        let ordered = self.weights.lo <= self.weights.hi && self.output.lo <= self.output.hi;
        if !finite || !ordered || self.weight_scale <= 0.0 {
            return Err(KernelError::Unsupported("attention with a scale or a range that is none".into()));
        }
        Ok(())
    }

    /// Computes `y` from queries, keys, values, and a mask where the sizes say there is one. Allocates nothing; the same result for any
    /// number of threads.
    ///
    /// # Errors
    /// [`KernelError`] when a slice is too short for the sizes, or as [`QAttention::check`].
    pub fn run(
        &self,
        isa: Isa,
        [q, k, v]: [&[u8]; 3],
        mask: Option<&[f32]>,
        y: &mut [u8],
        scratch: &mut [u8],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        self.check()?;
        self.heads.check([q.len(), k.len(), v.len(), y.len()], mask.map(<[f32]>::len))?;
        let isa = isa.or_supported();
        let (threads, each) = (pool.threads(), self.parts().total());
        expect_len("scratch", scratch.len().min(self.scratch_bytes(threads)), self.scratch_bytes(threads))?;
        let aligned = scratch.as_ptr().align_offset(64);
        let scratch = SharedMut::new(&mut scratch[aligned..]);
        let y = SharedMut::new(y);
        pool.run_indexed(self.heads.tasks(threads), &|worker, task| {
            let (item, head, queries) = self.heads.task(task, threads);
            // SAFETY: no two tasks at a time have the same worker.
            let own = unsafe { scratch.slice(worker * each..(worker + 1) * each) };
            Task { attention: self, isa, item, head, q, k, v, mask, y: &y }
                .run(queries, Scratch::split(self.parts(), own));
        });
        Ok(())
    }
}

impl Parts {
    fn total(&self) -> usize {
        self.keys + self.key_sums + self.values + self.value_sums + self.queries + self.scores + self.weights
    }
}

/// A task's memory.
struct Scratch<'a> {
    keys: &'a mut [u8],
    key_sums: &'a mut [i32],
    values: &'a mut [u8],
    value_sums: &'a mut [i32],
    queries: &'a mut [u8],
    scores: &'a mut [f32],
    weights: &'a mut [u8],
    /// Sums of the stored queries, then of the stored weights.
    row_sums: [i32; BLOCK],
}

impl<'a> Scratch<'a> {
    fn split(parts: Parts, bytes: &'a mut [u8]) -> Scratch<'a> {
        let (keys, rest) = bytes.split_at_mut(parts.keys);
        let (key_sums, rest) = rest.split_at_mut(parts.key_sums);
        let (values, rest) = rest.split_at_mut(parts.values);
        let (value_sums, rest) = rest.split_at_mut(parts.value_sums);
        let (queries, rest) = rest.split_at_mut(parts.queries);
        let (scores, weights) = rest.split_at_mut(parts.scores);
        Scratch {
            keys,
            key_sums: bytemuck::cast_slice_mut(key_sums),
            values,
            value_sums: bytemuck::cast_slice_mut(value_sums),
            queries,
            scores: bytemuck::cast_slice_mut(scores),
            weights,
            row_sums: [0; BLOCK],
        }
    }
}

struct Task<'a> {
    attention: &'a QAttention,
    isa: Isa,
    item: usize,
    head: usize,
    q: &'a [u8],
    k: &'a [u8],
    v: &'a [u8],
    mask: Option<&'a [f32]>,
    y: &'a SharedMut<'a, u8>,
}

impl Task<'_> {
    fn run(&self, queries: std::ops::Range<usize>, mut scratch: Scratch<'_>) {
        let a = self.attention;
        let (heads, padded) = (&a.heads, a.padded());
        let key_head = heads.key_head(self.head);
        let keys = &self.k[heads.k.start(self.item, key_head)..];
        let values = &self.v[heads.v.start(self.item, key_head)..];
        #[cfg(target_arch = "x86_64")]
        let wide = AVX512 && self.isa == Isa::Avx512;
        #[cfg(not(target_arch = "x86_64"))]
        let wide = false;
        if wide {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instructions.
            unsafe {
                avx512::pack(a, padded, keys, values, &mut scratch);
            };
        } else {
            plain::pack(a, padded, keys, values, &mut scratch);
        }
        let mut first = queries.start;
        while first < queries.end {
            let count = BLOCK.min(queries.end - first);
            let from = heads.q.start(self.item, self.head) + first * heads.q.row;
            for (i, row) in scratch.queries.chunks_exact_mut(padded.size).take(count.next_multiple_of(4)).enumerate() {
                row.fill(0);
                if i < count {
                    row[..heads.size].copy_from_slice(&self.q[from + i * heads.q.row..][..heads.size]);
                }
            }
            if wide {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                unsafe {
                    avx512::scores(a, padded, count, &mut scratch);
                };
            } else {
                plain::scores(self.isa, (a, padded, count), &mut scratch);
            }
            let place = (self.item, self.head, first);
            dispatch(
                self.isa,
                Weigh { attention: a, stride: padded.keys, count, place, mask: self.mask, scratch: &mut scratch },
            );
            let to = heads.y.start(self.item, self.head) + first * heads.y.row;
            let place = Place { y: self.y, first: to, stride: heads.y.row };
            if wide {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above; the rows are this task's.
                unsafe {
                    avx512::results(a, padded, count, &scratch, &place);
                };
            } else {
                plain::results(self.isa, (a, padded, count), &scratch, &place);
            }
            first += count;
        }
    }
}

/// Where a task's results go: rows of bytes that no other task writes.
struct Place<'a> {
    y: &'a SharedMut<'a, u8>,
    first: usize,
    stride: usize,
}

impl Place<'_> {
    /// A row.
    #[allow(clippy::mut_from_ref)]
    fn row(&self, i: usize, len: usize) -> &mut [u8] {
        let start = self.first + i * self.stride;
        // SAFETY: tasks are distinct heads or distinct queries of one, and a task has one of its rows at a time.
        unsafe { self.y.slice(start..start + len) }
    }
}

/// From the sums of a block of queries to their stored weights.
struct Weigh<'a, 'b> {
    attention: &'a QAttention,
    stride: usize,
    count: usize,
    /// Item, head, and first query.
    place: (usize, usize, usize),
    mask: Option<&'a [f32]>,
    scratch: &'a mut Scratch<'b>,
}

impl Kernel for Weigh<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut i = 0;
        while i < self.count {
            let (count, scratch) = (self.count, &mut *self.scratch);
            let block =
                Block { attention: self.attention, stride: self.stride, first: i, place: self.place, mask: self.mask };
            if count - i >= 4 {
                block.run::<S, 4>(s, scratch);
                i += 4;
            } else {
                block.run::<S, 1>(s, scratch);
                i += 1;
            }
        }
    }
}

/// Some rows at once, because each waits for its maximum and its sum.
struct Block<'a> {
    attention: &'a QAttention,
    stride: usize,
    first: usize,
    place: (usize, usize, usize),
    mask: Option<&'a [f32]>,
}

impl Block<'_> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(&self, s: S, scratch: &mut Scratch<'_>) {
        let (a, stride) = (self.attention, self.stride);
        let (item, head, query) = self.place;
        let lines: [Line<'_>; R] = std::array::from_fn(
            #[inline(always)]
            |r| Line::of(&a.heads, (item, head, query + self.first + r), self.mask),
        );
        let rows = &mut scratch.scores[self.first * stride..(self.first + R) * stride];
        let sums = match a.scores.rounded {
            Some((step, lo, hi)) => {
                let (step, lo, hi) = (s.splat(step), s.splat(lo), s.splat(hi));
                weigh(
                    s,
                    rows,
                    stride,
                    a.scores.unit,
                    #[inline(always)]
                    |v| s.round(s.clamp(s.mul(v, step), lo, hi)),
                    lines,
                )
            }
            None => weigh(
                s,
                rows,
                stride,
                a.scores.unit,
                #[inline(always)]
                |v| v,
                lines,
            ),
        };
        let Clip { zero, lo, hi } = a.weights;
        let (zero, lo, hi) = (s.splat(f32::from(zero)), s.splat(f32::from(lo)), s.splat(f32::from(hi)));
        for (r, sum) in sums.into_iter().enumerate() {
            // Softmax and division by the scale in one factor.
            let share = s.splat(1.0 / (sum * a.weight_scale));
            let bytes = &mut scratch.weights[(self.first + r) * stride..][..stride];
            let mut total = s.splat(0.0);
            for (at, x) in rows[r * stride..(r + 1) * stride].chunks_exact(S::LANES).enumerate() {
                let value = s.round(s.min(s.mul(s.load(x), share), s.splat(1024.0)));
                let value = s.clamp(s.add(value, zero), lo, hi);
                total = s.add(total, value);
                s.store_bytes(&mut bytes[at * S::LANES..], value);
            }
            // What was stored behind the last key is taken back.
            let behind: i32 = bytes[a.heads.keys..].iter().map(|byte| i32::from(*byte)).sum();
            bytes[a.heads.keys..].fill(0);
            scratch.row_sums[self.first + r] = s.sum(total) as i32 - behind;
        }
    }
}

#[cfg(test)]
mod tests;

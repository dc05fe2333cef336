//! Attention without the matrix of scores: of a block of queries at a time the scores are computed, made weights and multiplied by
//! the values while they are in the nearest caches (after Dao et al., "FlashAttention", 2022, whose tiling along the keys a
//! cache of a megabyte does not need).

use super::Clamp;
use super::elementwise::functions::exp;
use super::product::panels::Panels;
use super::product::{Product, Rows, tile_rows};
use super::simd::{Kernel, Simd, dispatch};
use crate::heads::{BLOCK, Heads};
use crate::pool::SharedMut;
use crate::{Isa, KernelError, Pool, expect_len};

/// Scaled dot-product attention: `softmax(q · kᵀ · scale + mask) · v`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    isa: Isa,
    heads: Heads,
    scale: f32,
}

impl Attention {
    /// An attention of these sizes, for `isa` or the best set below it that this machine has.
    #[must_use]
    pub fn new(isa: Isa, heads: Heads, scale: f32) -> Attention {
        Attention { isa: isa.or_supported(), heads, scale }
    }

    /// Floats of scratch that [`Attention::run`] needs on a pool of `threads`.
    #[must_use]
    pub fn scratch_len(&self, threads: usize) -> usize {
        threads * self.scratch_of_one().iter().sum::<usize>()
    }

    /// Packed keys, packed values, scores, and sums of a block.
    fn scratch_of_one(&self) -> [usize; 4] {
        let Heads { keys, size, value_size, .. } = self.heads;
        let panels = Panels::new(self.isa, size, keys);
        let scores = BLOCK * keys.next_multiple_of(panels.lanes());
        let lengths = [panels.len(), Panels::new(self.isa, keys, value_size).len(), scores, BLOCK];
        lengths.map(|len| len.next_multiple_of(16))
    }

    /// Computes `y` from queries, keys, values, and a mask where the sizes say there is one. Allocates nothing; the same result for
    /// any number of threads.
    ///
    /// # Errors
    /// [`KernelError`] when a slice is too short for the sizes.
    pub fn run(
        &self,
        [q, k, v]: [&[f32]; 3],
        mask: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        self.heads.check([q.len(), k.len(), v.len(), y.len()], mask.map(<[f32]>::len))?;
        let threads = pool.threads();
        let lengths = self.scratch_of_one();
        let each: usize = lengths.iter().sum();
        let Some(scratch) = scratch.get_mut(..threads * each) else {
            return expect_len("scratch", scratch.len(), threads * each);
        };
        let scratch = SharedMut::new(scratch);
        let out = y.as_mut_ptr();
        let out = SendPtr(out);
        pool.run_indexed(self.heads.tasks(threads), &|worker, task| {
            let (item, head, queries) = self.heads.task(task, threads);
            // SAFETY: no two tasks at a time have the same worker.
            let own = unsafe { scratch.slice(worker * each..(worker + 1) * each) };
            let (packed_k, rest) = own.split_at_mut(lengths[0]);
            let (packed_v, rest) = rest.split_at_mut(lengths[1]);
            let (scores, sums) = rest.split_at_mut(lengths[2]);
            let task = Task {
                attention: self,
                item,
                head,
                queries,
                q,
                k,
                v,
                mask,
                out: &out,
                packed_k,
                packed_v,
                scores,
                sums,
            };
            dispatch(self.isa, task);
        });
        Ok(())
    }
}

/// The first result, for tasks that write different ones.
struct SendPtr(*mut f32);

// SAFETY: tasks write different rows.
unsafe impl Sync for SendPtr {}

struct Task<'a> {
    attention: &'a Attention,
    item: usize,
    head: usize,
    queries: std::ops::Range<usize>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    mask: Option<&'a [f32]>,
    out: &'a SendPtr,
    packed_k: &'a mut [f32],
    packed_v: &'a mut [f32],
    scores: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let heads = &self.attention.heads;
        let Heads { keys, size, value_size, .. } = *heads;
        let key_head = heads.key_head(self.head);
        let (keys_at, values_at) = (heads.k.start(self.item, key_head), heads.v.start(self.item, key_head));
        let k_panels = Panels::new_inside(s, size, keys);
        for panel in 0..k_panels.count() {
            k_panels.pack(panel, &self.k[keys_at..], 1, heads.k.row, &mut self.packed_k[k_panels.offset(panel)..]);
        }
        let v_panels = Panels::new_inside(s, keys, value_size);
        for panel in 0..v_panels.count() {
            v_panels.pack(panel, &self.v[values_at..], heads.v.row, 1, &mut self.packed_v[v_panels.offset(panel)..]);
        }
        let stride = keys.next_multiple_of(S::LANES);
        let mut first = self.queries.start;
        while first < self.queries.end {
            let count = BLOCK.min(self.queries.end - first);
            let rows = tile_rows(count, S::ROWS);
            let product = Product {
                left: self.q[heads.q.start(self.item, self.head) + first * heads.q.row..].as_ptr(),
                rows: Rows::Strided(heads.q.row),
                count,
                tile_rows: rows,
                taps: 1,
                depth: size,
                zeros: &[],
                panels: k_panels,
                right: self.packed_k,
                bias: &[],
                clamp: Clamp::NONE,
                in_order: false,
                out: self.scores.as_mut_ptr(),
                residual: std::ptr::null(),
                stride,
            };
            // SAFETY: the queries were checked to be there, and the scores are this task's.
            unsafe { product.run_inside(s, 0..count.div_ceil(rows), 0..k_panels.count()) };
            let mut i = 0;
            while i < count {
                // Several rows at once, because each waits for its maximum and its sum.
                macro_rules! rows {
                    ($n:literal) => {{
                        let lines = self.lines::<$n>(first + i);
                        let block = &mut self.scores[i * stride..(i + $n) * stride];
                        let sums = weigh(
                            s,
                            block,
                            stride,
                            self.attention.scale,
                            #[inline(always)]
                            |v| v,
                            lines,
                        );
                        self.sums[i..i + $n].copy_from_slice(&sums);
                        i += $n;
                    }};
                }
                if count - i >= 4 { rows!(4) } else { rows!(1) }
            }
            // SAFETY: the place was checked to be inside the results.
            let out = unsafe { self.out.0.add(heads.y.start(self.item, self.head) + first * heads.y.row) };
            let product = Product {
                left: self.scores.as_ptr(),
                rows: Rows::Strided(stride),
                depth: keys,
                panels: v_panels,
                right: self.packed_v,
                out,
                stride: heads.y.row,
                ..product
            };
            // SAFETY: as above; no other task writes these rows of this head.
            unsafe { product.run_inside(s, 0..count.div_ceil(rows), 0..v_panels.count()) };
            for i in 0..count {
                // SAFETY: a row of the results that only this task writes.
                let row = unsafe { std::slice::from_raw_parts_mut(out.add(i * heads.y.row), value_size) };
                let share = s.splat(1.0 / self.sums[i]);
                for y in row.chunks_mut(S::LANES) {
                    s.store_tail(y, s.mul(s.load_tail(y), share));
                }
            }
            first += count;
        }
    }
}

impl<'a> Task<'a> {
    /// The masks of `R` queries and the keys they see.
    #[inline(always)]
    fn lines<const R: usize>(&self, first: usize) -> [Line<'a>; R] {
        let mut lines = [Line { mask: None, seen: 0 }; R];
        for (i, line) in lines.iter_mut().enumerate() {
            *line = Line::of(&self.attention.heads, (self.item, self.head, first + i), self.mask);
        }
        lines
    }
}

/// What a query is told about the keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    /// What is added to the scores: a value for each key, or one for all.
    mask: Option<&'a [f32]>,
    /// Keys that it sees.
    seen: usize,
}

impl<'a> Line<'a> {
    /// That of a query of a head of an item.
    #[inline(always)]
    pub(crate) fn of(heads: &Heads, (item, head, query): (usize, usize, usize), mask: Option<&'a [f32]>) -> Line<'a> {
        let mask = mask.zip(heads.mask_at(item, head, query));
        let mask = mask.map(
            #[inline(always)]
            |(mask, (at, column))| if column == 0 { &mask[at..=at] } else { &mask[at..at + heads.keys] },
        );
        Line { mask, seen: if heads.causal { heads.keys.min(query + 1) } else { heads.keys } }
    }
}

/// Turns `R` rows of scores, each a whole number of vectors, into weights `e^(prepare(x)·scale + mask − max)`, zeros for keys that are not
/// seen, and gives their sums.
#[inline(always)]
pub(crate) fn weigh<S: Simd, const R: usize>(
    s: S,
    rows: &mut [f32],
    stride: usize,
    scale: f32,
    prepare: impl Fn(S::V) -> S::V,
    lines: [Line<'_>; R],
) -> [f32; R] {
    let scale = s.splat(scale);
    let mut top = [s.splat(f32::NEG_INFINITY); R];
    for at in (0..stride).step_by(S::LANES) {
        for r in 0..R {
            let Line { mask, seen } = lines[r];
            let m = match mask {
                None => s.splat(0.0),
                Some([one]) => s.splat(*one),
                Some(mask) if mask.len() >= at + S::LANES => s.load(&mask[at..]),
                Some(mask) => s.load_tail(&mask[at.min(mask.len())..]),
            };
            let x = &mut rows[r * stride + at..][..S::LANES];
            let mut value = s.fma(prepare(s.load(x)), scale, m);
            s.store(x, value);
            if at + S::LANES > seen {
                x[seen.saturating_sub(at)..].fill(f32::NEG_INFINITY);
                value = s.load(x);
            }
            top[r] = s.max(top[r], value);
        }
    }
    let mut shift = top;
    for r in 0..R {
        shift[r] = s.splat(s.largest(top[r]));
    }
    let mut totals = [s.splat(0.0); R];
    for at in (0..stride).step_by(S::LANES) {
        for r in 0..R {
            let x = &mut rows[r * stride + at..][..S::LANES];
            let e = exp(s, s.sub(s.load(x), shift[r]));
            s.store(x, e);
            totals[r] = s.add(totals[r], e);
        }
    }
    let mut sums = [0.0; R];
    for r in 0..R {
        sums[r] = s.sum(totals[r]);
    }
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::testing::noise;
    use crate::heads::{MaskRows, Rows as HeadRows};

    /// The definition, in f64.
    fn definition(h: &Heads, scale: f32, [q, k, v]: [&[f32]; 3], mask: Option<&[f32]>) -> Vec<f64> {
        let mut y = vec![0.0; h.batch * h.heads * h.queries * h.value_size];
        for (b, head) in (0..h.batch).flat_map(|b| (0..h.heads).map(move |head| (b, head))) {
            let group = h.key_head(head);
            for i in 0..h.queries {
                let seen = if h.causal { h.keys.min(i + 1) } else { h.keys };
                let scores: Vec<f64> = (0..seen)
                    .map(|j| {
                        let (q, k) = (&q[h.q.start(b, head) + i * h.q.row..], &k[h.k.start(b, group) + j * h.k.row..]);
                        let dot: f64 = (0..h.size).map(|c| f64::from(q[c]) * f64::from(k[c])).sum();
                        let mask = h.mask_at(b, head, i).map_or(0.0, |(at, column)| mask.unwrap()[at + j * column]);
                        dot * f64::from(scale) + f64::from(mask)
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for c in 0..h.value_size {
                    let value = |j: usize| f64::from(v[h.v.start(b, group) + j * h.v.row + c]);
                    y[h.y.start(b, head) + i * h.y.row + c] =
                        weights.iter().enumerate().map(|(j, w)| w * value(j)).sum::<f64>() / sum;
                }
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_set_agrees_with_the_definition(
            batch in 1..=2usize, groups in 1..=2usize, shared in 1..=2usize, queries in 1..=120usize, keys in 1..=70usize,
            size in 1..=40usize, value_size in 1..=40usize, joined: bool, causal: bool, masked in 0..=2u8,
        ) {
            let heads = groups * shared;
            let rows = |heads, count, size| if joined { HeadRows::joined(heads, count, size) } else { HeadRows::split(heads, count, size) };
            let mask = match masked {
                0 => None,
                1 => Some(MaskRows { item: keys, head: 0, row: 0, column: 1 }),
                _ => Some(MaskRows { item: 0, head: queries * keys, row: keys, column: 1 }),
            };
            let h = Heads {
                batch, heads, key_heads: groups, queries, keys, size, value_size, causal, mask,
                q: rows(heads, queries, size), k: rows(groups, keys, size), v: rows(groups, keys, value_size),
                y: rows(heads, queries, value_size),
            };
            let q = noise(1, batch * heads * queries * size);
            let (k, v) = (noise(2, batch * groups * keys * size), noise(3, batch * groups * keys * value_size));
            // Some keys are masked away, as padding is; the first never, so that something is left.
            let bias: Vec<f32> = noise(4, batch * heads * queries * keys).iter().enumerate()
                .map(|(i, m)| if *m > 0.5 && i % keys != 0 { -3.4e38 } else { *m }).collect();
            let scale = 1.0 / (size as f32).sqrt();
            let mask = mask.map(|_| &bias[..]);
            let want = definition(&h, scale, [&q, &k, &v], mask);
            for isa in Isa::available() {
                let attention = Attention::new(isa, h, scale);
                let mut first = vec![];
                for threads in 1..=3 {
                    let pool = Pool::kept(threads);
                    let mut y = vec![f32::NAN; want.len()];
                    let mut scratch = vec![f32::NAN; attention.scratch_len(threads)];
                    attention.run([&q, &k, &v], mask, &mut y, &mut scratch, &pool).unwrap();
                    for (got, want) in y.iter().zip(&want) {
                        prop_assert!((f64::from(*got) - want).abs() < 3e-6, "{} {got} {want}", isa.name());
                    }
                    if threads == 1 {
                        first.clone_from(&y);
                    }
                    prop_assert_eq!(&y, &first);
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let rows = HeadRows::split(1, 2, 2);
        let h = Heads {
            batch: 1,
            heads: 1,
            key_heads: 1,
            queries: 2,
            keys: 2,
            size: 2,
            value_size: 2,
            causal: false,
            q: rows,
            k: rows,
            v: rows,
            y: rows,
            mask: None,
        };
        let pool = Pool::new(1);
        let run = |h: Heads, len: usize, scratch: usize| {
            let x = vec![0.0; len];
            let mut scratch = vec![0.0; scratch];
            Attention::new(Isa::Scalar, h, 1.0).run([&x, &x, &x], None, &mut [0.0; 4], &mut scratch, &pool)
        };
        assert!(run(h, 4, 4096).is_ok());
        assert!(run(h, 3, 4096).is_err());
        assert!(run(h, 4, 10).is_err());
        assert!(run(Heads { keys: 0, ..h }, 4, 4096).is_err());
        assert!(run(Heads { mask: Some(MaskRows { item: 0, head: 0, row: 0, column: 1 }), ..h }, 4, 4096).is_err());
    }
}

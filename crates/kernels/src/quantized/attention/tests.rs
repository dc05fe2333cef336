use proptest::prelude::*;

use super::*;
use crate::heads::{MaskRows, Rows};

/// Bytes that look random.
fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (((i + 1) * (2 * seed + 1) * 0x9e37) >> 7) as u8).collect()
}

/// The definition, one value at a time; weights as `e^x / Σ` in f32.
fn definition(a: &QAttention, [q, k, v]: [&[u8]; 3], mask: Option<&[f32]>) -> Vec<Vec<f64>> {
    let h = &a.heads;
    let [qz, kz, vz] = a.zeros.map(i32::from);
    let mut all = vec![vec![]; h.batch * h.heads * h.queries * h.value_size];
    for (b, head) in (0..h.batch).flat_map(|b| (0..h.heads).map(move |head| (b, head))) {
        let group = h.key_head(head);
        for i in 0..h.queries {
            let seen = if h.causal { h.keys.min(i + 1) } else { h.keys };
            let scores: Vec<f64> = (0..seen)
                .map(|j| {
                    let (q, k) = (&q[h.q.start(b, head) + i * h.q.row..], &k[h.k.start(b, group) + j * h.k.row..]);
                    let sum: i32 = (0..h.size).map(|c| (i32::from(q[c]) - qz) * (i32::from(k[c]) - kz)).sum();
                    let score = match a.scores.rounded {
                        Some((step, lo, hi)) => (sum as f32 * step).round_ties_even().clamp(lo, hi),
                        None => sum as f32,
                    };
                    let mask = h.mask_at(b, head, i).map_or(0.0, |(at, column)| mask.unwrap()[at + j * column]);
                    f64::from(score) * f64::from(a.scores.unit) + f64::from(mask)
                })
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp() / sum / f64::from(a.weight_scale)).collect();
            for c in 0..h.value_size {
                // Both neighbours where a weight lies so near the middle between them that float arithmetic may take either.
                let mut low = 0f64;
                let mut high = 0f64;
                for j in 0..h.keys {
                    let weight = weights.get(j).copied().unwrap_or(0.0);
                    let value = f64::from(i32::from(v[h.v.start(b, group) + j * h.v.row + c]) - vz);
                    let stored = |w: f64| {
                        let (zero, lo, hi) =
                            (f64::from(a.weights.zero), f64::from(a.weights.lo), f64::from(a.weights.hi));
                        (w.round_ties_even() + zero).clamp(lo, hi) - zero
                    };
                    let slack = 1e-5 * weight + 1e-6;
                    let ends = [stored(weight - slack) * value, stored(weight + slack) * value];
                    low += ends[0].min(ends[1]);
                    high += ends[0].max(ends[1]);
                }
                all[h.y.start(b, head) + i * h.y.row + c] = vec![low, high];
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_set_agrees_with_the_definition(
        batch in 1..=2usize, groups in 1..=2usize, shared in 1..=2usize, queries in 1..=70usize, keys in 1..=90usize,
        size in 1..=40usize, value_size in 1..=40usize, joined: bool, causal: bool, masked: bool, rounded: bool, table: bool,
        zeros: [u8; 3], weight_zero in 0..=3u8, out_zero: u8,
    ) {
        let heads = groups * shared;
        let rows = |heads, count, size| if joined { Rows::joined(heads, count, size) } else { Rows::split(heads, count, size) };
        let h = Heads {
            batch, heads, key_heads: groups, queries, keys, size, value_size, causal,
            mask: masked.then_some(MaskRows { item: 0, head: 0, row: keys, column: 1 }),
            q: rows(heads, queries, size), k: rows(groups, keys, size), v: rows(groups, keys, value_size),
            y: rows(heads, queries, value_size),
        };
        let mut flip = Box::new([0u8; 256]);
        flip.iter_mut().enumerate().for_each(|(i, t)| *t = 255 - i as u8);
        let a = QAttention {
            heads: h,
            zeros,
            scores: Scores { rounded: rounded.then_some((1e-2, -100.0, 120.0)), unit: if rounded { 0.05 } else { 5e-4 } },
            weight_scale: 1.0 / 250.0,
            weights: Clip { zero: weight_zero, lo: 0, hi: 255 },
            output: Requantize { scale: vec![0.003], zero: out_zero, lo: 3, hi: 250, table: table.then_some(flip) },
        };
        let (q, k) = (bytes(batch * heads * queries * size, 1), bytes(batch * groups * keys * size, 2));
        let v = bytes(batch * groups * keys * value_size, 3);
        let mask: Vec<f32> = (0..queries * keys).map(|i| if i % keys != 0 && i % 5 == 0 { -1e9 } else { (i % 7) as f32 * 0.1 }).collect();
        let mask = masked.then_some(&mask[..]);
        let want = definition(&a, [&q, &k, &v], mask);
        let mut first: Vec<u8> = vec![];
        for isa in Isa::available() {
            for threads in 1..=3 {
                let pool = Pool::kept(threads);
                let mut y = vec![0; want.len()];
                let mut scratch = vec![0xab; a.scratch_bytes(threads)];
                a.run(isa, [&q, &k, &v], mask, &mut y, &mut scratch, &pool).unwrap();
                for (got, want) in y.iter().zip(&want) {
                    // One sum has one result: anything between those of the two ends.
                    let ends = [want[0], want[1]].map(|sum| a.output.apply(sum as i32, 0));
                    let (lo, hi) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
                    prop_assert!((lo..=hi).contains(got), "{} {got} outside {lo}..={hi}", isa.name());
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
fn sums_that_could_overflow_are_refused() {
    let rows = Rows::split(1, 1, 4);
    let heads = Heads {
        batch: 1,
        heads: 1,
        key_heads: 1,
        queries: 1,
        keys: 1,
        size: 40_000,
        value_size: 4,
        causal: false,
        q: rows,
        k: rows,
        v: rows,
        y: rows,
        mask: None,
    };
    let a = QAttention {
        heads,
        zeros: [0; 3],
        scores: Scores { rounded: None, unit: 1.0 },
        weight_scale: 0.004,
        weights: Clip { zero: 0, lo: 0, hi: 255 },
        output: Requantize { scale: vec![1.0], zero: 0, lo: 0, hi: 255, table: None },
    };
    assert!(matches!(a.check(), Err(KernelError::Overflow { .. })));
    assert!(QAttention { heads: Heads { size: 4, ..heads }, ..a.clone() }.check().is_ok());
    let bad = QAttention { heads: Heads { size: 4, ..heads }, weight_scale: 0.0, ..a };
    assert!(bad.check().is_err());
}

//! The products in plain Rust, on differences from zero of 16 bits.

use super::{Padded, Place, QAttention, Scratch, per_isa};
use crate::cpu::Isa;

/// Puts keys side by side, `[size, keys]`, and values one after the other, `[keys, value size]`, less their zeros.
pub(super) fn pack(a: &QAttention, padded: Padded, keys: &[u8], values: &[u8], scratch: &mut Scratch<'_>) {
    let [_, k_zero, v_zero] = a.zeros.map(i16::from);
    let heads = &a.heads;
    let packed: &mut [i16] = bytemuck::cast_slice_mut(scratch.keys);
    packed.fill(0);
    for j in 0..heads.keys {
        for (c, k) in keys[j * heads.k.row..][..heads.size].iter().enumerate() {
            packed[c * padded.keys + j] = i16::from(*k) - k_zero;
        }
    }
    let packed: &mut [i16] = bytemuck::cast_slice_mut(scratch.values);
    for (j, row) in packed.chunks_exact_mut(padded.value_size).take(heads.keys).enumerate() {
        row.fill(0);
        for (to, v) in row.iter_mut().zip(&values[j * heads.v.row..][..heads.value_size]) {
            *to = i16::from(*v) - v_zero;
        }
    }
}

/// Sums of products of a block of queries and all keys, as floats.
pub(super) fn scores(isa: Isa, (a, padded, count): (&QAttention, Padded, usize), scratch: &mut Scratch<'_>) {
    let zero = i32::from(a.zeros[0]);
    let packed: &[i16] = bytemuck::cast_slice(scratch.keys);
    for i in 0..count {
        let query = &scratch.queries[i * padded.size..][..a.heads.size];
        let row = &mut scratch.scores[i * padded.keys..][..padded.keys];
        for (block, row) in row.chunks_mut(COLUMNS).enumerate() {
            let mut sums = [0; COLUMNS];
            products(isa, query, zero, (&packed[block * COLUMNS..], padded.keys), &mut sums[..row.len()]);
            for (score, sum) in row.iter_mut().zip(sums) {
                *score = sum as f32;
            }
        }
    }
}

/// Results of a block of queries.
pub(super) fn results(
    isa: Isa,
    (a, padded, count): (&QAttention, Padded, usize),
    scratch: &Scratch<'_>,
    place: &Place<'_>,
) {
    let zero = i32::from(a.weights.zero);
    let packed: &[i16] = bytemuck::cast_slice(scratch.values);
    for i in 0..count {
        let weights = &scratch.weights[i * padded.keys..][..a.heads.keys];
        let row = place.row(i, a.heads.value_size);
        for (block, row) in row.chunks_mut(COLUMNS).enumerate() {
            let mut sums = [0; COLUMNS];
            let width = row.len().next_multiple_of(super::LANES);
            let from = (&packed[block * COLUMNS..], padded.value_size);
            products(isa, weights, zero, from, &mut sums[..width]);
            for (y, sum) in row.iter_mut().zip(sums) {
                *y = a.output.apply(sum, 0);
            }
        }
    }
}

/// Columns summed at a time.
const COLUMNS: usize = 64;

per_isa! {
    /// Adds `Σ (left[c] − zero) · right[c][j]` to `sums[j]`; lines of the right side are so many values apart.
    fn products(left: &[u8], zero: i32, right: (&[i16], usize), sums: &mut [i32]) {
        let (right, stride) = right;
        let width = sums.len();
        for (c, left) in left.iter().enumerate() {
            let left = i32::from(*left) - zero;
            for (sum, right) in sums.iter_mut().zip(&right[c * stride..][..width]) {
                *sum += left * i32::from(*right);
            }
        }
    }
}

//! Randomized Hadamard rotations: orthogonal, so that nothing is lost, and with entries all about as large, so that one large
//! channel becomes many of middling size.

/// Orders without a power of two below them that the first construction of Paley gives: one more than a prime that leaves 3 of 4.
const PALEY: [usize; 5] = [12, 20, 44, 60, 68];

/// A rotation of the channels of a row, block by block. It is its own inverse if `fixes_ones`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rotation {
    /// Channels that are mixed with each other.
    pub block: usize,
    /// Rows of a Hadamard matrix that is no power of two, 1 if there is none.
    paley: Vec<Vec<f64>>,
    signs: Vec<f64>,
    fixes_ones: bool,
}

impl Rotation {
    /// `x ↦ (x∘signs)·H/√n` for blocks of `block` channels; `None` if there is no such matrix here.
    pub(super) fn of(block: usize, seed: u64) -> Option<Rotation> {
        let base = order(block)?;
        Some(Rotation { block, paley: paley(base), signs: signs(block, seed), fixes_ones: false })
    }

    /// `x ↦ (x·Hᵀ∘signs)·H/n` for all `channels`, or for blocks if there is no matrix of that order: symmetric, and what all channels have in
    /// common stays as it is, so that a mean over channels that is taken away is the same before and after.
    pub(super) fn around_the_mean(channels: usize, seed: u64) -> Option<Rotation> {
        let block = (4..=channels).rev().find(|b| channels.is_multiple_of(*b) && order(*b).is_some())?;
        let mut rotation = Rotation::of(block, seed)?;
        rotation.signs[0] = 1.0;
        rotation.fixes_ones = true;
        Some(rotation)
    }

    /// Rotates every block of a row.
    pub(super) fn apply(&self, row: &mut [f64]) {
        let norm = 1.0 / (self.block as f64).sqrt();
        for block in row.chunks_exact_mut(self.block) {
            if self.fixes_ones {
                self.transform(block, true);
                block.iter_mut().for_each(|v| *v *= norm);
            }
            block.iter_mut().zip(&self.signs).for_each(|(v, s)| *v *= s * norm);
            self.transform(block, false);
        }
    }

    /// The matrix that rows of a block are multiplied by, row-major.
    pub(super) fn matrix(&self) -> Vec<f64> {
        let mut all = vec![0.0; self.block * self.block];
        for (i, row) in all.chunks_exact_mut(self.block).enumerate() {
            row[i] = 1.0;
            self.apply(row);
        }
        all
    }

    /// `x·H`, or `x·Hᵀ`: the Kronecker product of a matrix of Sylvester, whose order is a power of two, and one of Paley.
    fn transform(&self, x: &mut [f64], transposed: bool) {
        let inner = self.paley.len();
        let mut half = inner;
        while half < x.len() {
            for pair in x.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        if inner == 1 {
            return;
        }
        for part in x.chunks_exact_mut(inner) {
            let old = part.to_vec();
            for (j, v) in part.iter_mut().enumerate() {
                let at = |i: usize| if transposed { self.paley[j][i] } else { self.paley[i][j] };
                *v = old.iter().enumerate().map(|(i, x)| x * at(i)).sum();
            }
        }
    }
}

/// The largest power of two that divides `n` and is at most `most`.
pub(super) fn power_of_two(n: usize, most: usize) -> usize {
    let mut block = 1;
    while block * 2 <= most && n.is_multiple_of(block * 2) {
        block *= 2;
    }
    block
}

/// The order of the matrix of Paley in a Hadamard matrix of order `n`: 1 if `n` is a power of two.
fn order(n: usize) -> Option<usize> {
    let fits = |m: &usize| n.is_multiple_of(*m) && (n / m).is_power_of_two();
    std::iter::once(1).chain(PALEY).find(fits).filter(|_| n > 1)
}

/// `I + S` with the residues of a prime `n − 1` (Paley, 1933); its first row is all ones.
fn paley(n: usize) -> Vec<Vec<f64>> {
    if n == 1 {
        return vec![vec![1.0]];
    }
    let q = n - 1;
    let mut residue = vec![-1.0; q];
    (1..q).for_each(|i| residue[i * i % q] = 1.0);
    let entry = |i: usize, j: usize| match (i, j) {
        (0, _) => 1.0,
        (_, 0) => -1.0,
        _ if i == j => 1.0,
        _ => residue[(j + q - i) % q],
    };
    (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect()
}

/// Random signs (SplitMix64).
fn signs(n: usize, seed: u64) -> Vec<f64> {
    let sign = |i: usize| {
        let mut z = (seed << 32 | i as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        if (z ^ (z >> 31)) >> 63 == 0 { 1.0 } else { -1.0 }
    };
    (0..n).map(sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
        (0..n * n).map(|k| (0..n).map(|i| a[k / n * n + i] * b[i * n + k % n]).sum()).collect()
    }

    #[test]
    fn rotations_are_orthogonal_and_even() {
        for n in [2, 8, 12, 20, 24, 40, 44, 64] {
            let all = Rotation::of(n, 3).unwrap().matrix();
            let transposed: Vec<f64> = (0..n * n).map(|k| all[k % n * n + k / n]).collect();
            for (k, v) in product(&all, &transposed, n).iter().enumerate() {
                assert!((v - f64::from(u8::from(k / n == k % n))).abs() < 1e-12, "{n}: {v}");
            }
            assert!(all.iter().all(|v| (v.abs() - 1.0 / (n as f64).sqrt()).abs() < 1e-12), "{n}");
        }
        assert!(Rotation::of(7, 1).is_none() && Rotation::of(1, 1).is_none());
    }

    #[test]
    fn what_all_channels_have_in_common_stays() {
        for n in [16, 24, 384, 36] {
            let rotation = Rotation::around_the_mean(n, 1).unwrap();
            let mut ones = vec![1.0; n];
            rotation.apply(&mut ones);
            assert!(ones.iter().all(|v| (v - 1.0).abs() < 1e-12), "{n}");
            // Twice is not at all, and one large channel becomes many smaller ones.
            let mut row = vec![0.0; n];
            row[5] = 1.0;
            rotation.apply(&mut row);
            let peak = row.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            assert!(n < 384 || peak < 0.25, "{n}: {peak}");
            rotation.apply(&mut row);
            assert!(row.iter().enumerate().all(|(i, v)| (v - f64::from(u8::from(i == 5))).abs() < 1e-12), "{n}");
        }
    }

    #[test]
    fn powers_of_two() {
        assert_eq!([power_of_two(384, 512), power_of_two(384, 40), power_of_two(7, 4)], [128, 32, 1]);
    }
}

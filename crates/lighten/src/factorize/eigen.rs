//! Eigenvalues and vectors of symmetric matrices: Householder's reduction to tridiagonal form, then implicit QL steps (Martin, Reinsch and
//! Wilkinson, 1968; Golub and Van Loan, "Matrix Computations", chapter 8).

/// A symmetric matrix taken apart: `A = Σ values[k] · vector(k) · vector(k)ᵀ`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Eigen {
    /// Descending.
    pub values: Vec<f64>,
    /// `n²`, one vector a row.
    vectors: Vec<f64>,
}

impl Eigen {
    /// Eigenvector `k`, of unit length.
    pub(super) fn vector(&self, k: usize) -> &[f64] {
        let n = self.values.len();
        &self.vectors[k * n..(k + 1) * n]
    }

    /// `A` to a power, `n²`; eigenvalues below `floor` times the greatest count as that.
    pub(super) fn power(&self, exponent: f64, floor: f64) -> Vec<f64> {
        let n = self.values.len();
        let least = self.values.first().copied().unwrap_or(0.0).max(f64::MIN_POSITIVE) * floor;
        let mut out = vec![0.0; n * n];
        for k in 0..n {
            let (v, factor) = (self.vector(k), self.values[k].max(least).powf(exponent));
            for i in 0..n {
                let scaled = factor * v[i];
                for (o, w) in out[i * n..(i + 1) * n].iter_mut().zip(v) {
                    *o += scaled * w;
                }
            }
        }
        out
    }
}

/// Takes a symmetric matrix of `n` rows apart; `None` if it holds anything but finite numbers.
pub(super) fn eigen(matrix: &[f64], n: usize) -> Option<Eigen> {
    if matrix.len() != n * n || matrix.iter().any(|v| !v.is_finite()) {
        return None;
    }
    // Row k of `v` is what will be vector k.
    let mut v = matrix.to_vec();
    let (mut d, mut e) = tridiagonal(&mut v, n);
    ql(&mut d, &mut e, &mut v, n)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| d[*b].total_cmp(&d[*a]).then(a.cmp(b)));
    let vectors = order.iter().flat_map(|k| v[k * n..(k + 1) * n].to_vec()).collect();
    Some(Eigen { values: order.iter().map(|k| d[*k]).collect(), vectors })
}

/// Reduces `a` to tridiagonal form: its diagonal and what stands beside it (from 1 on); `a` becomes the transformation, transposed.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut d, mut e) = (vec![0.0; n], vec![0.0; n]);
    // The reflections, each a unit vector of length k in row k.
    let mut reflections: Vec<Option<Vec<f64>>> = vec![None; n];
    for k in (1..n).rev() {
        let row: Vec<f64> = a[k * n..k * n + k].to_vec();
        let rest: f64 = row[..k - 1].iter().map(|x| x * x).sum();
        if rest == 0.0 {
            e[k] = row[k - 1];
            continue;
        }
        let length = (rest + row[k - 1] * row[k - 1]).sqrt();
        let alpha = if row[k - 1] > 0.0 { -length } else { length };
        let mut u = row;
        u[k - 1] -= alpha;
        let norm = u.iter().map(|x| x * x).sum::<f64>().sqrt();
        u.iter_mut().for_each(|x| *x /= norm);
        e[k] = alpha;
        // A ← (I − 2uuᵀ) A (I − 2uuᵀ) on the leading k rows: A − 2(u wᵀ + w uᵀ), w = p − (uᵀp) u, p = A u.
        let mut w: Vec<f64> =
            (0..k).map(|i| a[i * n..i * n + k].iter().zip(&u).map(|(x, y)| x * y).sum::<f64>()).collect();
        let inner: f64 = w.iter().zip(&u).map(|(x, y)| x * y).sum();
        w.iter_mut().zip(&u).for_each(|(x, y)| *x -= inner * y);
        for i in 0..k {
            let (ui, wi) = (2.0 * u[i], 2.0 * w[i]);
            for ((x, wj), uj) in a[i * n..i * n + k].iter_mut().zip(&w).zip(&u) {
                *x -= ui * wj + wi * uj;
            }
        }
        reflections[k] = Some(u);
    }
    for k in 0..n {
        d[k] = a[k * n + k];
    }
    // Q = H(n−1) … H(1); its transpose row by row.
    a.fill(0.0);
    (0..n).for_each(|i| a[i * n + i] = 1.0);
    for u in reflections.iter().flatten() {
        let k = u.len();
        // Qᵀ ← Qᵀ H: each row loses twice its part along u.
        for row in a.chunks_exact_mut(n) {
            let along: f64 = 2.0 * row[..k].iter().zip(u).map(|(x, y)| x * y).sum::<f64>();
            row[..k].iter_mut().zip(u).for_each(|(x, y)| *x -= along * y);
        }
    }
    (d, e)
}

/// Diagonalizes a tridiagonal matrix; the rows of `v` are rotated along.
fn ql(d: &mut [f64], e: &mut [f64], v: &mut [f64], n: usize) -> Option<()> {
    e.rotate_left(1);
    if let Some(last) = e.last_mut() {
        *last = 0.0;
    }
    for l in 0..n {
        for round in 0.. {
            let m = (l..n - 1).find(|m| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[m + 1].abs())).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if round == 60 {
                return None;
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut r = g.hypot(1.0);
            g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut early = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    early = true;
                    break;
                }
                s = f / r;
                c = g / r;
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                let (upper, lower) = v.split_at_mut((i + 1) * n);
                for (x, y) in upper[i * n..].iter_mut().zip(&mut lower[..n]) {
                    let f = *y;
                    *y = s * *x + c * f;
                    *x = c * *x - s * f;
                }
            }
            if !early {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symmetric(n: usize) -> Vec<f64> {
        let noise = |i: usize, j: usize| ((i * 7919 + j * 104_729 + i * j * 31) % 1009) as f64 / 1009.0 - 0.5;
        (0..n * n).map(|k| noise((k / n).max(k % n), (k / n).min(k % n))).collect()
    }

    #[test]
    fn parts_make_the_whole() {
        for n in [1, 2, 3, 8, 33, 64] {
            let a = symmetric(n);
            let e = eigen(&a, n).unwrap();
            assert!(e.values.is_sorted_by(|x, y| x >= y));
            for i in 0..n {
                for j in 0..n {
                    let sum: f64 = (0..n).map(|k| e.values[k] * e.vector(k)[i] * e.vector(k)[j]).sum();
                    assert!((sum - a[i * n + j]).abs() < 1e-10, "{n}: {i} {j}: {sum} {}", a[i * n + j]);
                    let dot: f64 = e.vector(i).iter().zip(e.vector(j)).map(|(x, y)| x * y).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-10);
                }
            }
        }
    }

    #[test]
    fn special_matrices() {
        let e = eigen(&[2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 5.0], 3).unwrap();
        assert_eq!(e.values, [5.0, 5.0, 2.0]);
        assert_eq!(eigen(&[0.0; 16], 4).unwrap().values, [0.0; 4]);
        assert_eq!(eigen(&[f64::NAN], 1), None);
        let root = eigen(&[4.0, 0.0, 0.0, 9.0], 2).unwrap().power(0.5, 0.0);
        assert!((root[0] - 2.0).abs() < 1e-12 && (root[3] - 3.0).abs() < 1e-12 && root[1].abs() < 1e-12);
    }
}

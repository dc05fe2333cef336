//! A layer as a matrix, and products of matrices of `f64`, row by row.

/// A matrix.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Row-major.
    pub values: Vec<f64>,
}

impl Matrix {
    /// A matrix of these values.
    pub(super) fn new(rows: usize, columns: usize, values: Vec<f64>) -> Matrix {
        debug_assert_eq!(values.len(), rows * columns);
        Matrix { rows, columns, values }
    }

    /// Zeros.
    pub(super) fn zeros(rows: usize, columns: usize) -> Matrix {
        Matrix::new(rows, columns, vec![0.0; rows * columns])
    }

    /// Row `i`.
    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.columns..(i + 1) * self.columns]
    }

    /// The product with `other`.
    pub(super) fn times(&self, other: &Matrix) -> Matrix {
        debug_assert_eq!(self.columns, other.rows);
        let mut out = Matrix::zeros(self.rows, other.columns);
        for (i, into) in out.values.chunks_exact_mut(other.columns.max(1)).enumerate() {
            for (k, x) in self.row(i).iter().enumerate() {
                if *x != 0.0 {
                    into.iter_mut().zip(other.row(k)).for_each(|(o, y)| *o += x * y);
                }
            }
        }
        out
    }

    /// Rows as columns.
    pub(super) fn transposed(&self) -> Matrix {
        let mut out = Matrix::zeros(self.columns, self.rows);
        for i in 0..self.rows {
            for (j, v) in self.row(i).iter().enumerate() {
                out.values[j * self.rows + i] = *v;
            }
        }
        out
    }

    /// `self · C · selfᵀ`, with a symmetric `C`, or a diagonal one given by its diagonal.
    pub(super) fn around(&self, c: &Weight) -> Matrix {
        self.weighed(c).times(&self.transposed())
    }

    /// `self · C`.
    pub(super) fn weighed(&self, c: &Weight) -> Matrix {
        match c {
            Weight::Full(c) => self.times(c),
            Weight::Diagonal(d) => {
                let mut out = self.clone();
                for row in out.values.chunks_exact_mut(self.columns.max(1)) {
                    row.iter_mut().zip(d).for_each(|(v, d)| *v *= d);
                }
                out
            }
        }
    }
}

/// How errors of the inputs of a layer count: their second moments.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Weight {
    /// Of all pairs.
    Full(Matrix),
    /// Of each with itself.
    Diagonal(Vec<f64>),
}

/// The power of what `lower` leaves of `whole` on inputs of these moments.
pub(super) fn error(whole: &Matrix, lower: &Matrix, moments: &Weight) -> f64 {
    let apart = whole.values.iter().zip(&lower.values).map(|(a, b)| a - b).collect();
    trace(&Matrix::new(whole.rows, whole.columns, apart).around(moments))
}

/// The sum of the diagonal.
pub(super) fn trace(m: &Matrix) -> f64 {
    (0..m.rows.min(m.columns)).map(|i| m.row(i)[i]).sum()
}

/// The lower triangle of a symmetric positive matrix (`n²`) becomes that of its Cholesky factor, row by row; what is above it is not read.
pub(crate) fn cholesky(l: &mut [f64], n: usize) {
    for i in 0..n {
        let (above, row) = l.split_at_mut(i * n);
        let row = &mut row[..n];
        for j in 0..i {
            let other = &above[j * n..j * n + j + 1];
            let dot: f64 = row.iter().zip(&other[..j]).map(|(a, b)| a * b).sum();
            row[j] = (row[j] - dot) / other[j];
        }
        let power: f64 = row[..i].iter().map(|v| v * v).sum();
        row[i] = (row[i] - power).max(f64::MIN_POSITIVE).sqrt();
    }
}

/// Solves `X · A = B` for a symmetric positive `A` (`n²`), with a little added to its diagonal where it is singular.
pub(super) fn solve_right(b: &Matrix, a: &Matrix) -> Matrix {
    let n = a.rows;
    let mean = trace(a) / n.max(1) as f64;
    let mut l = a.values.clone();
    (0..n).for_each(|i| l[i * n + i] += 1e-9 * mean + f64::MIN_POSITIVE);
    cholesky(&mut l, n);
    let mut x = b.clone();
    for row in x.values.chunks_exact_mut(n.max(1)) {
        for i in 0..n {
            let sum: f64 = (0..i).map(|k| l[i * n + k] * row[k]).sum();
            row[i] = (row[i] - sum) / l[i * n + i];
        }
        for i in (0..n).rev() {
            let sum: f64 = (i + 1..n).map(|k| l[k * n + i] * row[k]).sum();
            row[i] = (row[i] - sum) / l[i * n + i];
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_solutions() {
        let a = Matrix::new(2, 2, vec![4.0, 1.0, 1.0, 3.0]);
        let x = Matrix::new(3, 2, vec![1.0, 2.0, -1.0, 0.5, 0.0, 7.0]);
        let back = solve_right(&x.times(&a), &a);
        assert!(x.values.iter().zip(&back.values).all(|(a, b)| (a - b).abs() < 1e-6), "{back:?}");
        assert_eq!(x.transposed().transposed(), x);
        let d = Weight::Diagonal(vec![2.0, 3.0]);
        let full = Weight::Full(Matrix::new(2, 2, vec![2.0, 0.0, 0.0, 3.0]));
        assert_eq!(x.around(&d), x.around(&full));
    }
}

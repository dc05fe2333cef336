//! Differences between two sequences of numbers.

use qing_graph::{Tensor, Type};

/// Sums over all values of two places.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Difference {
    first: f64,
    second: f64,
    product: f64,
    error: f64,
    shift: f64,
    count: usize,
    /// Largest difference.
    pub max_error: f64,
    /// Largest magnitude in the first.
    pub max_value: f64,
}

impl Difference {
    pub(super) fn add(&mut self, a: &[f32], b: &[f32]) {
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            let error = b - a;
            self.first += a * a;
            self.second += b * b;
            self.product += a * b;
            self.error += error * error;
            self.shift += error;
            self.max_error = self.max_error.max(error.abs());
            self.max_value = self.max_value.max(a.abs());
        }
        self.count += a.len();
    }

    /// Power of the difference over that of the first; infinite for a difference from silence.
    pub(super) fn noise(&self) -> f64 {
        match (self.error, self.first) {
            (0.0, _) => 0.0,
            (_, 0.0) => f64::INFINITY,
            (error, first) => error / first,
        }
    }

    /// What the first is to be multiplied by to come closest to the second: 1 unless they are in different units.
    pub(super) fn gain(&self) -> f64 {
        if self.first > 0.0 { self.product / self.first } else { 1.0 }
    }

    /// [`Difference::noise`]; of values in different units what is left when they are brought to one.
    pub(super) fn unlike(&self) -> f64 {
        match self.cosine() {
            Some(cosine) if !(0.5..2.0).contains(&self.gain()) => self.noise().min(1.0 - cosine * cosine),
            _ => self.noise(),
        }
    }

    pub(super) fn snr_db(&self) -> Option<f64> {
        (self.first > 0.0).then(|| (-10.0 * self.noise().log10()).min(200.0))
    }

    pub(super) fn cosine(&self) -> Option<f64> {
        let norm = (self.first * self.second).sqrt();
        (norm > 0.0).then(|| (self.product / norm).clamp(-1.0, 1.0))
    }

    pub(super) fn mean_error(&self) -> f64 {
        self.shift / self.count.max(1) as f64
    }
}

/// The reals that a tensor stands for.
pub(super) fn reals(tensor: &Tensor, ty: &Type) -> Vec<f32> {
    let Some(quant) = ty.quant.as_deref() else { return tensor.to_f32s() };
    let slice = |i: usize| if quant.scales().len() == 1 { 0 } else { quant.slice_of(tensor.shape(), i) };
    let real = |(i, q): (usize, i32)| (q - quant.zero(slice(i))) as f32 * quant.scale(slice(i));
    tensor.to_ints().into_iter().enumerate().map(real).collect()
}

/// The values of the second in the order of the first: as they are if the shapes are equal, transposed if one has its channels last.
pub(super) fn comparable(a: &[usize], b: &[usize], values: Vec<f32>) -> Option<Vec<f32>> {
    if a == b {
        return Some(values);
    }
    let ([n, c, h, w], [bn, b1, b2, b3]) = (a, b) else { return None };
    if [*bn, *b1, *b2, *b3] == [*n, *h, *w, *c] {
        return Some(moved(&values, *n, h * w, *c));
    }
    // The first has its channels last: n, h, w, c are then its c, h, w.
    ([*bn, *b1, *b2, *b3] == [*n, *w, *c, *h]).then(|| moved(&values, *n, *w, c * h))
}

/// Each of `n` matrices of `rows`×`columns`, transposed.
fn moved(values: &[f32], n: usize, rows: usize, columns: usize) -> Vec<f32> {
    let size = rows * columns;
    (0..n * size).map(|i| values[i / size * size + i % size % rows * columns + i % size / rows]).collect()
}

/// The best class of every row of scores; `None` if these are none.
pub(super) fn classes(scores: &Tensor) -> Option<Vec<usize>> {
    let rows = *scores.shape().first()?;
    let count = scores.len().checked_div(rows)?;
    if scores.rank() < 2 || count < 2 || scores.shape()[1..].iter().filter(|d| **d > 1).count() != 1 {
        return None;
    }
    let best = |row: &[f32]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    Some(scores.to_f32s().chunks(count).map(best).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_by_hand() {
        let mut d = Difference::default();
        d.add(&[3.0, 4.0], &[3.0, 4.5]);
        assert!((d.snr_db().unwrap() - 20.0).abs() < 1e-12, "{:?}", d.snr_db());
        assert_eq!((d.max_error, d.mean_error(), d.max_value), (0.5, 0.25, 4.0));
        let cosine = (9.0 + 18.0) / (5.0 * (9.0f64 + 20.25).sqrt());
        assert!((d.cosine().unwrap() - cosine).abs() < 1e-12);
        assert!((d.gain() - 1.08).abs() < 1e-12 && d.unlike() == d.noise(), "{}", d.gain());
        let mut unit = Difference::default();
        unit.add(&[3.0, 4.0], &[30.0, 40.0]);
        assert!((unit.gain() - 10.0).abs() < 1e-12 && unit.unlike() < 1e-12 && unit.noise() > 1.0);
        let mut same = Difference::default();
        same.add(&[1.0], &[1.0]);
        assert_eq!((same.snr_db(), same.noise()), (Some(200.0), 0.0));
        let mut silent = Difference::default();
        silent.add(&[0.0], &[1.0]);
        assert_eq!((silent.snr_db(), silent.cosine()), (None, None));
    }

    #[test]
    fn channels_last_is_the_same_value() {
        // [1, 2, 1, 3] and [1, 1, 3, 2].
        let last = vec![0.0, 10.0, 1.0, 11.0, 2.0, 12.0];
        let first = vec![0.0, 1.0, 2.0, 10.0, 11.0, 12.0];
        assert_eq!(comparable(&[1, 2, 1, 3], &[1, 1, 3, 2], last.clone()), Some(first.clone()));
        assert_eq!(comparable(&[1, 1, 3, 2], &[1, 2, 1, 3], first), Some(last));
        assert_eq!(comparable(&[1, 2], &[2, 1], vec![0.0; 2]), None);
    }

    #[test]
    fn classes_are_rows_of_scores() {
        let scores = |shape: &[usize], v: &[f32]| Tensor::new(shape, v.to_vec()).unwrap();
        assert_eq!(classes(&scores(&[2, 3], &[0.0, 2.0, 1.0, 5.0, 2.0, 5.0])), Some(vec![1, 0]));
        assert_eq!(classes(&scores(&[1, 3, 1, 1], &[0.0, 2.0, 1.0])), Some(vec![1]));
        assert_eq!(classes(&scores(&[1, 2, 2], &[0.0; 4])), None);
        assert_eq!(classes(&scores(&[4], &[0.0; 4])), None);
    }
}

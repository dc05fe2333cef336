//! How often an activation takes which value.

/// Bins on each side of zero.
pub(super) const BINS: usize = 2048;

/// A histogram over `[-reach, reach)` of equal bins that doubles its reach when a value falls outside. The reach is a power
/// of two, so growing merges bins exactly and the result does not depend on how values were grouped into batches.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    reach: f32,
    /// Counts; bin `BINS` begins at zero.
    counts: Vec<u64>,
    min: f32,
    max: f32,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { reach: f32::MIN_POSITIVE, counts: vec![0; 2 * BINS], min: f32::INFINITY, max: f32::NEG_INFINITY }
    }
}

impl Histogram {
    /// Counts values; those that are not finite are left out.
    pub(crate) fn add(&mut self, values: &[f32]) {
        let (mut lo, mut hi) = (f32::INFINITY, f32::NEG_INFINITY);
        for v in values.iter().filter(|v| v.is_finite()) {
            lo = lo.min(*v);
            hi = hi.max(*v);
        }
        if lo > hi {
            return;
        }
        self.min = self.min.min(lo);
        self.max = self.max.max(hi);
        self.grow(lo.abs().max(hi.abs()));
        let per_unit = BINS as f32 / self.reach;
        let last = (2 * BINS - 1) as i32;
        for v in values.iter().filter(|v| v.is_finite()) {
            // The floor, without a call for every value.
            let scaled = v * per_unit;
            let whole = scaled as i32;
            let bin = whole - i32::from(whole as f32 > scaled) + BINS as i32;
            self.counts[bin.clamp(0, last) as usize] += 1;
        }
    }

    fn grow(&mut self, to: f32) {
        if self.counts.iter().all(|c| *c == 0) {
            // Nothing to merge yet: jump.
            while self.reach <= to && self.reach < f32::MAX / 4.0 {
                self.reach *= 2.0;
            }
            return;
        }
        while self.reach <= to && self.reach < f32::MAX / 4.0 {
            let mut merged = vec![0; 2 * BINS];
            for (i, c) in self.counts.iter().enumerate() {
                merged[BINS / 2 + i / 2] += c;
            }
            self.counts = merged;
            self.reach *= 2.0;
        }
    }

    /// Smallest and largest value seen, with zero between them; `None` if nothing was seen.
    pub(crate) fn range(&self) -> Option<(f32, f32)> {
        (self.min <= self.max).then(|| (self.min.min(0.0), self.max.max(0.0)))
    }

    /// The centre and count of every bin that is not empty, in ascending order.
    pub(crate) fn bins(&self) -> impl Iterator<Item = (f64, u64)> {
        let width = f64::from(self.reach) / BINS as f64;
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, c)| **c > 0)
            // The outermost bins are only partly reached.
            .map(move |(i, c)| (((i as f64 - BINS as f64 + 0.5) * width).clamp(min, max), *c))
    }

    /// How many values were counted.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grouping_does_not_matter() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 37) % 200) as f32 * 0.37 - 20.0).collect();
        let mut one = Histogram::default();
        one.add(&values);
        let mut many = Histogram::default();
        values.chunks(7).for_each(|c| many.add(c));
        assert_eq!((one.counts, one.reach), (many.counts.clone(), many.reach));
        assert_eq!(many.total(), 1000);
    }

    #[test]
    fn bins_stand_where_the_values_are() {
        let mut h = Histogram::default();
        h.add(&[0.0, 0.0, 1.0, -3.0, f32::NAN]);
        let bins: Vec<(f64, u64)> = h.bins().collect();
        assert_eq!(bins.iter().map(|b| b.1).collect::<Vec<_>>(), [1, 2, 1]);
        assert!(
            bins.iter().zip([-3.0, 0.0, 1.0]).all(|((x, _), want)| (x - want).abs() <= 4.0 / BINS as f64),
            "{bins:?}"
        );
        assert_eq!(h.range(), Some((-3.0, 1.0)));
    }
}

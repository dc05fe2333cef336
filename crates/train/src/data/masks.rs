use qing_data::DataError;
use qing_graph::Tensor;

use crate::random::Random;

/// Stripes of zeros across arrays `[time, frequency]` or `[time, frequency, 1]` (Park et al., "SpecAugment", 2019), and moves in
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Masks {
    /// Stripes over time: how many.
    pub times: usize,
    /// How many steps wide at most.
    pub time_width: usize,
    /// Stripes over frequency: how many.
    pub frequencies: usize,
    /// How many bands wide at most.
    pub frequency_width: usize,
    /// Steps by which all is moved in time at most, zeros coming in.
    pub shift: usize,
}

impl Masks {
    pub(super) fn apply(&self, array: &Tensor, random: &mut Random) -> Result<Tensor, DataError> {
        let (time, bands) = match *array.shape() {
            [t, f] | [t, f, 1] | [1, t, f] => (t, f),
            _ => {
                return Err(DataError::Invalid(format!(
                    "an array of shape {:?}: masks are for [time, frequency], with or without an axis of one",
                    array.shape()
                )));
            }
        };
        let mut values = array.to_f64s();
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let by = random.below(side(2 * self.shift + 1)) as isize - self.shift as isize;
        if by != 0 {
            let old = std::mem::replace(&mut values, vec![0.0; time * bands]);
            for t in 0..time {
                let from = t as isize - by;
                if (0..time as isize).contains(&from) {
                    let from = from as usize * bands;
                    values[t * bands..(t + 1) * bands].copy_from_slice(&old[from..from + bands]);
                }
            }
        }
        let mut stripe = |n: usize, width: usize| {
            let width = (random.below(side(width + 1)) as usize).min(n);
            let at = random.below(side(n - width + 1)) as usize;
            at..at + width
        };
        for _ in 0..self.times {
            let rows = stripe(time, self.time_width);
            values[rows.start * bands..rows.end * bands].fill(0.0);
        }
        for _ in 0..self.frequencies {
            let columns = stripe(bands, self.frequency_width);
            values.chunks_exact_mut(bands).for_each(|row| row[columns.clone()].fill(0.0));
        }
        Ok(Tensor::new(array.shape(), values)?.cast(array.element()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn stripes_and_shifts() {
        let ones = Tensor::new(&[6, 4, 1], vec![1i8; 24]).unwrap();
        let masks = Masks { times: 1, time_width: 2, frequencies: 1, frequency_width: 2, shift: 1 };
        let mut zeros = std::collections::BTreeSet::new();
        for i in 0..300 {
            let y = masks.apply(&ones, &mut Random::new(1, Purpose::Augment, 0, i)).unwrap();
            assert_eq!((y.element(), y.shape()), (ones.element(), ones.shape()));
            zeros.insert(y.to_ints().iter().filter(|v| **v == 0).count());
        }
        // Nothing, or up to three rows and two columns of 6 × 4.
        assert_eq!((zeros.first(), zeros.last()), (Some(&0), Some(&(3 * 4 + 2 * 3))));
        let flat = Tensor::vector(vec![1.0f32; 4]);
        let error = masks.apply(&flat, &mut Random::new(1, Purpose::Augment, 0, 0)).unwrap_err();
        assert!(error.to_string().contains("[time, frequency]"), "{error}");
    }
}

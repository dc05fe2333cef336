use crate::{TrainError, parameters::Values};

/// An exponential moving average of all values of a network (Polyak and Juditsky 1992; Tarvainen and Valpola 2017). Early
/// on, when there is little to average, it forgets faster: the share of the old average is min(decay, (1 + t) / (10 + t)).
#[derive(Debug, Clone, PartialEq)]
pub struct Average {
    decay: f32,
    updates: u64,
    values: Values,
}

impl Average {
    /// An average that starts at these values.
    ///
    /// # Errors
    /// If the decay is not between 0 and 1.
    pub fn new(decay: f32, values: Values) -> Result<Average, TrainError> {
        if !(0.0..1.0).contains(&decay) {
            return Err(TrainError::invalid(format!(
                "the share of an average that stays is in 0 to below 1, got {decay}"
            )));
        }
        Ok(Average { decay, updates: 0, values })
    }

    /// Starts an update; gives the share of what is new.
    pub(crate) fn begin(&mut self) -> f32 {
        self.updates += 1;
        let t = self.updates as f32;
        1.0 - self.decay.min((1.0 + t) / (10.0 + t))
    }

    /// Mixes the share of parameter `i`.
    pub(crate) fn parameter(&mut self, i: usize, share: f32, value: &[f32]) {
        mix(&mut self.values.parameters[i], share, value);
    }

    /// Sets these values of parameter `i` to zero.
    pub(crate) fn zero(&mut self, i: usize, positions: &[u32]) {
        positions.iter().for_each(|at| self.values.parameters[i][*at as usize] = 0.0);
    }

    /// Mixes the share of statistic `i`.
    pub(crate) fn statistic(&mut self, i: usize, share: f32, value: &[f32]) {
        mix(&mut self.values.statistics[i], share, value);
    }

    /// The averages.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Takes up where another run stopped.
    pub fn resume(&mut self, updates: u64, values: Values) {
        (self.updates, self.values) = (updates, values);
    }
}

fn mix(average: &mut [f32], share: f32, value: &[f32]) {
    for (a, v) in average.iter_mut().zip(value) {
        *a += share * (v - *a);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_slowly_and_faster_at_first() {
        let start = Values { parameters: vec![vec![0.0]], statistics: vec![vec![0.0]] };
        let mut average = Average::new(0.9, start.clone()).unwrap();
        let share = average.begin();
        assert!((share - 9.0 / 11.0).abs() < 1e-6);
        average.parameter(0, share, &[1.0]);
        for _ in 0..100 {
            let share = average.begin();
            average.parameter(0, share, &[1.0]);
            average.statistic(0, share, &[2.0]);
        }
        assert!((average.begin() - 0.1).abs() < 1e-6);
        let values = average.values();
        assert!((values.parameters[0][0] - 1.0).abs() < 1e-3 && (values.statistics[0][0] - 2.0).abs() < 1e-3);
        assert!(Average::new(1.0, start).is_err());
    }
}

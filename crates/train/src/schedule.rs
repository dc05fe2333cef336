//! How the learning rate changes over a run.

use crate::TrainError;

/// A learning rate for every step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub rate: f32,
    /// Share of all steps in which the rate rises from zero to the first of its curve.
    pub warm_up: f32,
    /// What follows.
    pub curve: Curve,
}

/// A curve over the steps after warm-up.
#[derive(Debug, Clone, PartialEq)]
pub enum Curve {
    /// The highest rate throughout.
    Constant,
    /// Multiplied by `factor` at each of these shares of the run.
    Steps {
        /// Between 0 and 1, ascending.
        at: Vec<f32>,
        /// Usually 0.1.
        factor: f32,
    },
    /// Half a cosine from the highest rate to `floor` times it (Loshchilov and Hutter, "SGDR", 2017).
    Cosine {
        /// Usually 0.
        floor: f32,
    },
    /// Half a cosine up from `start` times the highest rate until the share `peak` of the run, and another down to `end` times
    /// it (Smith and Topin, "Super-convergence", 2019).
    OneCycle {
        /// Share of the run at which the rate is highest.
        peak: f32,
        /// First rate over the highest.
        start: f32,
        /// Last rate over the highest.
        end: f32,
    },
}

impl Schedule {
    /// Refuses what makes no curve.
    ///
    /// # Errors
    /// Says which setting is out of which range.
    pub fn check(&self) -> Result<(), TrainError> {
        let bad = |what: &str| Err(TrainError::invalid(format!("schedule: {what}")));
        let share = |v: f32| (0.0..=1.0).contains(&v);
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return bad(&format!("the rate must be positive, got {}", self.rate));
        }
        if !share(self.warm_up) {
            return bad("warm-up is a share of the run, 0 to 1");
        }
        match &self.curve {
            Curve::Steps { at, factor } if !(at.iter().all(|a| share(*a)) && at.is_sorted() && *factor > 0.0) => {
                bad("`at` holds ascending shares of the run, 0 to 1, and `factor` is positive")
            }
            Curve::Cosine { floor } if !share(*floor) => bad("`floor` is a share of the highest rate, 0 to 1"),
            Curve::OneCycle { peak, start, end } if !(share(*peak) && share(*start) && share(*end)) => {
                bad("`peak` is a share of the run, `start` and `end` are shares of the highest rate, all 0 to 1")
            }
            _ => Ok(()),
        }
    }

    /// The rate of step `step` (from 0) of `total`.
    pub fn rate(&self, step: u64, total: u64) -> f32 {
        let warm = (f64::from(self.warm_up) * total as f64).round() as u64;
        let rest = total.saturating_sub(warm);
        if step < warm {
            let first = self.curve.at(0, rest);
            return (f64::from(self.rate) * first * (step + 1) as f64 / warm as f64) as f32;
        }
        (f64::from(self.rate) * self.curve.at(step - warm, rest)) as f32
    }
}

/// 1 at 0, 0 at 1, level at both ends.
fn fall(x: f64) -> f64 {
    (1.0 + (std::f64::consts::PI * x.clamp(0.0, 1.0)).cos()) / 2.0
}

impl Curve {
    fn at(&self, step: u64, total: u64) -> f64 {
        let x = step as f64 / total.max(1) as f64;
        match self {
            Curve::Constant => 1.0,
            Curve::Steps { at, factor } => {
                f64::from(*factor).powi(at.iter().filter(|a| f64::from(**a) <= x).count() as i32)
            }
            Curve::Cosine { floor } => {
                let floor = f64::from(*floor);
                floor + (1.0 - floor) * fall(x)
            }
            Curve::OneCycle { peak, start, end } => {
                let [peak, start, end] = [*peak, *start, *end].map(f64::from);
                // The last step is the end of the curve.
                let x = step as f64 / total.saturating_sub(1).max(1) as f64;
                if x < peak {
                    1.0 + (start - 1.0) * fall(x / peak)
                } else {
                    end + (1.0 - end) * fall((x - peak) / (1.0 - peak).max(1e-9))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(warm_up: f32, curve: Curve, steps: &[u64]) -> Vec<f32> {
        let schedule = Schedule { rate: 2.0, warm_up, curve };
        schedule.check().unwrap();
        steps.iter().map(|s| schedule.rate(*s, 100)).collect()
    }

    #[test]
    fn curves_pass_through_their_points() {
        let close = |got: Vec<f32>, want: &[f32]| {
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-3), "{got:?} for {want:?}");
        };
        close(rates(0.1, Curve::Constant, &[0, 4, 9, 10, 99]), &[0.2, 1.0, 2.0, 2.0, 2.0]);
        let steps = Curve::Steps { at: vec![0.5, 0.75], factor: 0.1 };
        close(rates(0.0, steps, &[49, 50, 75]), &[2.0, 0.2, 0.02]);
        close(rates(0.0, Curve::Cosine { floor: 0.1 }, &[0, 50, 100]), &[2.0, 1.1, 0.2]);
        let cycle = Curve::OneCycle { peak: 1.0 / 3.0, start: 0.04, end: 1e-3 };
        close(rates(0.0, cycle, &[0, 33, 66, 99]), &[0.08, 2.0, 1.001, 0.002]);
    }

    #[test]
    fn nonsense_is_refused() {
        let ok = Schedule { rate: 0.1, warm_up: 0.0, curve: Curve::Constant };
        for bad in [
            Schedule { rate: 0.0, ..ok.clone() },
            Schedule { warm_up: 2.0, ..ok.clone() },
            Schedule { curve: Curve::Steps { at: vec![0.9, 0.1], factor: 0.1 }, ..ok.clone() },
            Schedule { curve: Curve::OneCycle { peak: 3.0, start: 0.1, end: 0.1 }, ..ok },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}

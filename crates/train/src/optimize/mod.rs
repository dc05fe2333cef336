//! From gradients to new values: optimizers, weight decay, clipping, averages of the weights.
//!
//! Updates happen outside the graph, in place in the memory a session reads its parameters from, in a fixed order: the same
//! gradients give the same values at any number of threads.

mod average;
mod methods;

use crate::{
    TrainError,
    parameters::{Parameter, Role},
};
pub use average::Average;
pub use methods::Method;

/// What an optimizer is made of besides its [`Method`].
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How a gradient becomes a step.
    pub method: Method,
    /// Weight decay of [`Role::Weight`]; everything else has none, so that scales and shifts of normalizations, biases and
    /// quantizers' steps do not shrink. Part of the gradient for SGD, of the step for AdamW and Lion (Loshchilov and Hutter
    /// 2019).
    pub decay: f32,
    /// Factor of the learning rate for [`Role::Scale`].
    pub scale_rate: f32,
    /// Longest gradient: longer ones are shortened, all parameters taken together (Pascanu et al. 2013).
    pub clip: Option<f32>,
    /// Factors of the learning rate by name: the first whose pattern (`*` stands for anything) fits; 1 if none.
    pub rates: Vec<(String, f32)>,
    /// Weights ([`Role::Weight`]) that are zero at the start stay zero: a pruned network keeps its pattern (as the retraining of
    /// Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015).
    pub keep_zeros: bool,
    /// Weights that become sparse while they are trained, by name: the share that is zero in the end, of the first pattern that fits.
    /// The smallest go first, more and more of them (Zhu and Gupta, "To prune, or not to prune", 2017).
    pub sparsity: Vec<(String, f32)>,
    /// Share of the run after which they are as sparse as that.
    pub sparse_after: f32,
}

impl Default for Settings {
    fn default() -> Settings {
        let method = Method::Sgd { momentum: 0.9, nesterov: true };
        Settings {
            method,
            decay: 5e-4,
            scale_rate: 1.0,
            clip: None,
            rates: vec![],
            keep_zeros: false,
            sparsity: vec![],
            sparse_after: 0.5,
        }
    }
}

/// What a parameter's updates differ in.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Group {
    decay: f32,
    rate: f32,
}

/// An optimizer with its state.
#[derive(Debug, Clone)]
pub struct Optimizer {
    settings: Settings,
    groups: Vec<Group>,
    /// For each parameter the vectors its method keeps, parameter by parameter.
    state: Vec<Vec<Vec<f32>>>,
    /// For each parameter the positions that stay zero.
    zeros: Vec<Vec<u32>>,
    /// For each parameter the share that shall be zero in the end.
    sparsity: Vec<f32>,
    steps: u64,
}

impl Optimizer {
    /// An optimizer for these parameters, its state zero.
    ///
    /// # Errors
    /// If a setting is out of range; the message says what the range is.
    pub fn new(settings: &Settings, parameters: &[Parameter]) -> Result<Optimizer, TrainError> {
        settings.method.check()?;
        let not_negative = [("weight decay", settings.decay), ("the learning rate of scales", settings.scale_rate)];
        if let Some((what, v)) = not_negative.iter().find(|(_, v)| !(v.is_finite() && *v >= 0.0)) {
            return Err(TrainError::invalid(format!("{what} must be at least 0, got {v}")));
        }
        if settings.clip.is_some_and(|c| !(c.is_finite() && c > 0.0)) {
            return Err(TrainError::invalid("the length gradients are clipped to must be positive"));
        }
        if let Some((pattern, share)) = settings.sparsity.iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
            return Err(TrainError::invalid(format!("`{pattern}`: a share of zeros is 0 to below 1, got {share}")));
        }
        if !(settings.sparse_after > 0.0 && settings.sparse_after <= 1.0) {
            let after = settings.sparse_after;
            return Err(TrainError::invalid(format!(
                "weights are sparse after a share of the run, up to 1, got {after}"
            )));
        }
        let share =
            |p: &Parameter| named(&settings.sparsity, &p.name).filter(|_| p.role == Role::Weight).unwrap_or(0.0);
        let sparsity: Vec<f32> = parameters.iter().map(share).collect();
        if let Some((pattern, _)) = settings
            .sparsity
            .iter()
            .find(|(pattern, _)| !parameters.iter().any(|p| p.role == Role::Weight && matches(pattern, &p.name)))
        {
            return Err(TrainError::invalid(format!("`{pattern}` shall be sparse, but is the name of no weights")));
        }
        let groups = parameters.iter().map(|p| group(settings, p)).collect();
        let kept = settings.method.kept();
        let state = parameters.iter().map(|p| vec![vec![0.0; p.value.len()]; kept]).collect();
        let zeros = parameters.iter().map(|p| if settings.keep_zeros { zeros(p) } else { vec![] }).collect();
        Ok(Optimizer { settings: settings.clone(), groups, state, zeros, sparsity, steps: 0 })
    }

    /// Starts a step: counts it, and gives the factor that shortens the gradients, all of them together, to the length they
    /// are clipped to.
    pub fn begin<'a>(&mut self, gradients: impl Iterator<Item = &'a [f32]>) -> f32 {
        self.steps += 1;
        let Some(clip) = self.settings.clip else { return 1.0 };
        let length = norm(gradients);
        if length > f64::from(clip) { (f64::from(clip) / length) as f32 } else { 1.0 }
    }

    /// Updates parameter `i` by its gradient, times `factor`.
    ///
    /// # Panics
    /// If there is no such parameter or the lengths differ.
    pub fn update(&mut self, i: usize, rate: f32, factor: f32, value: &mut [f32], gradient: &[f32]) {
        let Group { decay, rate: of_group } = self.groups[i];
        self.settings.method.update(rate * of_group, decay, factor, self.steps, value, gradient, &mut self.state[i]);
        for position in &self.zeros[i] {
            value[*position as usize] = 0.0;
        }
    }

    /// Sets the smallest values of parameter `i` to zero, as many as shall be at a share `at` of the run, if it is one that becomes
    /// sparse. Gives the positions that stay zero.
    ///
    /// # Panics
    /// If there is no such parameter.
    pub fn prune(&mut self, i: usize, at: f32, value: &mut [f32]) -> &[u32] {
        let left = 1.0 - (at / self.settings.sparse_after).clamp(0.0, 1.0);
        let count = (self.sparsity[i] * (1.0 - left.powi(3)) * value.len() as f32) as usize;
        if count > self.zeros[i].len() {
            let mut order: Vec<u32> = (0..value.len() as u32).collect();
            // What is zero already is the smallest; of equals the first.
            let size = |at: &u32| value[*at as usize].abs();
            order.select_nth_unstable_by(count - 1, |a, b| size(a).total_cmp(&size(b)).then(a.cmp(b)));
            order.truncate(count);
            order.sort_unstable();
            order.iter().for_each(|at| value[*at as usize] = 0.0);
            self.zeros[i] = order;
        }
        &self.zeros[i]
    }

    /// Bytes of state, positions of zeros that stay among them.
    pub fn bytes(&self) -> usize {
        let zeros: usize = self.zeros.iter().map(|z| z.len() * size_of::<u32>()).sum();
        zeros + self.state.iter().flatten().map(|v| v.len() * size_of::<f32>()).sum::<usize>()
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The state, for a checkpoint.
    pub fn state(&self) -> &[Vec<Vec<f32>>] {
        &self.state
    }

    /// Takes up where another run stopped, with these values.
    ///
    /// # Errors
    /// If the state is not one of these parameters.
    pub fn resume(&mut self, steps: u64, state: Vec<Vec<Vec<f32>>>, values: &[Vec<f32>]) -> Result<(), TrainError> {
        let sizes =
            |s: &[Vec<Vec<f32>>]| s.iter().map(|p| p.iter().map(Vec::len).collect()).collect::<Vec<Vec<usize>>>();
        if sizes(&state) != sizes(&self.state) {
            return Err(TrainError::invalid("the optimizer's state in the checkpoint is of other parameters"));
        }
        (self.steps, self.state) = (steps, state);
        for ((zeros, share), value) in self.zeros.iter_mut().zip(&self.sparsity).zip(values) {
            if *share > 0.0 {
                *zeros = positions(value);
            }
        }
        Ok(())
    }
}

fn group(settings: &Settings, parameter: &Parameter) -> Group {
    let named = named(&settings.rates, &parameter.name).unwrap_or(1.0);
    Group {
        decay: if parameter.role == Role::Weight { settings.decay } else { 0.0 },
        rate: if parameter.role == Role::Scale { named * settings.scale_rate } else { named },
    }
}

/// The number of the first pattern that fits a name.
fn named(numbers: &[(String, f32)], name: &str) -> Option<f32> {
    numbers.iter().find(|(pattern, _)| matches(pattern, name)).map(|(_, number)| *number)
}

/// Positions of the zeros among a parameter's values; none if it is no weight.
fn zeros(parameter: &Parameter) -> Vec<u32> {
    if parameter.role != Role::Weight {
        return vec![];
    }
    positions(&parameter.value)
}

/// Where zeros are.
fn positions(values: &[f32]) -> Vec<u32> {
    (0u32..).zip(values).filter(|(_, v)| **v == 0.0).map(|(i, _)| i).collect()
}

/// Whether `*` in the pattern can stand for what makes it the name.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(tail) = name.strip_prefix(head) else { return false };
    (0..=tail.len()).filter(|i| tail.is_char_boundary(*i)).any(|i| matches(rest, &tail[i..]))
}

/// Euclidean length of all gradients together.
pub fn norm<'a>(gradients: impl Iterator<Item = &'a [f32]>) -> f64 {
    gradients.flatten().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use qing_graph::ValueId;

    use super::*;

    pub(super) fn parameter(name: &str, role: Role, value: Vec<f32>) -> Parameter {
        Parameter { name: name.into(), input: ValueId(0), shape: vec![value.len()], value, role }
    }

    #[test]
    fn only_weights_decay_and_groups_have_their_rates() {
        let parameters = [
            parameter("a.weight", Role::Weight, vec![1.0]),
            parameter("a.bias", Role::Bias, vec![1.0]),
            parameter("a.step", Role::Scale, vec![1.0]),
            parameter("head.weight", Role::Weight, vec![1.0]),
        ];
        let settings = Settings {
            method: Method::Sgd { momentum: 0.0, nesterov: false },
            decay: 0.5,
            scale_rate: 0.1,
            rates: vec![("head*".into(), 10.0)],
            ..Settings::default()
        };
        let mut optimizer = Optimizer::new(&settings, &parameters).unwrap();
        assert_eq!(optimizer.begin([].into_iter()), 1.0);
        let mut values = [1.0f32; 4];
        for (i, v) in values.iter_mut().enumerate() {
            optimizer.update(i, 0.1, 1.0, std::slice::from_mut(v), &[1.0]);
        }
        let want = [1.0 - 0.1 * 1.5, 0.9, 0.99, 1.0 - 1.5f32];
        assert!(values.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{values:?}");
    }

    #[test]
    fn the_smallest_weights_go_step_by_step_and_stay() {
        let value: Vec<f32> = (0..100).map(|i| ((i * 37 % 100) as f32 - 50.3) / 10.0).collect();
        let parameters = [
            parameter("a.weight", Role::Weight, value.clone()),
            parameter("a.bias", Role::Bias, value.clone()),
            parameter("b.weight", Role::Weight, value.clone()),
        ];
        let settings = Settings {
            method: Method::Sgd { momentum: 0.9, nesterov: true },
            sparsity: vec![("a*".into(), 0.8)],
            ..Settings::default()
        };
        let mut optimizer = Optimizer::new(&settings, &parameters).unwrap();
        let mut values = vec![value.clone(); 3];
        let gradient: Vec<f32> = (0..100).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut last = 0;
        for step in 0..=20 {
            let mut gone = vec![];
            for (i, v) in values.iter_mut().enumerate() {
                let zeros = optimizer.prune(i, step as f32 / 20.0, v).to_vec();
                gone.push(zeros.len());
                let most = zeros.iter().map(|at| value[*at as usize].abs()).fold(0.0, f32::max);
                // Nothing smaller is left at the beginning; later they have moved.
                assert!(step > 1 || i != 0 || v.iter().all(|v| *v == 0.0 || v.abs() >= most), "{step}");
            }
            assert_eq!(gone[1..], [0, 0]);
            assert!(gone[0] >= last);
            last = gone[0];
            optimizer.begin([].into_iter());
            values.iter_mut().enumerate().for_each(|(i, v)| optimizer.update(i, 0.01, 1.0, v, &gradient));
            assert_eq!(values[0].iter().filter(|v| **v == 0.0).count(), last, "{step}");
            if step == 7 {
                let mut other = Optimizer::new(&settings, &parameters).unwrap();
                other.resume(optimizer.steps(), optimizer.state().to_vec(), &values).unwrap();
                assert_eq!(other.zeros[0], optimizer.zeros[0]);
                optimizer = other;
            }
        }
        assert_eq!(last, 80);
        for (sparsity, sparse_after) in [(("a*", 1.0), 0.5), (("c*", 0.5), 0.5), (("a*", 0.5), 0.0)] {
            let sparsity = vec![(sparsity.0.to_owned(), sparsity.1)];
            let settings = Settings { sparsity, sparse_after, ..settings.clone() };
            assert!(Optimizer::new(&settings, &parameters).is_err());
        }
    }

    #[test]
    fn zeros_of_weights_stay_when_asked() {
        let parameters = [
            parameter("a.weight", Role::Weight, vec![0.0, 1.0, -0.0]),
            parameter("a.bias", Role::Bias, vec![0.0, 1.0, 0.0]),
        ];
        let momentum = Method::Sgd { momentum: 0.9, nesterov: true };
        for (keep_zeros, weights) in [(true, [true, false, true]), (false, [false; 3])] {
            let settings = Settings { method: momentum, keep_zeros, ..Settings::default() };
            let mut optimizer = Optimizer::new(&settings, &parameters).unwrap();
            for (i, still) in [weights, [false; 3]].into_iter().enumerate() {
                let mut values = parameters[i].value.clone();
                for _ in 0..3 {
                    optimizer.begin([].into_iter());
                    optimizer.update(i, 0.1, 1.0, &mut values, &[1.0, 2.0, -1.0]);
                }
                assert_eq!(values.iter().map(|v| *v == 0.0).collect::<Vec<_>>(), still, "{keep_zeros} {i} {values:?}");
            }
        }
    }

    #[test]
    fn long_gradients_are_shortened() {
        let parameters = [parameter("a", Role::Weight, vec![0.0; 2])];
        let mut optimizer = Optimizer::new(&Settings { clip: Some(1.0), ..Settings::default() }, &parameters).unwrap();
        assert_eq!(optimizer.begin([&[3.0f32, 4.0][..]].into_iter()), 0.2);
        assert_eq!(optimizer.begin([&[0.3f32, 0.4][..]].into_iter()), 1.0);
        assert_eq!((optimizer.steps(), optimizer.bytes()), (2, 8));
        assert!(optimizer.clone().resume(0, vec![], &[]).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for settings in [
            Settings { decay: -1.0, ..Settings::default() },
            Settings { clip: Some(0.0), ..Settings::default() },
            Settings { method: Method::Sgd { momentum: 1.0, nesterov: true }, ..Settings::default() },
            Settings { method: Method::AdamW { betas: [0.9, 1.0], epsilon: 1e-8 }, ..Settings::default() },
        ] {
            assert!(Optimizer::new(&settings, &[]).is_err(), "{settings:?}");
        }
    }

    #[test]
    fn patterns() {
        assert!(matches("a*c", "abbc") && matches("*", "") && matches("x", "x"));
        assert!(!matches("a*c", "abb") && !matches("x", "xy"));
    }
}

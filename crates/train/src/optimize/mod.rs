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
}

impl Default for Settings {
    fn default() -> Settings {
        let method = Method::Sgd { momentum: 0.9, nesterov: true };
        Settings { method, decay: 5e-4, scale_rate: 1.0, clip: None, rates: vec![], keep_zeros: false }
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
        let groups = parameters.iter().map(|p| group(settings, p)).collect();
        let kept = settings.method.kept();
        let state = parameters.iter().map(|p| vec![vec![0.0; p.value.len()]; kept]).collect();
        let zeros = parameters.iter().map(|p| if settings.keep_zeros { zeros(p) } else { vec![] }).collect();
        Ok(Optimizer { settings: settings.clone(), groups, state, zeros, steps: 0 })
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

    /// Takes up where another run stopped.
    ///
    /// # Errors
    /// If the state is not one of these parameters.
    pub fn resume(&mut self, steps: u64, state: Vec<Vec<Vec<f32>>>) -> Result<(), TrainError> {
        let sizes =
            |s: &[Vec<Vec<f32>>]| s.iter().map(|p| p.iter().map(Vec::len).collect()).collect::<Vec<Vec<usize>>>();
        if sizes(&state) != sizes(&self.state) {
            return Err(TrainError::invalid("the optimizer's state in the checkpoint is of other parameters"));
        }
        (self.steps, self.state) = (steps, state);
        Ok(())
    }
}

fn group(settings: &Settings, parameter: &Parameter) -> Group {
    let named = settings.rates.iter().find(|(pattern, _)| matches(pattern, &parameter.name)).map_or(1.0, |(_, r)| *r);
    Group {
        decay: if parameter.role == Role::Weight { settings.decay } else { 0.0 },
        rate: if parameter.role == Role::Scale { named * settings.scale_rate } else { named },
    }
}

/// Positions of the zeros among a parameter's values; none if it is no weight.
fn zeros(parameter: &Parameter) -> Vec<u32> {
    if parameter.role != Role::Weight {
        return vec![];
    }
    (0u32..).zip(&parameter.value).filter(|(_, v)| **v == 0.0).map(|(i, _)| i).collect()
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
            clip: None,
            keep_zeros: false,
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
        assert!(optimizer.clone().resume(0, vec![]).is_err());
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

use crate::TrainError;

/// How a gradient becomes a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Stochastic gradient descent with momentum `v ← momentum · v + g`, and Nesterov's look ahead `g + momentum · v`
    /// (Sutskever et al. 2013, as PyTorch writes it).
    Sgd {
        /// Share of the old velocity, 0 to below 1.
        momentum: f32,
        /// Whether the step looks ahead.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019).
    AdamW {
        /// Shares of the old first and second moment, 0 to below 1.
        betas: [f32; 2],
        /// Keeps the divisor from zero.
        epsilon: f32,
    },
    /// The sign of an interpolated momentum (Chen et al., "Symbolic discovery of optimization algorithms", 2023).
    Lion {
        /// Shares of the old momentum in the step and in the new momentum, 0 to below 1.
        betas: [f32; 2],
    },
}

impl Method {
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let shares: &[f32] = match self {
            Method::Sgd { momentum, .. } => std::slice::from_ref(momentum),
            Method::AdamW { betas, .. } | Method::Lion { betas } => betas,
        };
        match shares.iter().find(|b| !(0.0..1.0).contains(*b)) {
            Some(b) => Err(TrainError::invalid(format!("momentum and betas are at least 0 and below 1, got {b}"))),
            None => Ok(()),
        }
    }

    /// Vectors of state per parameter.
    pub fn kept(&self) -> usize {
        match self {
            Method::Sgd { momentum: 0.0, .. } => 0,
            Method::Sgd { .. } | Method::Lion { .. } => 1,
            Method::AdamW { .. } => 2,
        }
    }

    pub(super) fn update(
        &self,
        rate: f32,
        decay: f32,
        factor: f32,
        step: u64,
        value: &mut [f32],
        gradient: &[f32],
        state: &mut [Vec<f32>],
    ) {
        assert_eq!(value.len(), gradient.len(), "a gradient for each value");
        match (*self, state) {
            (Method::Sgd { momentum, nesterov }, [velocity]) => {
                for ((v, g), velocity) in value.iter_mut().zip(gradient).zip(velocity) {
                    let g = g * factor + decay * *v;
                    *velocity = momentum * *velocity + g;
                    *v -= rate * if nesterov { g + momentum * *velocity } else { *velocity };
                }
            }
            (Method::AdamW { betas: [b1, b2], epsilon }, [first, second]) => {
                // 1 − βᵗ, in f64: β₂ᵗ is close to one.
                let unbias = |b: f32| (1.0 - f64::from(b).powi(step.min(i32::MAX as u64) as i32)) as f32;
                let (u1, u2) = (unbias(b1), unbias(b2));
                for (((v, g), m), s) in value.iter_mut().zip(gradient).zip(first).zip(second) {
                    let g = g * factor;
                    *m = b1 * *m + (1.0 - b1) * g;
                    *s = b2 * *s + (1.0 - b2) * g * g;
                    *v -= rate * (*m / u1 / ((*s / u2).sqrt() + epsilon) + decay * *v);
                }
            }
            (Method::Lion { betas: [b1, b2] }, [momentum]) => {
                for ((v, g), m) in value.iter_mut().zip(gradient).zip(momentum) {
                    let g = g * factor;
                    let direction = b1 * *m + (1.0 - b1) * g;
                    let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
                    *m = b2 * *m + (1.0 - b2) * g;
                    *v -= rate * (sign + decay * *v);
                }
            }
            // SGD without momentum keeps nothing.
            _ => {
                for (v, g) in value.iter_mut().zip(gradient) {
                    *v -= rate * (g * factor + decay * *v);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps from 1 with gradients 0.5 and −1, decay 0.1, rate 0.1.
    fn two_steps(method: Method) -> f32 {
        let (mut v, mut state) = ([1.0f32], vec![vec![0.0f32]; method.kept()]);
        for (step, g) in [(1, 0.5), (2, -1.0)] {
            method.update(0.1, 0.1, 1.0, step, &mut v, &[g], &mut state);
        }
        v[0]
    }

    #[test]
    fn steps_computed_by_hand() {
        // Plain: 1 − 0.1·0.6 = 0.94; 0.94 − 0.1·(−1 + 0.094) = 1.0306.
        let cases = [
            (Method::Sgd { momentum: 0.0, nesterov: false }, 1.0306),
            // Velocities 0.6 and 0.54 − 0.906 = −0.366.
            (Method::Sgd { momentum: 0.9, nesterov: false }, 0.94 + 0.0366),
            // 1 − 0.1·(0.6 + 0.54) = 0.886; g = −1 + 0.0886 = −0.9114; velocity 0.54 − 0.9114 = −0.3714.
            (Method::Sgd { momentum: 0.9, nesterov: true }, 0.886 + 0.1 * (0.9114 + 0.9 * 0.3714)),
            // Sign +: 1 − 0.1·1.1 = 0.89. Momentum 0.005; direction 0.0045 − 0.1 < 0: 0.89 + 0.1·(1 − 0.089).
            (Method::Lion { betas: [0.9, 0.99] }, 0.89 + 0.0911),
        ];
        for (method, want) in cases {
            assert!((two_steps(method) - want).abs() < 1e-6, "{method:?}: {} for {want}", two_steps(method));
        }
        // First step 1 − 0.1·(1 + 0.1) = 0.89; m = 0.045 − 0.1 over 0.19, s = 0.00025·0.999 + 0.001 over 0.001999.
        let (m, s) = ((0.9 * 0.05 - 0.1) / 0.19, (0.999 * 0.00025 + 0.001) / 0.001_999f64);
        let want = 0.89 - 0.1 * (m / s.sqrt() + 0.089);
        let got = two_steps(Method::AdamW { betas: [0.9, 0.999], epsilon: 1e-8 });
        assert!((f64::from(got) - want).abs() < 1e-5, "{got} for {want}");
    }

    #[test]
    fn a_zero_gradient_moves_nothing_without_decay() {
        for method in [
            Method::Sgd { momentum: 0.9, nesterov: true },
            Method::AdamW { betas: [0.9, 0.999], epsilon: 1e-8 },
            Method::Lion { betas: [0.9, 0.99] },
        ] {
            let (mut v, mut state) = ([2.0f32], vec![vec![0.0f32]; method.kept()]);
            method.update(0.1, 0.0, 1.0, 1, &mut v, &[0.0], &mut state);
            assert_eq!(v, [2.0], "{method:?}");
        }
    }
}

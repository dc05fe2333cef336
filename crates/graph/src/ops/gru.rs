use super::support::recurrent::{Recurrent, affine};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Legacy, Op, OpError, Tensor, Type, op};

op! {
    /// Gated recurrent unit: update gate `z`, reset gate `r`, `h = (1 − z)·g(…) + z·h`. Weights are stacked z, r, h. Inputs: X,
    /// W, R, bias, sequence lengths, initial h. Outputs: h at every step, and the last h.
    GRU = "GRU" {
        /// Scaling values of the activations that have one, in order.
        activation_alpha: Vec<f32> = vec![],
        /// Offsets of the activations that have one, in order.
        activation_beta: Vec<f32> = vec![],
        /// Names of the activations `f` of the gates (sigmoid) and `g` of the state (tanh), of each direction.
        activations: Vec<String> = vec![],
        /// Bound of what activations are applied to.
        clip: Option<f32> = None,
        /// `forward`, `reverse` or `bidirectional`.
        direction: String = "forward".into(),
        /// Size of the state.
        hidden_size: Option<i64> = None,
        /// 0: X is `[sequence, batch, input]`; 1: `[batch, sequence, input]`, and outputs alike.
        layout: i64 = 0,
        /// Whether the reset gate is applied after the product with the state, rather than before.
        linear_before_reset: bool = false,
    }
    inputs: 3..=6, outputs: 1..=2,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 7 a node said whether it gives the states of all steps.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.attrs.remove("output_sequence");
    Ok(())
}

impl GRU {
    fn frame(&self) -> Recurrent<'_> {
        Recurrent {
            alpha: &self.activation_alpha,
            beta: &self.activation_beta,
            activations: &self.activations,
            default_activations: &["Sigmoid", "Tanh"],
            clip: self.clip,
            direction: &self.direction,
            hidden_size: self.hidden_size,
            layout: self.layout,
            gates: 3,
            states: 1,
        }
    }
}

impl Op for GRU {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        self.frame().infer(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let linear = self.linear_before_reset;
        self.frame().eval(cx, |direction, x, states| {
            let h = &states[0];
            let n = h.len();
            let (w, r) = (direction.from_input(x), direction.from_state(h));
            let gate = |first: usize, i: usize| direction.f[0](w[first + i] + r[first + i]);
            let reset: Vec<f64> = (0..n).map(|i| gate(n, i)).collect();
            let candidate: Vec<f64> = if linear {
                (0..n).map(|i| reset[i] * r[2 * n + i]).collect()
            } else {
                let kept: Vec<f64> = reset.iter().zip(h).map(|(r, h)| r * h).collect();
                affine(&direction.r[2 * n * n..], &kept, &direction.rb[2 * n..])
            };
            let next = |i: usize| {
                let z = gate(0, i);
                (1.0 - z) * direction.f[1](w[2 * n + i] + candidate[i]) + z * h[i]
            };
            states[0] = (0..n).map(next).collect();
        })
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        self.frame().macs(cx)
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        self.frame().gradient(cx, |cell, wx, states| {
            let h = states[0];
            let (r, gate) = (cell.from_state(cx, h)?, |i: usize, all| cell.gate(cx, i, all));
            let sum = cx.add(wx, r)?;
            let (update, reset) = (cell.f(cx, 0, gate(0, sum)?)?, cell.f(cx, 0, gate(1, sum)?)?);
            let candidate = if self.linear_before_reset {
                cx.mul(reset, gate(2, r)?)?
            } else {
                cell.from_state_of(cx, 2, cx.mul(reset, h)?)?
            };
            let new = cell.f(cx, 1, cx.add(gate(2, wx)?, candidate)?)?;
            Ok(vec![cx.add(cx.mul(cx.sub_from(1.0, update)?, new)?, cx.mul(update, h)?)?])
        })
    }
}

fn cases() -> Vec<Case> {
    // Gates are affine, so that the numbers are exact: f(x) = g(x) = x.
    let affine = |linear_before_reset| GRU {
        activations: vec!["Affine".into(); 2],
        linear_before_reset,
        ..GRU::default()
    };
    let case = |name: &str, linear, y: [f32; 2]| {
        Case::new(name, affine(linear))
            .f32(&[2, 1, 1], &[1., 2.])
            .f32(&[1, 3, 1], &[0.25, 0.5, 1.])
            .f32(&[1, 3, 1], &[0., 0., 2.])
            .f32(&[1, 6], &[0., 0., 0., 0.25, 0., 1.])
            .gives(&[2, 1, 1, 1], &y)
            .gives(&[1, 1, 1], &y[1..])
    };
    vec![
        // z = x/4 + 1/4, r = x/2. First: z = ½, r = ½, candidate 1 + 2·r·h + 1 = 2, h = 1. Then z = ¾, r = 1, candidate
        // 2 + 2·1·1 + 1 = 5, h = 5/4 + 3/4.
        case("reset_before", false, [1., 2.]),
        // Candidates x + r·(2·h + 1): 1.5, h = ¾; then 2 + 2.5 = 4.5, h = 1.125 + 0.5625.
        case("linear_before_reset", true, [0.75, 1.6875]),
    ]
}

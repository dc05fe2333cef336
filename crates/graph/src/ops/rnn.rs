use super::support::recurrent::Recurrent;
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Legacy, Op, OpError, Tensor, Type, op};

op! {
    /// Recurrent network of one gate: `h = f(W·x + R·h + b)`. Inputs: X, W, R, bias, sequence lengths, initial h. Outputs: h at
    /// every step, and the last h.
    RNN = "RNN" {
        /// Scaling values of the activations that have one, in order.
        activation_alpha: Vec<f32> = vec![],
        /// Offsets of the activations that have one, in order.
        activation_beta: Vec<f32> = vec![],
        /// Names of the activations `f` (tanh), of each direction.
        activations: Vec<String> = vec![],
        /// Bound of what activations are applied to.
        clip: Option<f32> = None,
        /// `forward`, `reverse` or `bidirectional`.
        direction: String = "forward".into(),
        /// Size of the state.
        hidden_size: Option<i64> = None,
        /// 0: X is `[sequence, batch, input]`; 1: `[batch, sequence, input]`, and outputs alike.
        layout: i64 = 0,
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

impl RNN {
    fn frame(&self) -> Recurrent<'_> {
        Recurrent {
            alpha: &self.activation_alpha,
            beta: &self.activation_beta,
            activations: &self.activations,
            default_activations: &["Tanh"],
            clip: self.clip,
            direction: &self.direction,
            hidden_size: self.hidden_size,
            layout: self.layout,
            gates: 1,
            states: 1,
        }
    }
}

impl Op for RNN {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        self.frame().infer(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        self.frame().eval(cx, |direction, x, states| {
            let (w, r) = (direction.from_input(x), direction.from_state(&states[0]));
            states[0] = w.iter().zip(&r).map(|(w, r)| direction.f[0](w + r)).collect();
        })
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        self.frame().macs(cx)
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        self.frame().gradient(cx, |cell, wx, states| Ok(vec![cell.f(cx, 0, cx.add(wx, cell.from_state(cx, states[0])?)?)?]))
    }
}

fn cases() -> Vec<Case> {
    let affine = |direction: &str, layout| RNN {
        activations: vec!["Affine".into(); if direction == "bidirectional" { 2 } else { 1 }],
        direction: direction.into(),
        layout,
        ..RNN::default()
    };
    vec![
        // h = 2x + h/2 + 1, from 0.
        Case::new("forward", affine("forward", 0))
            .f32(&[2, 1, 1], &[1., 2.])
            .f32(&[1, 1, 1], &[2.])
            .f32(&[1, 1, 1], &[0.5])
            .f32(&[1, 2], &[0.75, 0.25])
            .gives(&[2, 1, 1, 1], &[3., 6.5])
            .gives(&[1, 1, 1], &[6.5]),
        // The second sequence has one step; backwards starts at its last one. h = x + h/2, from 4 and 8.
        Case::new("bidirectional_with_lengths", affine("bidirectional", 1))
            .f32(&[2, 2, 1], &[1., 2., 3., 9.])
            .f32(&[2, 1, 1], &[1., 1.])
            .f32(&[2, 1, 1], &[0.5, 0.5])
            .no_input()
            .input(Tensor::vector(vec![2i32, 1]))
            .f32(&[2, 2, 1], &[4., 8., 4., 8.])
            .gives(&[2, 2, 2, 1], &[3., 4., 3.5, 6., 5., 7., 0., 0.])
            .gives(&[2, 2, 1], &[3.5, 4., 5., 7.]),
        Case::new("default_is_tanh", RNN { clip: Some(0.5), ..RNN::default() })
            .f32(&[1, 1, 1], &[3.])
            .f32(&[1, 1, 1], &[1.])
            .f32(&[1, 1, 1], &[0.])
            .gives(&[1, 1, 1, 1], &[0.462_117_16])
            .gives(&[1, 1, 1], &[0.462_117_16]),
    ]
}

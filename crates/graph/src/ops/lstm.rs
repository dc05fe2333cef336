use super::support::recurrent::Recurrent;
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Legacy, Op, OpError, Tensor, Type, op};

op! {
    /// Long short-term memory: gates i, o, f and cell c, in this order in the weights. Inputs: X, W, R, bias, sequence lengths,
    /// initial h, initial c, peephole weights. Outputs: h at every step, the last h and the last c.
    LSTM = "LSTM" {
        /// Scaling values of the activations that have one, in order.
        activation_alpha: Vec<f32> = vec![],
        /// Offsets of the activations that have one, in order.
        activation_beta: Vec<f32> = vec![],
        /// Names of the activations `f` of the gates (sigmoid), `g` of the cell and `h` of the output (tanh), of each direction.
        activations: Vec<String> = vec![],
        /// Bound of what activations are applied to.
        clip: Option<f32> = None,
        /// `forward`, `reverse` or `bidirectional`.
        direction: String = "forward".into(),
        /// Size of the state.
        hidden_size: Option<i64> = None,
        /// 0: X is `[sequence, batch, input]`; 1: `[batch, sequence, input]`, and outputs alike.
        layout: i64 = 0,
        /// Whether the forget gate is one minus the input gate.
        input_forget: bool = false,
    }
    inputs: 3..=8, outputs: 1..=3,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 7 a node said whether it gives the states of all steps.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.attrs.remove("output_sequence");
    Ok(())
}

impl LSTM {
    fn frame(&self) -> Recurrent<'_> {
        Recurrent {
            alpha: &self.activation_alpha,
            beta: &self.activation_beta,
            activations: &self.activations,
            default_activations: &["Sigmoid", "Tanh", "Tanh"],
            clip: self.clip,
            direction: &self.direction,
            hidden_size: self.hidden_size,
            layout: self.layout,
            gates: 4,
            states: 2,
        }
    }
}

impl Op for LSTM {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        self.frame().infer(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let coupled = self.input_forget;
        self.frame().eval(cx, |direction, x, states| {
            let n = states[0].len();
            let (w, r) = (direction.from_input(x), direction.from_state(&states[0]));
            let [f, g, h] = &direction.f[..] else { return };
            let sum = |gate: usize, i: usize| w[gate * n + i] + r[gate * n + i];
            let peep = |gate: usize, i: usize, c: f64| direction.peepholes[gate * n + i] * c;
            for i in 0..n {
                let c = states[1][i];
                let input = f(sum(0, i) + peep(0, i, c));
                let forget = if coupled { 1.0 - input } else { f(sum(2, i) + peep(2, i, c)) };
                let c = forget * c + input * g(sum(3, i));
                states[0][i] = f(sum(1, i) + peep(1, i, c)) * h(c);
                states[1][i] = c;
            }
        })
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        self.frame().macs(cx)
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        self.frame().gradient(cx, |cell, wx, states| {
            let (h, c) = (states[0], states[1]);
            let sum = cx.add(wx, cell.from_state(cx, h)?)?;
            let gate = |i: usize, c| cell.f(cx, 0, cell.peep(cx, i, cell.gate(cx, i, sum)?, c)?);
            let input = gate(0, c)?;
            let forget = if self.input_forget { cx.sub_from(1.0, input)? } else { gate(2, c)? };
            let new = cx.mul(input, cell.f(cx, 1, cell.gate(cx, 3, sum)?)?)?;
            let c = cx.add(cx.mul(forget, c)?, new)?;
            Ok(vec![cx.mul(gate(1, c)?, cell.f(cx, 2, c)?)?, c])
        })
    }
}

fn cases() -> Vec<Case> {
    // Activations are affine, so that the numbers are exact.
    let affine = |input_forget| LSTM { activations: vec!["Affine".into(); 3], input_forget, ..LSTM::default() };
    let case = |name: &str, input_forget, h: [f32; 2], c: f32| {
        Case::new(name, affine(input_forget))
            .f32(&[2, 1, 1], &[1., 2.])
            .f32(&[1, 4, 1], &[0.5, 1., 0.25, 2.])
            .f32(&[1, 4, 1], &[0., 0., 0., 1.])
            .f32(&[1, 8], &[0., 0., 0.5, 0., 0., 0., 0., 1.])
            .no_input()
            .no_input()
            .f32(&[1, 1, 1], &[4.])
            .f32(&[1, 3], &[0., 1., 0.25])
            .gives(&[2, 1, 1, 1], &h)
            .gives(&[1, 1, 1], &h[1..])
            .gives(&[1, 1, 1], &[c])
    };
    vec![
        // First: i = ½, f = ¼ + ½ + 4/4 = 1.75, cell 3, c = 7 + 1.5 = 8.5, o = 1 + 8.5, h = 80.75.
        // Then: i = 1, f = ½ + ½ + 2.125 = 3.125, cell 4 + 80.75 + 1 = 85.75, c = 26.5625 + 85.75, o = 2 + c.
        case("peepholes", false, [80.75, 12_838.723], 112.312_5),
        // f = 1 − i: c = 2 + 1.5, h = 4.5·3.5; then c = 0·3.5 + 1·(5 + 15.75), h = (2 + 20.75)·20.75.
        case("coupled", true, [15.75, 472.0625], 20.75),
        Case::new("default_activations", LSTM { hidden_size: Some(1), ..LSTM::default() })
            .f32(&[1, 1, 1], &[0.])
            .f32(&[1, 4, 1], &[0.; 4])
            .f32(&[1, 4, 1], &[0.; 4])
            .no_input()
            .no_input()
            .no_input()
            .f32(&[1, 1, 1], &[2.])
            // c = ½·2, h = ½·tanh(1).
            .gives(&[1, 1, 1, 1], &[0.380_797_1])
            .gives(&[1, 1, 1], &[0.380_797_1])
            .gives(&[1, 1, 1], &[1.]),
    ]
}

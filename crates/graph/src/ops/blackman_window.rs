use qing_tensor::Tensor;

use super::support::spectral::{eval_window, infer_window};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The window of Blackman, `0.42 − 0.5 · cos(2πn / N) + 0.08 · cos(4πn / N)`.
    BlackmanWindow = "BlackmanWindow" {
        /// Element of the result, as ONNX numbers it.
        output_datatype: i64 = 1,
        /// Whether `N` is the size, so that copies can follow each other, rather than one less.
        periodic: bool = true,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("a size does not vary smoothly"),
    cases: cases
}

impl Op for BlackmanWindow {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_window(cx, self.output_datatype)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        eval_window(cx, self.output_datatype, self.periodic, |turn| 0.42 - 0.5 * turn.cos() + 0.08 * (2.0 * turn).cos())
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("periodic", BlackmanWindow::default()).input(Tensor::scalar(4i64)).gives(&[4], &[0., 0.34, 1., 0.34]),
        Case::new("symmetric", BlackmanWindow { periodic: false, ..BlackmanWindow::default() })
            .input(Tensor::scalar(3i64))
            .gives(&[3], &[0., 1., 0.]),
    ]
}

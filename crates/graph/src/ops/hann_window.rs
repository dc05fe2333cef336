use qing_tensor::Tensor;

use super::support::spectral::{eval_window, infer_window};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The window of Hann, `sin²(πn / N)`.
    HannWindow = "HannWindow" {
        /// Element of the result, as ONNX numbers it.
        output_datatype: i64 = 1,
        /// Whether `N` is the size, so that copies can follow each other, rather than one less.
        periodic: bool = true,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("a size does not vary smoothly"),
    cases: cases
}

impl Op for HannWindow {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_window(cx, self.output_datatype)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        eval_window(cx, self.output_datatype, self.periodic, |turn| 0.5 - 0.5 * turn.cos())
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("periodic", HannWindow::default()).input(Tensor::scalar(4i64)).gives(&[4], &[0., 0.5, 1., 0.5]),
        Case::new("symmetric", HannWindow { periodic: false, ..HannWindow::default() })
            .input(Tensor::scalar(3i64))
            .gives(&[3], &[0., 1., 0.]),
    ]
}

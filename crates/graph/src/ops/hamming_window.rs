use qing_tensor::Tensor;

use super::support::spectral::{eval_window, infer_window};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The window of Hamming, `25/46 − 21/46 · cos(2πn / N)`.
    HammingWindow = "HammingWindow" {
        /// Element of the result, as ONNX numbers it.
        output_datatype: i64 = 1,
        /// Whether `N` is the size, so that copies can follow each other, rather than one less.
        periodic: bool = true,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("a size does not vary smoothly"),
    cases: cases
}

impl Op for HammingWindow {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_window(cx, self.output_datatype)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        eval_window(cx, self.output_datatype, self.periodic, |turn| (25.0 - 21.0 * turn.cos()) / 46.0)
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("periodic", HammingWindow::default()).input(Tensor::scalar(4i64)).gives(&[4], &[4. / 46., 25. / 46., 1., 25. / 46.]),
        Case::new("symmetric", HammingWindow { periodic: false, ..HammingWindow::default() })
            .input(Tensor::scalar(3i64))
            .gives(&[3], &[4. / 46., 1., 4. / 46.]),
    ]
}

use qing_tensor::Tensor;

use super::{GlobalAveragePool, support::qoperator};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Mean over all spatial axes of a quantized tensor with scales and zero points as inputs: x, x_scale, x_zero, y_scale,
    /// y_zero. The same numbers as a [`GlobalAveragePool`] of quantized types.
    QLinearGlobalAveragePool = "QLinearGlobalAveragePool" in "com.microsoft" {
        /// Whether the channels are the last axis.
        channels_last: bool = false,
    }
    inputs: 4..=5, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl Op for QLinearGlobalAveragePool {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        qoperator::infer_pool(&GlobalAveragePool {}, cx, self.channels_last)
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        qoperator::eval_pool(&GlobalAveragePool {}, cx, self.channels_last)
    }
}

fn cases() -> Vec<Case> {
    let case = |name: &str, channels_last, y_shape: &[usize], y: [u8; 2]| {
        Case::new(name, QLinearGlobalAveragePool { channels_last })
            .input(Tensor::new(&[1, 2, 2], vec![1u8, 2, 4, 8]).expect("fits"))
            .f32(&[], &[0.5])
            .input(Tensor::scalar(1u8))
            .f32(&[], &[0.25])
            .input(Tensor::scalar(5u8))
            .output(Tensor::new(y_shape, y.to_vec()).expect("fits"))
    };
    // Sums of x − 1: 1 and 10, or 3 and 8.
    vec![case("channels_first", false, &[1, 2, 1], [6, 15]), case("channels_last", true, &[1, 1, 2], [8, 13])]
}

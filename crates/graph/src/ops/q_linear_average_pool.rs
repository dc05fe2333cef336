use qing_tensor::Tensor;

use super::{AveragePool, support::qoperator};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Average pooling of a quantized tensor with scales and zero points as inputs: x, x_scale, x_zero, y_scale, y_zero. The
    /// same numbers as an [`AveragePool`] of quantized types.
    QLinearAveragePool = "QLinearAveragePool" in "com.microsoft" {
        /// `NOTSET`, `SAME_UPPER`, `SAME_LOWER` or `VALID`.
        auto_pad: String = "NOTSET".into(),
        /// Whether the last, partial window counts.
        ceil_mode: bool = false,
        /// Whether the channels are the last axis.
        channels_last: bool = false,
        /// Whether taps in the padding count, as zeros.
        count_include_pad: bool = false,
        /// Taps per spatial axis.
        kernel_shape: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 4..=5, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl QLinearAveragePool {
    /// The pooling of quantized types with these attributes, but for the place of the channels.
    pub fn pool(&self) -> AveragePool {
        AveragePool {
            auto_pad: self.auto_pad.clone(),
            ceil_mode: self.ceil_mode,
            count_include_pad: self.count_include_pad,
            dilations: vec![],
            kernel_shape: self.kernel_shape.clone(),
            pads: self.pads.clone(),
            strides: self.strides.clone(),
        }
    }
}

impl Op for QLinearAveragePool {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        qoperator::infer_pool(&self.pool(), cx, self.channels_last)
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        qoperator::eval_pool(&self.pool(), cx, self.channels_last)
    }
}

fn cases() -> Vec<Case> {
    let case = |name: &str, channels_last, shape: &[usize], y_shape: &[usize], y: [i8; 2]| {
        Case::new(name, QLinearAveragePool { kernel_shape: vec![2], channels_last, ..QLinearAveragePool::default() })
            .input(Tensor::new(shape, vec![1i8, 2, 4, 8]).expect("fits"))
            .f32(&[], &[0.5])
            .no_input()
            .f32(&[], &[0.25])
            .input(Tensor::scalar(-1i8))
            .output(Tensor::new(y_shape, y.to_vec()).expect("fits"))
    };
    vec![
        // Two channels: sums 3 and 12, times 0.5 / (2 · 0.25).
        case("channels_first", false, &[1, 2, 2], &[1, 2, 1], [2, 11]),
        // Two channels side by side: sums 5 and 10.
        case("channels_last", true, &[1, 2, 2], &[1, 1, 2], [4, 9]),
    ]
}

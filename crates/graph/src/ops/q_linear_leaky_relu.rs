use qing_tensor::Tensor;

use super::{LeakyRelu, support::qoperator};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `x` where it is not negative, `alpha · x` elsewhere, of a quantized tensor with scales and zero points as inputs: x,
    /// x_scale, x_zero, y_scale, y_zero. The same table as a [`LeakyRelu`] of quantized types.
    QLinearLeakyRelu = "QLinearLeakyRelu" in "com.microsoft" {
        /// Slope for negative values.
        alpha: f32 = 0.01,
    }
    inputs: 4..=5, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl Op for QLinearLeakyRelu {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        qoperator::infer(&LeakyRelu { alpha: self.alpha }, cx, &[0])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, ty) = qoperator::operand(cx, 0)?;
        let y = qoperator::quantized(cx, 3, x.element(), x.shape())?;
        qoperator::eval(&LeakyRelu { alpha: self.alpha }, &[(x, ty)], &y)
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("quarter", QLinearLeakyRelu { alpha: 0.25 })
            .input(Tensor::vector(vec![-8i8, 0, 6]))
            .f32(&[], &[0.5])
            .no_input()
            .f32(&[], &[1.0])
            .input(Tensor::scalar(1i8))
            .output(Tensor::vector(vec![0i8, 1, 4])),
    ]
}

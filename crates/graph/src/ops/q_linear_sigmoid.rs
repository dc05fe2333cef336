use qing_tensor::Tensor;

use super::{Sigmoid, support::qoperator};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Logistic function of a quantized tensor with scales and zero points as inputs: x, x_scale, x_zero, y_scale, y_zero. The
    /// same table as a [`Sigmoid`] of quantized types.
    QLinearSigmoid = "QLinearSigmoid" in "com.microsoft" {}
    inputs: 4..=5, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl Op for QLinearSigmoid {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        qoperator::infer(&Sigmoid {}, cx, &[0])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, ty) = qoperator::operand(cx, 0)?;
        let y = qoperator::quantized(cx, 3, x.element(), x.shape())?;
        qoperator::eval(&Sigmoid {}, &[(x, ty)], &y)
    }
}

fn cases() -> Vec<Case> {
    vec![
        // σ(0) = ½, σ(100) = 1, σ(−100) = 0 at scale 1/256.
        Case::new("saturated", QLinearSigmoid {})
            .input(Tensor::vector(vec![100u8, 200, 0]))
            .f32(&[], &[1.0])
            .input(Tensor::scalar(100u8))
            .f32(&[], &[0.003_906_25])
            .output(Tensor::vector(vec![128u8, 255, 0])),
    ]
}

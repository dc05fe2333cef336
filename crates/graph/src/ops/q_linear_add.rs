use qing_tensor::Tensor;

use super::{Add, support::qoperator};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Sum of quantized tensors with scales and zero points as inputs: a, a_scale, a_zero, b, b_scale, b_zero, y_scale,
    /// y_zero. The same numbers as an [`Add`] of quantized types.
    QLinearAdd = "QLinearAdd" in "com.microsoft" {}
    inputs: 7..=8, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl Op for QLinearAdd {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        qoperator::infer(&Add {}, cx, &[0, 3])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (qoperator::operand(cx, 0)?, qoperator::operand(cx, 3)?);
        let y = qoperator::quantized(cx, 6, a.0.element(), &[])?;
        qoperator::eval(&Add {}, &[a, b], &y)
    }
}

fn cases() -> Vec<Case> {
    // The numbers of the quantized case of Add.
    vec![
        Case::new("broadcast", QLinearAdd {})
            .input(Tensor::vector(vec![10i8, -20, 127]))
            .f32(&[], &[0.5])
            .no_input()
            .input(Tensor::vector(vec![4i8]))
            .f32(&[], &[0.25])
            .input(Tensor::scalar(2i8))
            .f32(&[], &[1.0])
            .input(Tensor::scalar(1i8))
            // 5.5, −9.5, 64 rounded to even, plus 1.
            .output(Tensor::vector(vec![7i8, -9, 65])),
    ]
}

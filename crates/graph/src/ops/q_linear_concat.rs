use qing_tensor::Tensor;

use super::{
    Concat,
    support::{REQUIRED, qoperator},
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Quantized tensors side by side, with scales and zero points as inputs: y_scale, y_zero, then x, x_scale, x_zero of each
    /// tensor. The same numbers as a [`Concat`] of quantized types.
    QLinearConcat = "QLinearConcat" in "com.microsoft" {
        /// The axis along which inputs may differ; negative counts from the end.
        axis: i64 = REQUIRED,
    }
    inputs: 5..=usize::MAX, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl Op for QLinearConcat {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let tensors: Vec<usize> = (2..cx.types.len()).step_by(3).collect();
        qoperator::infer(&Concat { axis: self.axis }, cx, &tensors)
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let operands = (2..cx.inputs.len())
            .step_by(3)
            .map(|i| qoperator::operand(cx, i))
            .collect::<Result<Vec<(&Tensor, Type)>, OpError>>()?;
        let y = qoperator::quantized(cx, 0, cx.input(2)?.element(), &[])?;
        qoperator::eval(&Concat { axis: self.axis }, &operands, &y)
    }
}

fn cases() -> Vec<Case> {
    vec![
        // The numbers of the quantized case of Concat.
        Case::new("two", QLinearConcat { axis: 0 })
            .f32(&[], &[1.0])
            .input(Tensor::scalar(10u8))
            .input(Tensor::vector(vec![7u8, 255]))
            .f32(&[], &[1.0])
            .input(Tensor::scalar(10u8))
            .input(Tensor::vector(vec![5u8, 0, 255]))
            .f32(&[], &[0.5])
            .input(Tensor::scalar(2u8))
            .output(Tensor::vector(vec![7u8, 255, 12, 9, 136])),
    ]
}

use qing_tensor::Tensor;

use super::{
    Mul,
    support::{elementwise::broadcast_indices, integers, qoperator},
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, arithmetic, op};

op! {
    /// Product of quantized tensors with scales and zero points as inputs: a, a_scale, a_zero, b, b_scale, b_zero, y_scale,
    /// y_zero. A dot of one tap: `(a − a_zero)·(b − b_zero)`, requantized.
    QLinearMul = "QLinearMul" in "com.microsoft" {}
    inputs: 7..=8, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl Op for QLinearMul {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        qoperator::infer(&Mul {}, cx, &[0, 3])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let ((a, a_type), (b, b_type)) = (qoperator::operand(cx, 0)?, qoperator::operand(cx, 3)?);
        let (from_a, from_b) = (arithmetic::per_tensor(&a_type)?, arithmetic::per_tensor(&b_type)?);
        let to = arithmetic::per_tensor(&qoperator::quantized(cx, 6, a.element(), &[])?)?;
        let scale = arithmetic::dot_scale(from_a.scale, from_b.scale, to.scale);
        let (av, bv) = (a.to_i64s(), b.to_i64s());
        let (shape, pairs) = broadcast_indices(a.shape(), b.shape())?;
        let values = pairs
            .into_iter()
            .map(|(i, j)| {
                let acc = (av[i] - i64::from(from_a.zero)) * (bv[j] - i64::from(from_b.zero));
                Ok(arithmetic::requantize(integers::narrow(acc)?, scale, to.zero, to.lo, to.hi))
            })
            .collect::<Result<Vec<i32>, OpError>>()?;
        Ok(vec![integers::from_ints(a.element(), &shape, values)?])
    }
}

fn cases() -> Vec<Case> {
    vec![
        // (8, −2, 117) · 3 · 0.5 · 0.5 / 1 is 6, −1.5, 87.75.
        Case::new("scalar", QLinearMul {})
            .input(Tensor::vector(vec![10i8, 0, 119]))
            .f32(&[], &[0.5])
            .input(Tensor::scalar(2i8))
            .input(Tensor::vector(vec![3i8]))
            .f32(&[], &[0.5])
            .no_input()
            .f32(&[], &[1.0])
            .input(Tensor::scalar(10i8))
            .output(Tensor::vector(vec![16i8, 8, 98])),
    ]
}

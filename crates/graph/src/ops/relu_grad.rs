use qing_tensor::Tensor;

use super::support::elementwise::{arithmetic, infer_unary};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// What flows back through a [`Relu`](super::Relu): of its output `Y` and the gradient `dY`, `dY` where `Y > 0` and zero
    /// elsewhere.
    ReluGrad = "ReluGrad" in "qing" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::None("second derivatives are not taken"),
    cases: cases
}

impl Op for ReluGrad {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        if let (Some(y), Some(dy)) = (cx.ty(0)?.known_shape(), cx.ty(1)?.known_shape())
            && y != dy
        {
            return Err(OpError::invalid(format!("Y of {y:?} and dY of {dy:?}")));
        }
        infer_unary(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (y, dy) = (cx.input(0)?, cx.input(1)?);
        if y.shape() != dy.shape() || !y.element().is_float() {
            return Err(OpError::invalid(format!("Y {y:?} and dY {dy:?}; expected floats of one shape")));
        }
        Ok(vec![arithmetic(y, dy, |y, dy| if y > 0.0 { dy } else { 0.0 }, |_, dy| dy)?])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("zero_is_closed", ReluGrad {})
            .f32(&[2, 2], &[0.0, 1.5, -0.0, 2.0])
            .f32(&[2, 2], &[1.0, -2.0, 3.0, 4.0])
            .gives(&[2, 2], &[0.0, -2.0, 0.0, 4.0]),
    ]
}

use qing_tensor::Tensor;

use super::support::elementwise::broadcast_to;
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// QONNX's quantization to one bit, dequantized again: `scale` where `x` is not negative, `−scale` elsewhere. Inputs: x
    /// and a scale that broadcasts.
    BipolarQuant = "BipolarQuant" in "qonnx.custom_op.general" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::None("training uses the straight-through estimator instead"),
    cases: cases
}

impl Op for BipolarQuant {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let scale = broadcast_to(cx.input(1)?, x.shape())?;
        let values = x.to_f64s().into_iter().zip(scale).map(|(x, s)| if x >= 0.0 { s } else { -s }).collect();
        Ok(vec![Tensor::new::<f64>(x.shape(), values)?.cast(x.element())])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("per_channel", BipolarQuant {})
            .f32(&[2, 2], &[-3., 0., 0.1, -0.1])
            .f32(&[2, 1], &[0.5, 2.])
            .gives(&[2, 2], &[-0.5, 0.5, 2., -2.]),
    ]
}

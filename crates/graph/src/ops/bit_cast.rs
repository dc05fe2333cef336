use qing_tensor::Tensor;

use super::support::data_type::element_of;
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The same bits as another element of the same width.
    BitCast = "BitCast" {
        /// The element, as ONNX numbers it.
        to: i64 = 1,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("bits do not vary smoothly"),
    cases: cases
}

impl Op for BitCast {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let (x, to) = (cx.ty(0)?, element_of(self.to)?);
        if x.element.bits() != to.bits() {
            return Err(OpError::invalid(format!("the bits of {} as {to}", x.element)));
        }
        Ok(vec![Type::maybe(to, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        Ok(vec![Tensor::from_bytes(element_of(self.to)?, x.shape(), x.bytes().clone())?])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32_to_i32", BitCast { to: 6 })
            .f32(&[2], &[1., -0.])
            .output(Tensor::vector(vec![0x3f80_0000i32, i32::MIN])),
        Case::new("u16_to_i16", BitCast { to: 5 })
            .input(Tensor::vector(vec![65535u16]))
            .output(Tensor::vector(vec![-1i16])),
    ]
}

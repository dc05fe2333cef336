use qing_tensor::Tensor;

use super::support::dot::centered;
use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, Quant, QuantRule, Type, op};

op! {
    /// The real numbers that quantized values stand for: `scale · (q − zero)` in f32.
    Dequantize = "Dequantize" in "qing" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("its input is integers"),
    cases: cases
}

impl Op for Dequantize {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(Element::F32, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let quant = cx.quant(0).ok_or_else(|| OpError::unsupported("an input that is not quantized"))?;
        let values = centered(x, quant)
            .into_iter()
            .enumerate()
            .map(|(i, q)| q as f32 * quant.scale(quant.slice_of(x.shape(), i)))
            .collect();
        Ok(vec![Tensor::new::<f32>(x.shape(), values)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Rescale
    }
}

fn cases() -> Vec<Case> {
    let ints = Tensor::from_ints(Element::I8, &[2, 2], &[1, -2, 3, 4]).expect("fits");
    vec![
        Case::new("per_axis", Dequantize {})
            .quantized_input(ints, Quant::per_axis(0, vec![0.5, 2.0]).expect("valid"))
            .gives(&[2, 2], &[0.5, -1.0, 6.0, 8.0]),
    ]
}

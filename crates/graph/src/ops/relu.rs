use qing_tensor::Tensor;

use super::support::elementwise::{infer_unary, lookup};
use crate::{Backward, Gradients, Case, Element, Eval, Gradient, Infer, Op, OpError, Quant, QuantRule, Type, arithmetic, op};

op! {
    /// `max(x, 0)`. On quantized values one tap, requantized, with the range narrowed to what is not negative; between
    /// equal quantizations that is `max(q, zero)`, which engines fuse into the producer.
    Relu = "Relu" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Relu {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_unary(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        if cx.quant(0).is_some() {
            return Ok(vec![lookup(self, x, cx.ty(0)?, cx.output(0))?]);
        }
        if !x.element().is_float() {
            let values: Vec<i64> = x.to_i64s().into_iter().map(|v| v.max(0)).collect();
            return Ok(vec![Tensor::new(x.shape(), values)?.cast(x.element())]);
        }
        Ok(vec![super::support::elementwise::map_float(x, |v| if v < 0.0 { 0.0 } else { v })?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Table
    }

    fn map(&self, x: f64) -> Option<f64> {
        Some(if x < 0.0 { 0.0 } else { x })
    }

    fn table(&self, x: &Type, y: &Type) -> Result<Option<Vec<i32>>, OpError> {
        arithmetic::rescale_table(x, y, 0.0, f32::INFINITY).map(Some)
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.emit(super::ReluGrad {}, &[cx.output(0)?, cx.dy()?])?)])
    }
}

fn cases() -> Vec<Case> {
    let q = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let ints = |v: &[i32]| Tensor::from_ints(Element::U8, &[4], v).expect("fits");
    vec![
        Case::new("f32", Relu {}).f32(&[4], &[-1., 0., 2., -0.5]).gives(&[4], &[0., 0., 2., 0.]),
        Case::new("quantized_in_place", Relu {})
            .quantized_input(ints(&[0, 99, 100, 180]), q(0.1, 100))
            .quantized_output(ints(&[100, 100, 100, 180]), q(0.1, 100)),
        Case::new("quantized_rescaled", Relu {})
            .quantized_input(ints(&[0, 101, 103, 255]), q(0.5, 100))
            .quantized_output(ints(&[0, 0, 2, 78]), q(1.0, 0)),
    ]
}

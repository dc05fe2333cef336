use qing_tensor::Tensor;

use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, Quant, QuantRule, Type, arithmetic, op};

op! {
    /// A real or quantized value to the quantization of its output: `clamp(rint(x ⊘ scale) + zero)` from f32; one tap,
    /// requantized, from another quantization.
    Quantize = "Quantize" in "qing" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("training uses the straight-through estimator instead"),
    cases: cases
}

impl Op for Quantize {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        // The output's element and quantization are assigned, not inferred.
        Ok(vec![Type::maybe(Element::U8, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, to) = (cx.input(0)?, cx.output(0));
        if cx.quant(0).is_some() {
            return Ok(vec![super::support::elementwise::lookup(self, x, cx.ty(0)?, to)?]);
        }
        let y = arithmetic::per_tensor(to)?;
        let values: Vec<i32> =
            x.to_f32s().into_iter().map(|v| arithmetic::quantize(v, y.scale, y.zero, y.lo, y.hi)).collect();
        Ok(vec![Tensor::from_ints(to.element, x.shape(), &values)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Rescale
    }

    fn table(&self, x: &Type, y: &Type) -> Result<Option<Vec<i32>>, OpError> {
        arithmetic::rescale_table(x, y, f32::NEG_INFINITY, f32::INFINITY).map(Some)
    }
}

fn cases() -> Vec<Case> {
    let q = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let i4 = Element::integer(4, true).expect("a width");
    let ints = |e, v: &[i32]| Tensor::from_ints(e, &[4], v).expect("fits");
    vec![
        Case::new("f32_to_i4", Quantize {})
            .f32(&[4], &[0.25, 0.75, -100.0, f32::NAN])
            .quantized_output(ints(i4, &[0, 2, -8, 0]), q(0.5, 0)),
        Case::new("rescale", Quantize {})
            .quantized_input(ints(Element::U8, &[0, 5, 7, 255]), q(0.5, 4))
            .quantized_output(ints(i4, &[-2, 0, 2, 7]), q(1.0, 0)),
    ]
}

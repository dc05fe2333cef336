use qing_tensor::{Element, Tensor};

use super::support::matmul::{Product, accumulate, accumulate_wrapping, batched_dims, gradient_of_left, gradient_of_right, per_block, per_column};
use crate::{Backward, Gradients, Case, Eval, Gradient, Granularity, Infer, Op, OpError, Quant, QuantRule, Type, op};

op! {
    /// Matrix product of `A […, M, K]` and `B […, K, N]`; leading axes broadcast, an operand of rank 1 is a row or a
    /// column. On quantized values it is a dot; weights may have one scale for each column or for each block along `K`.
    MatMul = "MatMul" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for MatMul {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = if cx.ty(0)?.quant.is_some() { Element::F32 } else { cx.element(0)? };
        let (Some(a), Some(b)) = (cx.shape(0)?, cx.shape(1)?) else { return Ok(vec![Type::maybe(element, None)]) };
        Ok(vec![Type::maybe(element, Some(batched_dims(a, b)?))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let product = Product::new(a.shape(), b.shape())?;
        if let (Some(_), Some(bq)) = (cx.quant(0), cx.quant(1)) {
            let (x, w, y) = (cx.ty(0)?, cx.ty(1)?, cx.output(0));
            let result = match bq.granularity() {
                Granularity::Block { .. } => per_block(&product, a, b, x, w, y)?,
                _ => per_column(&product, a, b, &[], x, w, y)?,
            };
            return Ok(vec![result]);
        }
        if a.element() != b.element() {
            return Err(OpError::invalid(format!("operands of {} and {}", a.element(), b.element())));
        }
        let y = if a.element().is_float() {
            Tensor::new(&product.shape, accumulate(&product, &a.to_f64s(), &b.to_f64s(), &[]))?
        } else {
            Tensor::new(&product.shape, accumulate_wrapping(&product, a, b))?
        };
        Ok(vec![y.cast(a.element())])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Dot { weight: 1, bias: 2, axis: 1 }
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        let Ok(types) = self.infer(cx) else { return 0 };
        let (Some(y), Some(a)) = (types[0].known_shape(), cx.optional(0).and_then(Type::known_shape)) else { return 0 };
        y.iter().product::<usize>() as u64 * a.last().copied().unwrap_or(0) as u64
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (a, b, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let db = cx.wanted(1, || gradient_of_right(cx, a, b, dy))?;
        Ok(vec![cx.wanted(0, || gradient_of_left(cx, a, b, dy))?, db])
    }
}

fn cases() -> Vec<Case> {
    let quant = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let u8s = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::U8, shape, v).expect("fits");
    let i4s = |shape: &[usize], v: &[i32]| {
        Tensor::from_ints(Element::Bits { width: 4, signed: true }, shape, v).expect("fits")
    };
    vec![
        Case::new("2d", MatMul {})
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .f32(&[2, 2], &[5., 6., 7., 8.])
            .gives(&[2, 2], &[19., 22., 43., 50.]),
        Case::new("vectors", MatMul {}).f32(&[2], &[1., 2.]).f32(&[2], &[3., 4.]).gives(&[], &[11.]),
        Case::new("batched", MatMul {})
            .f32(&[2, 1, 2], &[1., 2., 3., 4.])
            .f32(&[2, 1], &[10., 1.])
            .gives(&[2, 1, 1], &[12., 34.]),
        // x − zero is (1, −2); columns accumulate 3 − 2 = 1 and −4 − 10 = −14.
        Case::new("quantized", MatMul {})
            .quantized_input(u8s(&[1, 2], &[11, 8]), quant(0.5, 10))
            .quantized_input(i4s(&[2, 2], &[3, -4, 1, 5]), Quant::per_axis(1, vec![0.5, 2.0]).expect("valid"))
            .quantized_output(u8s(&[1, 2], &[120, 106]), quant(1.0, 120)),
        Case::new("quantized_real", MatMul {})
            .quantized_input(u8s(&[1, 2], &[11, 8]), quant(0.5, 10))
            .quantized_input(i4s(&[2, 2], &[3, -4, 1, 5]), Quant::per_axis(1, vec![0.5, 2.0]).expect("valid"))
            .gives(&[1, 2], &[0.25, -14.]),
        // One column in two blocks: (1·3 − 2·1) · 0.5 · 0.5 + (4·2 + 0·1) · 0.5 · 0.25.
        Case::new("quantized_blocks", MatMul {})
            .quantized_input(u8s(&[1, 4], &[11, 8, 14, 10]), quant(0.5, 10))
            .quantized_input(
                i4s(&[4, 1], &[3, 1, 2, 1]),
                Quant::new(Granularity::Block { axis: 0, size: 2 }, vec![0.5, 0.25], vec![0]).expect("valid"),
            )
            .gives(&[1, 1], &[1.25]),
    ]
}

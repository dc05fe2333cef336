use qing_tensor::Tensor;

use super::support::elementwise::{self, broadcast_indices, infer_broadcast};
use crate::{Backward, Gradients, 
    Case, Element, Eval, Gradient, Infer, Legacy, Op, OpError, Quant, QuantRule, Type, arithmetic, op,
};

op! {
    /// `a + b` with broadcasting. On quantized values a dot of two taps with 14-bit multipliers, then requantized.
    Add = "Add" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    super::support::elementwise::upgrade_broadcast(node)
}

impl Op for Add {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = if cx.ty(0)?.quant.is_some() { Element::F32 } else { cx.element(0)? };
        Ok(vec![Type::maybe(element, infer_broadcast(cx, 0)?)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        if cx.quant(0).is_some() || cx.quant(1).is_some() {
            let (qa, qb) = (arithmetic::per_tensor(cx.ty(0)?)?, arithmetic::per_tensor(cx.ty(1)?)?);
            let y = arithmetic::per_tensor(cx.output(0))?;
            let s = arithmetic::add_scales(qa.scale, qb.scale, y.scale);
            let (av, bv) = (a.to_ints(), b.to_ints());
            let (shape, pairs) = broadcast_indices(a.shape(), b.shape())?;
            let values: Vec<i32> = pairs
                .into_iter()
                .map(|(i, j)| {
                    let acc = (av[i] - qa.zero) * s.a + (bv[j] - qb.zero) * s.b;
                    arithmetic::requantize(acc, s.scale, y.zero, y.lo, y.hi)
                })
                .collect();
            return Ok(vec![Tensor::from_ints(cx.output(0).element, &shape, &values)?]);
        }
        Ok(vec![elementwise::arithmetic(a, b, |x, y| x + y, |x, y| x + y)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Add
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let dy = cx.dy()?;
        (0..2).map(|i| cx.wanted(i, || cx.sum_like(dy, cx.input(i)?))).collect()
    }
}

fn cases() -> Vec<Case> {
    let q = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let ints = |v: &[i32]| Tensor::from_ints(Element::I8, &[3], v).expect("fits");
    vec![
        Case::new("broadcast", Add {})
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .f32(&[2], &[10., 20.])
            .gives(&[2, 2], &[11., 22., 13., 24.]),
        Case::new("i64", Add {}).i64s(&[1, 2]).i64s(&[3, -4]).output(Tensor::vector(vec![4i64, -2])),
        Case::new("quantized", Add {})
            .quantized_input(ints(&[10, -20, 127]), q(0.5, 0))
            .quantized_input(ints(&[4, 6, 127]), q(0.25, 2))
            .quantized_output(ints(&[6, -9, 95]), q(1.0, 0)),
    ]
}

use qing_tensor::Tensor;

use super::support::mean::{infer_element, means};
use crate::{Backward, Gradients, Case, Dim, Element, Eval, Gradient, Infer, Op, OpError, Quant, QuantRule, Type, op};

op! {
    /// Mean over all spatial axes of `X [batch, channels, spatial…]`, which become 1. On quantized values the exact sum,
    /// requantized.
    GlobalAveragePool = "GlobalAveragePool" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for GlobalAveragePool {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let shape = match cx.shape(0)? {
            None => None,
            Some(dims) if dims.len() < 2 => return Err(OpError::invalid(format!("X of rank {}", dims.len()))),
            Some(dims) => {
                Some(dims.iter().enumerate().map(|(i, d)| if i < 2 { d.clone() } else { Dim::Known(1) }).collect())
            }
        };
        Ok(vec![Type::maybe(infer_element(cx)?, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        if x.rank() < 2 {
            return Err(OpError::invalid(format!("X of shape {:?}", x.shape())));
        }
        let area: usize = x.shape()[2..].iter().product();
        let mut shape = x.shape()[..2].to_vec();
        shape.resize(x.rank(), 1);
        let windows = (0..x.shape()[0] * x.shape()[1]).map(|i| (i * area..(i + 1) * area, area));
        Ok(vec![means(cx, &shape, windows)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Mean
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let x = cx.input(0)?;
        let shape = cx.shape(x)?;
        let area: usize = shape[2..].iter().product();
        Ok(vec![Some(cx.expand(cx.scale(cx.dy()?, 1.0 / area as f64)?, &shape)?)])
    }
}

fn cases() -> Vec<Case> {
    let q = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let ints = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::U8, shape, v).expect("fits");
    vec![
        Case::new("f32", GlobalAveragePool {})
            .f32(&[1, 2, 1, 2], &[1., 2., 3., -3.])
            .gives(&[1, 2, 1, 1], &[1.5, 0.]),
        // Sums 9 and 507 of q − 1, times 0.5/(3·1): 1.5 and 84.5, both to even.
        Case::new("quantized", GlobalAveragePool {})
            .quantized_input(ints(&[1, 2, 3], &[2, 3, 7, 255, 255, 0]), q(0.5, 1))
            .quantized_output(ints(&[1, 2, 1], &[12, 94]), q(1.0, 10)),
    ]
}

use super::support::unary::unary;
use super::support::math;
use crate::{Case, Element, Gradient, Quant, Tensor};

unary! {
    /// The logistic function, `1 / (1 + e^(−x))`.
    Sigmoid = "Sigmoid" {}
    map: |_, x| math::sigmoid(x),
    gradient: Gradient::Smooth,
    backward: |_, cx, at| cx.mul(at.dy, cx.mul(at.y, cx.sub_from(1.0, at.y)?)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Sigmoid {}).f32(&[4], &[0., 1.098_612_3, -1.098_612_3, -1000.]).gives(&[4], &[0.5, 0.75, 0.25, 0.]),
        Case::new("quantized", Sigmoid {})
            .quantized_input(
                Tensor::from_ints(Element::U8, &[3], &[0, 128, 255]).expect("fits"),
                Quant::per_tensor(0.5, 128).expect("valid"),
            )
            .quantized_output(
                Tensor::from_ints(Element::U8, &[3], &[0, 128, 255]).expect("fits"),
                Quant::per_tensor(1.0 / 256.0, 0).expect("valid"),
            ),
    ]
}

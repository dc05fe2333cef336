use qing_tensor::{Element, Tensor};

use crate::{Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, arithmetic, op};

op! {
    /// Quantizes to u8 over the range of the values themselves, widened to contain 0; gives the integers, scale and zero
    /// point.
    DynamicQuantizeLinear = "DynamicQuantizeLinear" {}
    inputs: 1..=1, outputs: 3..=3,
    gradient: Gradient::None("training uses the straight-through estimator instead"),
    cases: cases
}

impl Op for DynamicQuantizeLinear {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let scalar = |element| Type::new(element, Vec::<Dim>::new());
        Ok(vec![Type::maybe(Element::U8, cx.ty(0)?.shape.clone()), scalar(Element::F32), scalar(Element::U8)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let values = x.to_f32s();
        let (min, max) = values.iter().fold((0f32, 0f32), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
        let scale = if max == min { 1.0 } else { (max - min) / 255.0 };
        let zero = (-min / scale).clamp(0.0, 255.0).round_ties_even() as i32;
        let integers: Vec<i32> = values.iter().map(|v| arithmetic::quantize(*v, scale, zero, 0, 255)).collect();
        Ok(vec![
            Tensor::from_ints(Element::U8, x.shape(), &integers)?,
            Tensor::scalar(scale),
            Tensor::scalar(zero as u8),
        ])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("both_signs", DynamicQuantizeLinear {})
            .f32(&[4], &[-51., 0., 204., 2.6])
            .output(Tensor::vector(vec![0u8, 51, 255, 54]))
            .gives(&[], &[1.])
            .output(Tensor::scalar(51u8)),
        Case::new("positive", DynamicQuantizeLinear {})
            .f32(&[2], &[255., 510.])
            .output(Tensor::vector(vec![128u8, 255]))
            .gives(&[], &[2.])
            .output(Tensor::scalar(0u8)),
    ]
}

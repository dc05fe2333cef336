use qing_tensor::Tensor;

use super::support::{movement::filled, sizes};
use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// A tensor of the shape that its input holds, filled with one value.
    ConstantOfShape = "ConstantOfShape" {
        /// A tensor of one element: the value and its type. 0 of f32 if absent.
        value: Option<Tensor> = None,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("a constant depends on no values"),
    cases: cases
}

impl Op for ConstantOfShape {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = self.value.as_ref().map_or(Element::F32, Tensor::element);
        let shape = match cx.constant(0) {
            Some(dims) => sizes::known(&sizes::shape_of(&dims.to_i64s())?),
            None => sizes::unknown_of_length(cx, 0)?,
        };
        Ok(vec![Type::maybe(element, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let shape = sizes::shape_of(&cx.input(0)?.to_i64s())?;
        let zero = Tensor::scalar(0f32);
        Ok(vec![filled(self.value.as_ref().unwrap_or(&zero), &shape)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("zeros", ConstantOfShape::default()).i64s(&[2, 1]).gives(&[2, 1], &[0., 0.]),
        Case::new("value", ConstantOfShape { value: Some(Tensor::vector(vec![7i32])) })
            .i64s(&[2])
            .output(Tensor::vector(vec![7i32, 7])),
        Case::new("scalar", ConstantOfShape::default()).i64s(&[]).gives(&[], &[0.]),
    ]
}

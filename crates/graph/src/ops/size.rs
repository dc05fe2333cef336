use qing_tensor::Tensor;

use crate::{Case, Dim, Element, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// How many elements its input has, as an i64 scalar.
    Size = "Size" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("a size does not depend on values"),
    cases: cases
}

impl Op for Size {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        cx.ty(0)?;
        Ok(vec![Type::new(Element::I64, Vec::<Dim>::new())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![Tensor::scalar(cx.input(0)?.len() as i64)])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn value_of_types(&self, cx: &Infer<'_>) -> Option<Tensor> {
        let shape = cx.ty(0).ok()?.known_shape()?;
        Some(Tensor::scalar(qing_tensor::element_count(&shape).ok()? as i64))
    }
}

fn cases() -> Vec<Case> {
    vec![Case::new("matrix", Size {}).f32(&[2, 3], &[0.; 6]).output(Tensor::scalar(6i64))]
}

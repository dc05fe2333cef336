use qing_tensor::Tensor;

use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Whether a value is not a number.
    IsNaN = "IsNaN" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("a truth value does not vary smoothly"),
    cases: cases
}

impl Op for IsNaN {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(Element::Bool, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let values: Vec<bool> = x.to_f64s().into_iter().map(f64::is_nan).collect();
        Ok(vec![Tensor::from_bools(x.shape(), &values)?])
    }
}

fn cases() -> Vec<Case> {
    let expected = Tensor::from_bools(&[3], &[false, true, false]).expect("fits");
    vec![Case::new("f32", IsNaN {}).f32(&[3], &[1., f32::NAN, f32::INFINITY]).output(expected)]
}

use qing_tensor::Tensor;

use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Whether a truth value is false.
    Not = "Not" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("a truth value does not vary smoothly"),
    cases: cases
}

impl Op for Not {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(Element::Bool, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        if x.element() != Element::Bool {
            return Err(OpError::invalid(format!("{}; expected bool", x.element())));
        }
        let values: Vec<bool> = x.to_bools().into_iter().map(|v| !v).collect();
        Ok(vec![Tensor::from_bools(x.shape(), &values)?])
    }
}

fn cases() -> Vec<Case> {
    let bools = |v: &[bool]| Tensor::from_bools(&[2], v).expect("fits");
    vec![Case::new("both", Not {}).input(bools(&[true, false])).output(bools(&[false, true]))]
}

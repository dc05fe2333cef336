use qing_tensor::Tensor;

use super::support::elementwise::{infer_broadcast, logical, upgrade_broadcast};
use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `a or b` on truth values, with broadcasting.
    Or = "Or" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::None("a truth value does not vary smoothly"),
    cases: cases,
    upgrade: upgrade_broadcast
}

impl Op for Or {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(Element::Bool, infer_broadcast(cx, 0)?)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![logical(cx.input(0)?, cx.input(1)?, |a, b| a || b)?])
    }
}

fn cases() -> Vec<Case> {
    let bools = |shape: &[usize], v: &[bool]| Tensor::from_bools(shape, v).expect("fits");
    vec![
        Case::new("broadcast", Or {})
            .input(bools(&[2, 1], &[false, true]))
            .input(bools(&[2], &[false, true]))
            .output(bools(&[2, 2], &[false, true, true, true])),
    ]
}

use std::cmp::Ordering;

use qing_tensor::Tensor;

use super::support::elementwise::{compare, infer_broadcast, upgrade_broadcast};
use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `a ≥ b` with broadcasting.
    GreaterOrEqual = "GreaterOrEqual" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::None("a truth value does not vary smoothly"),
    cases: cases,
    upgrade: upgrade_broadcast
}

impl Op for GreaterOrEqual {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(Element::Bool, infer_broadcast(cx, 0)?)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![compare(cx.input(0)?, cx.input(1)?, |o| o.is_some_and(Ordering::is_ge))?])
    }
}

fn cases() -> Vec<Case> {
    let expected = Tensor::from_bools(&[4], &[false, true, true, false]).expect("fits");
    vec![
        Case::new("f32", GreaterOrEqual {}).f32(&[4], &[1., 2., 3., f32::NAN]).f32(&[1], &[2.]).output(expected.clone()),
        Case::new("i64", GreaterOrEqual {})
            .i64s(&[-1, 5, 1 << 62, -9])
            .i64s(&[0, 5, (1 << 62) - 1, -8])
            .output(expected),
    ]
}

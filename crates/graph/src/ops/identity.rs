use qing_tensor::Tensor;

use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Its input, unchanged.
    Identity = "Identity" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Identity {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![cx.input(0)?.clone()])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.dy()?)])
    }
}

fn cases() -> Vec<Case> {
    vec![Case::new("f32", Identity {}).f32(&[2], &[1., -2.]).gives(&[2], &[1., -2.])]
}

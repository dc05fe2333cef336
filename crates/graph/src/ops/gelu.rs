use qing_tensor::Tensor;

use super::support::{
    activation,
    elementwise::{eval_unary, infer_unary},
    math,
};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// The Gaussian error linear unit, `x · Φ(x)`, exact or approximated by a hyperbolic tangent.
    Gelu = "Gelu" {
        /// `none` or `tanh`.
        approximate: String = "none".into(),
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Gelu {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        if !matches!(self.approximate.as_str(), "none" | "tanh") {
            return Err(OpError::invalid(format!("approximate {:?}; expected none or tanh", self.approximate)));
        }
        infer_unary(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        eval_unary(self, cx)
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Table
    }

    fn map(&self, x: f64) -> Option<f64> {
        Some(if self.approximate == "tanh" { math::gelu_tanh(x) } else { math::gelu(x) })
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, dy) = (cx.input(0)?, cx.dy()?);
        let dx = if self.approximate == "tanh" { activation::gelu_tanh(cx, x, dy) } else { activation::gelu(cx, x, dy) };
        Ok(vec![Some(dx?)])
    }
}

fn cases() -> Vec<Case> {
    // Φ(1) = 0.841344746.
    vec![
        Case::new("exact", Gelu::default()).f32(&[3], &[0., 1., -1.]).gives(&[3], &[0., 0.841_344_7, -0.158_655_3]),
        Case::new("tanh", Gelu { approximate: "tanh".into() })
            .f32(&[3], &[0., 1., -1.])
            .gives(&[3], &[0., 0.841_192, -0.158_808]),
    ]
}

use qing_tensor::Tensor;

use super::{
    ScatterElements,
    support::{
        axes::normalize,
        scatter::{element_targets, scatter},
    },
};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The name of [`ScatterElements`] before opset 11.
    Scatter = "Scatter" {
        /// The axis that is indexed; negative counts from the end.
        axis: i64 = 0,
    }
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Scatter {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        ScatterElements { axis: self.axis, ..ScatterElements::default() }.infer(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let targets = element_targets(x.shape(), indices, normalize(self.axis, x.rank())?)?;
        Ok(vec![scatter(x, cx.input(2)?, &targets, "none")?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        ScatterElements { axis: self.axis, ..ScatterElements::default() }.gradient(cx)
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("first_axis", Scatter::default())
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .input(Tensor::new(&[1, 2], vec![1i64, 0]).expect("fits"))
            .f32(&[1, 2], &[10., 20.])
            .gives(&[2, 2], &[1., 20., 10., 4.]),
    ]
}

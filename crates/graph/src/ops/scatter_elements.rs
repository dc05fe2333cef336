use qing_tensor::Tensor;

use super::support::{
    axes::normalize,
    scatter::{element_targets, gradient_of_scattered, scatter},
};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// A copy of `data` with each update at the coordinates of its index, but for `axis`, where the index is the coordinate.
    ScatterElements = "ScatterElements" {
        /// The axis that is indexed; negative counts from the end.
        axis: i64 = 0,
        /// How updates combine with what is there: `none`, `add`, `mul`, `max` or `min`.
        reduction: String = "none".into(),
    }
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for ScatterElements {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let targets = element_targets(x.shape(), indices, normalize(self.axis, x.rank())?)?;
        Ok(vec![scatter(x, cx.input(2)?, &targets, &self.reduction)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let indices = cx.input(1)?;
        let scatter = |data, updates| cx.emit(ScatterElements { reduction: "none".into(), ..self.clone() }, &[data, indices, updates]);
        let gather = |data| cx.emit(super::GatherElements { axis: self.axis }, &[data, indices]);
        gradient_of_scattered(cx, &self.reduction, scatter, gather)
    }
}

fn cases() -> Vec<Case> {
    let case = |name: &str, reduction: &str, y: [f32; 4]| {
        Case::new(name, ScatterElements { axis: 1, reduction: reduction.into() })
            .f32(&[1, 4], &[1., 2., 3., 4.])
            .input(Tensor::new(&[1, 2], vec![1i64, -1]).expect("fits"))
            .f32(&[1, 2], &[10., 20.])
            .gives(&[1, 4], &y)
    };
    vec![case("replace", "none", [1., 10., 3., 20.]), case("add", "add", [1., 12., 3., 24.])]
}

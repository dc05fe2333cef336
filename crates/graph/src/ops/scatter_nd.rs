use qing_tensor::Tensor;

use super::support::scatter::{gradient_of_scattered, scatter, slice_targets};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// A copy of `data` with updates in the slices that the tuples in the last axis of `indices` name.
    ScatterND = "ScatterND" {
        /// How updates combine with what is there: `none`, `add`, `mul`, `max` or `min`.
        reduction: String = "none".into(),
    }
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for ScatterND {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let targets = slice_targets(x.shape(), cx.input(1)?, 0)?;
        Ok(vec![scatter(x, cx.input(2)?, &targets, &self.reduction)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let indices = cx.input(1)?;
        let scatter = |data, updates| cx.emit(ScatterND { reduction: "none".into() }, &[data, indices, updates]);
        let gather = |data| cx.emit(super::GatherND::default(), &[data, indices]);
        gradient_of_scattered(cx, &self.reduction, scatter, gather)
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("rows", ScatterND::default())
            .f32(&[3, 2], &[1., 2., 3., 4., 5., 6.])
            .input(Tensor::new(&[2, 1], vec![2i64, 0]).expect("fits"))
            .f32(&[2, 2], &[10., 20., 30., 40.])
            .gives(&[3, 2], &[30., 40., 3., 4., 10., 20.]),
        Case::new("add_twice", ScatterND { reduction: "add".into() })
            .f32(&[2], &[1., 2.])
            .input(Tensor::new(&[2, 1], vec![1i64, 1]).expect("fits"))
            .f32(&[2], &[10., 20.])
            .gives(&[2], &[1., 32.]),
    ]
}

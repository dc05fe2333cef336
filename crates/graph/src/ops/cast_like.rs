use qing_tensor::Tensor;

use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The same numbers as the element of a second input, whose values do not matter.
    CastLike = "CastLike" {
        /// How floats round to a float of eight bits; of no effect on the elements qing has.
        round_mode: String = "up".into(),
        /// Whether to saturate to a float of eight bits; of no effect on the elements qing has.
        saturate: bool = true,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for CastLike {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(cx.element(1)?, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![cx.input(0)?.cast(cx.input(1)?.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, dy) = (cx.input(0)?, cx.dy()?);
        Ok(vec![cx.wanted(0, || cx.cast_like(dy, x))?, None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("to_i64", CastLike::default())
            .f32(&[2], &[-1.7, 2.9])
            .i64s(&[0])
            .output(Tensor::vector(vec![-1i64, 2])),
    ]
}

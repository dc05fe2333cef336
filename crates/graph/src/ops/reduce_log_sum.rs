use super::support::reduce::{Reduction, reduction};
use crate::Case;

reduction! {
    /// The logarithm of the sum over `axes`.
    ReduceLogSum = "ReduceLogSum",
    reduction: Reduction {
        real: |v| v.iter().sum::<f64>().ln(),
        integer: None,
    },
    backward: |cx, at| cx.expand(cx.div(at.dy, cx.exp(at.y)?)?, &cx.shape(at.x)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceLogSum { keepdims: false, ..ReduceLogSum::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[1.098_612_3, 1.945_910_1]),
        Case::new("all", ReduceLogSum::default()).f32(&[1, 2], &[0.25, 0.75]).gives(&[1, 1], &[0.]),
    ]
}

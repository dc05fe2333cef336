use super::support::reduce::{Reduction, reduction};
use crate::Case;

reduction! {
    /// The sum of values over `axes`.
    ReduceSum = "ReduceSum",
    reduction: Reduction {
        real: |v| v.iter().sum(),
        integer: Some(|v| v.iter().fold(0, |a, b| a.wrapping_add(*b))),
    },
    backward: |cx, at| cx.expand(at.dy, &cx.shape(at.x)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceSum { keepdims: false, ..ReduceSum::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[3., 7.]),
        Case::new("all", ReduceSum::default()).i64s(&[3, -1, 5]).output(crate::Tensor::vector(vec![7i64])),
        Case::new("no_axes", ReduceSum { noop_with_empty_axes: true, ..ReduceSum::default() })
            .f32(&[2], &[1., 2.])
            .gives(&[2], &[1., 2.]),
    ]
}

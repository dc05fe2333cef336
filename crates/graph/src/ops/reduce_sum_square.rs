use super::support::reduce::{Reduction, reduction};
use crate::Case;

reduction! {
    /// The sum of squares over `axes`.
    ReduceSumSquare = "ReduceSumSquare",
    reduction: Reduction {
        real: |v| v.iter().map(|v| v * v).sum(),
        integer: Some(|v| v.iter().fold(0, |a, b| a.wrapping_add(b.wrapping_mul(*b)))),
    },
    backward: |cx, at| cx.mul(at.dy, cx.scale(at.x, 2.0)?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceSumSquare { keepdims: false, ..ReduceSumSquare::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[5., 25.]),
        Case::new("all", ReduceSumSquare::default()).f32(&[1, 2], &[-3., 4.]).gives(&[1, 1], &[25.]),
    ]
}

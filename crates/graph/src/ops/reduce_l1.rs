use super::support::reduce::{Reduction, reduction};
use crate::Case;

reduction! {
    /// The sum of magnitudes over `axes`.
    ReduceL1 = "ReduceL1",
    reduction: Reduction {
        real: |v| v.iter().map(|v| v.abs()).sum(),
        integer: Some(|v| v.iter().fold(0, |a, b| a.wrapping_add(b.wrapping_abs()))),
    },
    backward: |cx, at| cx.mul(at.dy, cx.emit(super::Sign {}, &[at.x])?),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceL1 { keepdims: false, ..ReduceL1::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[3., 7.]),
        Case::new("all", ReduceL1::default()).f32(&[1, 3], &[-1., 2., -3.]).gives(&[1, 1], &[6.]),
    ]
}

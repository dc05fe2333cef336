use super::support::reduce::{Reduction, reduction};
use crate::Case;

reduction! {
    /// The Euclidean norm over `axes`.
    ReduceL2 = "ReduceL2",
    reduction: Reduction {
        real: |v| v.iter().map(|v| v * v).sum::<f64>().sqrt(),
        integer: None,
    },
    backward: |cx, at| {
        // Where everything is zero there is no direction; zero is one of the slopes.
        let unit = cx.masked(cx.above(at.y, 0.0)?, cx.div(at.x, at.y)?)?;
        cx.mul(at.dy, unit)
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceL2 { keepdims: false, ..ReduceL2::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[2.236_068, 5.]),
        Case::new("all", ReduceL2::default()).f32(&[1, 2], &[-3., 4.]).gives(&[1, 1], &[5.]),
    ]
}

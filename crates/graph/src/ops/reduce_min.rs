use super::support::reduce::{self, Reduction, reduction};
use crate::Case;

reduction! {
    /// The least value over `axes`; NaN if there is one.
    ReduceMin = "ReduceMin",
    reduction: Reduction {
        real: |v| v.iter().fold(f64::INFINITY, |a, b| if *b < a || b.is_nan() { *b } else { a }),
        integer: Some(|v| v.iter().copied().min().unwrap_or(i64::MAX)),
    },
    backward: reduce::gradient_of_chosen,
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceMin { keepdims: false, ..ReduceMin::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[1., 3.]),
        Case::new("first_axis", ReduceMin::default()).f32(&[2, 2], &[1., 7., 3., -4.]).i64s(&[0]).gives(&[1, 2], &[1., -4.]),
    ]
}

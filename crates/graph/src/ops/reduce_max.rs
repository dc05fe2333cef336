use super::support::reduce::{self, Reduction, reduction};
use crate::Case;

reduction! {
    /// The greatest value over `axes`; NaN if there is one.
    ReduceMax = "ReduceMax",
    reduction: Reduction {
        real: |v| v.iter().fold(f64::NEG_INFINITY, |a, b| if *b > a || b.is_nan() { *b } else { a }),
        integer: Some(|v| v.iter().copied().max().unwrap_or(i64::MIN)),
    },
    backward: reduce::gradient_of_chosen,
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceMax { keepdims: false, ..ReduceMax::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[2., 4.]),
        Case::new("first_axis", ReduceMax::default()).f32(&[2, 2], &[1., 7., 3., -4.]).i64s(&[0]).gives(&[1, 2], &[3., 7.]),
    ]
}

use super::support::reduce::{Reduction, reduction};
use crate::Case;

reduction! {
    /// The product over `axes`.
    ReduceProd = "ReduceProd",
    reduction: Reduction {
        real: |v| v.iter().product(),
        integer: Some(|v| v.iter().fold(1, |a, b| a.wrapping_mul(*b))),
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceProd { keepdims: false, ..ReduceProd::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[2., 12.]),
        Case::new("all", ReduceProd::default()).i64s(&[3, -1, 5]).output(crate::Tensor::vector(vec![-15i64])),
    ]
}

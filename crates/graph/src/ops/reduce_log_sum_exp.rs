use super::support::reduce::{Reduction, reduction};
use crate::Case;

reduction! {
    /// The logarithm of the sum of exponentials over `axes`, without overflow.
    ReduceLogSumExp = "ReduceLogSumExp",
    reduction: Reduction {
        real: log_sum_exp,
        integer: None,
    },
    backward: |cx, at| cx.mul(at.dy, cx.exp(cx.sub(at.x, at.y)?)?),
    cases: cases
}

fn log_sum_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() {
        return max;
    }
    values.iter().map(|v| (v - max).exp()).sum::<f64>().ln() + max
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceLogSumExp { keepdims: false, ..ReduceLogSumExp::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[2.313_261_7, 4.313_261_7]),
        Case::new("large", ReduceLogSumExp::default())
            .f32(&[1, 2], &[1000., 1000.])
            .gives(&[1, 1], &[1_000.693_1])
            .within(1e-4),
    ]
}

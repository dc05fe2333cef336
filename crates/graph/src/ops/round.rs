use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The nearest integer; halves go to the even one.
    Round = "Round" {}
    map: |_, x| x.round_ties_even(),
    gradient: Gradient::None("it is constant between its steps"),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Round {}).f32(&[4], &[0.5, 1.5, -2.5, 1.2]).gives(&[4], &[0., 2., -2., 1.]),
    ]
}

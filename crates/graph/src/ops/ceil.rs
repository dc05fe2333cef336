use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The smallest integer that is not less.
    Ceil = "Ceil" {}
    map: |_, x| x.ceil(),
    gradient: Gradient::None("it is constant between its steps"),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Ceil {}).f32(&[3], &[-1.5, 1.2, 2.]).gives(&[3], &[-1., 2., 2.]),
    ]
}

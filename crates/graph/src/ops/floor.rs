use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The largest integer that is not greater.
    Floor = "Floor" {}
    map: |_, x| x.floor(),
    gradient: Gradient::None("it is constant between its steps"),
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Floor {}).f32(&[3], &[-1.5, 1.2, 2.]).gives(&[3], &[-2., 1., 2.]),
    ]
}

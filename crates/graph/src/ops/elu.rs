use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// `x` where it is not negative, `alpha · (e^x − 1)` elsewhere.
    Elu = "Elu" {
        /// Where it ends for very negative values, negated.
        alpha: f32 = 1.0,
    }
    map: |op, x| if x < 0.0 { f64::from(op.alpha) * x.exp_m1() } else { x },
    gradient: Gradient::Smooth,
    backward: |op, cx, at| {
        let slope = cx.offset(at.y, op.alpha.into())?;
        cx.choose(cx.below(at.x, 0.0)?, cx.mul(at.dy, slope)?, at.dy)
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Elu { alpha: 2.0 }).f32(&[3], &[-std::f32::consts::LN_2, 0., 3.]).gives(&[3], &[-1., 0., 3.]),
    ]
}

use super::support::unary::unary;
use crate::{Case, Gradient};

unary! {
    /// The scaled exponential linear unit: `gamma · x` where `x` is positive, `gamma · alpha · (e^x − 1)` elsewhere.
    Selu = "Selu" {
        /// Scale of the exponential part.
        alpha: f32 = 1.673_263_2,
        /// Scale of everything.
        gamma: f32 = 1.050_701,
    }
    map: |op, x| f64::from(op.gamma) * if x > 0.0 { x } else { f64::from(op.alpha) * x.exp_m1() },
    gradient: Gradient::Smooth,
    backward: |op, cx, at| {
        let (alpha, gamma) = (f64::from(op.alpha), f64::from(op.gamma));
        let slope = cx.offset(at.y, gamma * alpha)?;
        cx.choose(cx.above(at.x, 0.0)?, cx.scale(at.dy, gamma)?, cx.mul(at.dy, slope)?)
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("f32", Selu { alpha: 2.0, gamma: 3.0 }).f32(&[3], &[-std::f32::consts::LN_2, 0., 1.]).gives(&[3], &[-3., 0., 3.]),
    ]
}

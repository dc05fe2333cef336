use qing_tensor::Tensor;

use super::support::elementwise::{arithmetic, infer_arithmetic};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The remainder of `a / b` with broadcasting, of the sign of `b`, or of `a` with `fmod`. An integer modulo zero is zero.
    Mod = "Mod" {
        /// Whether the remainder has the sign of `a`; floats need it.
        fmod: bool = false,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

fn floored(a: i128, b: i128) -> i128 {
    let rest = a % b;
    if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
}

impl Op for Mod {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let fmod = self.fmod;
        let whole = |a: i128, b: i128| match b {
            0 => 0,
            _ if fmod => a % b,
            _ => floored(a, b),
        };
        Ok(vec![arithmetic(cx.input(0)?, cx.input(1)?, |a, b| a % b, whole)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (a, b, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let da = cx.wanted(0, || cx.sum_like(dy, a))?;
        // The remainder is a − b · q with a whole q, which does not change.
        let db = cx.wanted(1, || {
            let times = cx.div(cx.sub(cx.output(0)?, a)?, b)?;
            cx.sum_like(cx.mul(dy, times)?, b)
        })?;
        Ok(vec![da, db])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("sign_of_divisor", Mod::default())
            .i64s(&[-4, 7, 5, 4])
            .i64s(&[3, -3, 8, 0])
            .output(Tensor::vector(vec![2i64, -2, 5, 0])),
        Case::new("fmod_i64", Mod { fmod: true }).i64s(&[-4, 7]).i64s(&[3, -3]).output(Tensor::vector(vec![-1i64, 1])),
        Case::new("fmod_f32", Mod { fmod: true }).f32(&[2], &[-4.5, 7.5]).f32(&[1], &[3.]).gives(&[2], &[-1.5, 1.5]),
    ]
}

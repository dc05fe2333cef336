use qing_tensor::Tensor;

use super::support::sizes;
use crate::{Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The numbers `start, start + delta, …` before `limit`.
    Range = "Range" {}
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::None("the number of values jumps"),
    cases: cases
}

fn one(tensor: &Tensor) -> Result<f64, OpError> {
    match tensor.to_f64s()[..] {
        [value] => Ok(value),
        _ => Err(OpError::invalid(format!("a bound of shape {:?}; expected a scalar", tensor.shape()))),
    }
}

/// How many numbers there are.
fn count(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<usize, OpError> {
    if delta.element().is_float() {
        let n = ((one(limit)? - one(start)?) / one(delta)?).ceil().max(0.0);
        // NaN bounds give no values.
        return sizes::limited(&[n as usize]);
    }
    let single = |t, what| sizes::single(t, what).map(i128::from);
    let (start, limit, delta) = (single(start, "start")?, single(limit, "limit")?, single(delta, "delta")?);
    if delta == 0 {
        return Err(OpError::invalid("a delta of 0"));
    }
    let n = ((limit - start) * delta.signum()).max(0) as u128;
    sizes::limited(&[usize::try_from(n.div_ceil(delta.unsigned_abs())).unwrap_or(usize::MAX)])
}

impl Op for Range {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let length = match (cx.constant(0), cx.constant(1), cx.constant(2)) {
            (Some(start), Some(limit), Some(delta)) => Dim::Known(count(start, limit, delta)?),
            _ => Dim::Unknown,
        };
        Ok(vec![Type::new(cx.element(0)?, [length])])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (start, delta) = (cx.input(0)?, cx.input(2)?);
        let n = count(start, cx.input(1)?, delta)?;
        let element = start.element();
        if element.is_float() {
            let (start, delta) = (one(start)?, one(delta)?);
            return Ok(vec![Tensor::vector((0..n).map(|i| start + i as f64 * delta).collect()).cast(element)]);
        }
        let (start, delta) = (sizes::single(start, "start")?, sizes::single(delta, "delta")?);
        let at = |i: usize| start.wrapping_add((i as i64).wrapping_mul(delta));
        Ok(vec![Tensor::vector((0..n).map(at).collect()).cast(element)])
    }
}

fn cases() -> Vec<Case> {
    let i = |v: i64| Tensor::scalar(v);
    vec![
        Case::new("f32", Range {}).f32(&[], &[1.]).f32(&[], &[5.]).f32(&[], &[2.]).gives(&[2], &[1., 3.]),
        Case::new("down", Range {}).input(i(10)).input(i(4)).input(i(-3)).output(Tensor::vector(vec![10i64, 7])),
        Case::new("empty", Range {}).input(i(4)).input(i(4)).input(i(1)).output(Tensor::vector(Vec::<i64>::new())),
    ]
}

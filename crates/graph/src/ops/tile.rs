use qing_tensor::{Tensor, strides};

use super::support::{movement::moved, sizes};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Its input repeated along every axis, as often as `repeats` says.
    Tile = "Tile" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

fn repeats_of(repeats: &Tensor, rank: usize) -> Result<Vec<usize>, OpError> {
    let all = repeats.to_i64s().into_iter().map(sizes::dimension).collect::<Result<Vec<usize>, OpError>>()?;
    if all.len() != rank {
        return Err(OpError::invalid(format!("{} repeats for a tensor of rank {rank}", all.len())));
    }
    Ok(all)
}

impl Op for Tile {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, cx.constant(1)) {
            (Some(dims), Some(repeats)) => {
                let repeats = repeats_of(repeats, dims.len())?;
                let times = |(d, n): (&Dim, usize)| if n == 1 { d.clone() } else { d.map(|d| d.saturating_mul(n)) };
                Some(dims.iter().zip(repeats).map(times).collect())
            }
            (Some(dims), None) => Some(vec![Dim::Unknown; dims.len()]),
            (None, _) => None,
        };
        Ok(vec![x.with_shape(shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let repeats = repeats_of(cx.input(1)?, x.rank())?;
        let shape: Vec<usize> = x.shape().iter().zip(repeats).map(|(d, n)| d.saturating_mul(n)).collect();
        let own = strides(x.shape());
        let from = |at: &[usize]| (0..at.len()).map(|i| at[i] % x.shape()[i] * own[i]).sum();
        Ok(vec![moved(x, &shape, from)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let x = cx.input(0)?;
        let shape = cx.shape(x)?;
        let repeats = repeats_of(&cx.constant_input(1)?, shape.len())?;
        let apart: Vec<usize> = repeats.iter().zip(&shape).flat_map(|(r, n)| [*r, *n]).collect();
        let axes: Vec<usize> = (0..shape.len()).filter(|i| repeats[*i] != 1).map(|i| 2 * i).collect();
        Ok(vec![Some(cx.reshape(cx.sum(cx.reshape(cx.dy()?, &apart)?, &axes)?, &shape)?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("columns", Tile {}).f32(&[2, 1], &[1., 2.]).i64s(&[1, 3]).gives(&[2, 3], &[1., 1., 1., 2., 2., 2.]),
        Case::new("whole", Tile {}).f32(&[2], &[1., 2.]).i64s(&[2]).gives(&[4], &[1., 2., 1., 2.]),
    ]
}

//! What the losses over target classes share.

use qing_tensor::Tensor;

use super::axes::Along;
use crate::{Backward, Infer, OpError, Type, ValueId, ops::Equal};

/// How the losses of single targets become one.
#[derive(Debug)]
pub struct Loss<'a> {
    /// Target that counts nothing.
    pub ignore: Option<i64>,
    /// `none`, `sum` or `mean`.
    pub reduction: &'a str,
}

/// Type of a loss of scores and targets.
///
/// # Errors
/// If there is no such reduction.
pub fn infer_loss(cx: &Infer<'_>, reduction: &str) -> Result<Type, OpError> {
    let element = cx.element(0)?;
    match reduction {
        "none" => Ok(Type::maybe(element, cx.ty(1)?.shape.clone())),
        "sum" | "mean" => Ok(Type::maybe(element, Some(vec![]))),
        other => Err(OpError::invalid(format!("reduction {other:?}; expected none, sum or mean"))),
    }
}

impl Loss<'_> {
    /// The loss of logarithms of probabilities `log`, in the shape of `x [batch, classes, …]`, for targets
    /// `[batch, …]` and weights `[classes]`.
    ///
    /// # Errors
    /// If shapes do not fit or a target is no class.
    pub fn of(&self, x: &Tensor, log: &[f64], targets: &Tensor, weights: Option<&Tensor>) -> Result<Tensor, OpError> {
        let fits = x.rank() >= 2
            && targets.rank() + 1 == x.rank()
            && targets.shape()[0] == x.shape()[0]
            && targets.shape()[1..] == x.shape()[2..];
        if !fits {
            return Err(OpError::invalid(format!("scores of {:?} for targets of {:?}", x.shape(), targets.shape())));
        }
        let Along { length: classes, inner, .. } = Along::new(x.shape(), 1);
        let weights = weights.map(Tensor::to_f64s);
        if let Some(odd) = weights.as_ref().filter(|w| w.len() != classes) {
            return Err(OpError::invalid(format!("{} weights for {classes} classes", odd.len())));
        }
        let (mut losses, mut total) = (Vec::with_capacity(targets.len()), 0.0);
        for (i, target) in targets.to_i64s().into_iter().enumerate() {
            if self.ignore == Some(target) {
                losses.push(0.0);
                continue;
            }
            let class = usize::try_from(target).ok().filter(|c| *c < classes);
            let class = class.ok_or_else(|| OpError::invalid(format!("target {target} of {classes} classes")))?;
            let weight = weights.as_ref().map_or(1.0, |w| w[class]);
            losses.push(-weight * log[(i / inner * classes + class) * inner + i % inner]);
            total += weight;
        }
        let sum = || losses.iter().sum::<f64>();
        let y = match self.reduction {
            "none" => return Ok(Tensor::new(targets.shape(), losses)?.cast(x.element())),
            "sum" => sum(),
            "mean" => sum() / total,
            other => return Err(OpError::invalid(format!("reduction {other:?}; expected none, sum or mean"))),
        };
        Ok(Tensor::scalar(y).cast(x.element()))
    }

    /// The same in simpler ops: of logarithms `log`, targets in input 1 and weights in input 2.
    ///
    /// # Errors
    /// If shapes are not known.
    pub fn by_parts(&self, cx: &Backward<'_>, log: ValueId) -> Result<ValueId, OpError> {
        let (shape, targets) = (cx.shape(log)?, cx.input(1)?);
        let mut single = shape.clone();
        single[1] = 1;
        let target = cx.reshape(targets, &single)?;
        let number = |t: Tensor| cx.tensor(t.cast(cx.element(targets)));
        let classes = cx.along(number(Tensor::vector((0..shape[1] as i64).collect::<Vec<i64>>())), 1, shape.len())?;
        let weights = match cx.optional(2) {
            Some(weights) => cx.along(cx.cast_like(weights, log)?, 1, shape.len())?,
            None => cx.scalar(log, 1.0),
        };
        let mut picked = cx.masked(cx.emit(Equal {}, &[target, classes])?, weights)?;
        if let Some(ignore) = self.ignore {
            let ignored = cx.emit(Equal {}, &[target, number(Tensor::scalar(ignore))])?;
            picked = cx.choose(ignored, cx.scalar(log, 0.0), picked)?;
        }
        let losses = cx.neg(cx.sum(cx.mul(picked, log)?, &[1])?)?;
        if self.reduction == "none" {
            return cx.reshape_like(losses, targets);
        }
        let axes: Vec<usize> = (0..shape.len()).collect();
        let mut total = cx.sum(losses, &axes)?;
        if self.reduction == "mean" {
            total = cx.div(total, cx.sum(picked, &axes)?)?;
        }
        cx.reshape(total, &[])
    }
}

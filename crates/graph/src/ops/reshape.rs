use qing_tensor::Tensor;

use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, QuantRule, Type, op};

op! {
    /// The same values under another shape. In `shape`, 0 keeps the input's dimension (unless `allowzero`) and one −1
    /// stands for what is left.
    Reshape = "Reshape" {
        /// If true, 0 means an empty dimension.
        allowzero: bool = false,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 5 the shape was an attribute.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.ints_to_input("shape", 1)
}

impl Reshape {
    /// The shape that `wanted` asks of an input of shape `from`.
    fn resolve(&self, from: &[usize], wanted: &[i64]) -> Result<Vec<usize>, OpError> {
        let fail = || OpError::invalid(format!("{from:?} cannot be reshaped to {wanted:?}"));
        let mut shape = vec![];
        let mut open = None;
        for (i, &w) in wanted.iter().enumerate() {
            shape.push(match w {
                0 if !self.allowzero => *from.get(i).ok_or_else(fail)?,
                -1 if open.is_none() => {
                    open = Some(i);
                    1
                }
                w => usize::try_from(w).map_err(|_| fail())?,
            });
        }
        let count = qing_tensor::element_count(from)?;
        let others = qing_tensor::element_count(&shape)?;
        if let Some(i) = open {
            if others == 0 || !count.is_multiple_of(others) {
                return Err(fail());
            }
            shape[i] = count / others;
        } else if others != count {
            return Err(fail());
        }
        Ok(shape)
    }
}

impl Op for Reshape {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let Some(wanted) = cx.constant(1).map(Tensor::to_i64s) else {
            // The length of `shape` is the rank of the result.
            let rank = cx.shape(1)?.and_then(|s| s.first()?.known());
            return Ok(vec![x.with_shape(rank.map(|n| vec![Dim::Unknown; n]))]);
        };
        if let Some(from) = x.known_shape() {
            let shape = self.resolve(&from, &wanted)?;
            return Ok(vec![x.with_shape(Some(shape.into_iter().map(Dim::Known).collect()))]);
        }
        let shape = wanted
            .iter()
            .enumerate()
            .map(|(i, &w)| match w {
                0 if !self.allowzero => {
                    x.shape.as_ref().and_then(|s| s.get(i)).cloned().unwrap_or(Dim::Unknown)
                }
                w => usize::try_from(w).map_or(Dim::Unknown, Dim::Known),
            })
            .collect();
        Ok(vec![x.with_shape(Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let shape = self.resolve(x.shape(), &cx.input(1)?.to_i64s())?;
        Ok(vec![x.reshaped(&shape)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.reshape_like(cx.dy()?, cx.input(0)?)?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("rest", Reshape::default())
            .f32(&[2, 3], &[1., 2., 3., 4., 5., 6.])
            .i64s(&[3, -1])
            .gives(&[3, 2], &[1., 2., 3., 4., 5., 6.]),
        Case::new("keep", Reshape::default()).f32(&[2, 1], &[1., 2.]).i64s(&[0, 1, 1]).gives(&[2, 1, 1], &[1., 2.]),
    ]
}

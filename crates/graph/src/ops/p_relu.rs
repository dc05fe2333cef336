use qing_tensor::Tensor;

use super::support::elementwise::arithmetic;
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Legacy, Op, OpError, Type, op};

op! {
    /// `x` where it is not negative, `slope · x` elsewhere; `slope` is broadcast to `x`.
    PRelu = "PRelu" {}
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 7 a slope of one axis meant one per channel.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.attrs.remove("consumed_inputs");
    if node.opset >= 7 {
        return Ok(());
    }
    let ids = (node.inputs.first().copied().flatten(), node.inputs.get(1).copied().flatten());
    let (Some(x), Some(slope)) = ids else { return Ok(()) };
    let (Some(rank), Some(slope)) = (node.graph.ty(x).rank(), node.graph.constant(slope).cloned()) else {
        return Ok(());
    };
    if slope.rank() == 1 && slope.len() > 1 && rank > 2 {
        let mut shape = vec![1; rank - 1];
        shape[0] = slope.len();
        node.constant(1, "slope", slope.reshaped(&shape)?);
    }
    Ok(())
}

impl Op for PRelu {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let (x, slope) = (cx.ty(0)?, cx.ty(1)?);
        if let (Some(x), Some(slope)) = (x.rank(), slope.rank())
            && slope > x
        {
            return Err(OpError::invalid(format!("a slope of rank {slope} for values of rank {x}")));
        }
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, slope) = (cx.input(0)?, cx.input(1)?);
        let y = arithmetic(x, slope, |x, s| if x < 0.0 { s * x } else { x }, |x, s| if x < 0 { s * x } else { x })?;
        if y.shape() != x.shape() {
            return Err(OpError::invalid(format!("a slope of {:?} for values of {:?}", slope.shape(), x.shape())));
        }
        Ok(vec![y])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, slope, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let below = cx.below(x, 0.0)?;
        let dslope = cx.wanted(1, || cx.sum_like(cx.masked(below, cx.mul(dy, x)?)?, slope))?;
        let dx = cx.wanted(0, || cx.choose(below, cx.mul(dy, slope)?, dy))?;
        Ok(vec![dx, dslope])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("per_channel", PRelu {})
            .f32(&[1, 2, 2], &[-1., 2., -3., 4.])
            .f32(&[2, 1], &[0.5, 0.25])
            .gives(&[1, 2, 2], &[-0.5, 2., -0.75, 4.]),
    ]
}

use qing_tensor::Tensor;

use super::support::{reduce::{Reduced, gradient_of_chosen}, window::{global, global_dims}};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Maximum over all spatial axes of `X [batch, channels, spatial…]`. On quantized values it compares integers.
    GlobalMaxPool = "GlobalMaxPool" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for GlobalMaxPool {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = x.shape.as_deref().map(global_dims).transpose()?;
        Ok(vec![x.with_shape(shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let (shape, planes, area) = global(x)?;
        let values = x.to_f64s();
        let winners = (0..planes).map(|p| {
            (p * area..(p + 1) * area).fold(p * area, |best, i| {
                if values[i] > values[best] || values[i].is_nan() { i } else { best }
            })
        });
        Ok(vec![x.take(&shape, winners)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dy()?);
        let shape = cx.shape(x)?;
        let (axes, count) = ((2..shape.len()).collect(), shape[2..].iter().product());
        Ok(vec![Some(gradient_of_chosen(cx, &Reduced { x, y, dy, axes, count })?)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("planes", GlobalMaxPool {}).f32(&[1, 2, 2], &[1., 3., -10., -20.]).gives(&[1, 2, 1], &[3., -10.]),
    ]
}

use qing_tensor::Tensor;

use super::{
    Resize,
    support::{resample::Axis, sizes},
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, QuantRule, Type, op};

op! {
    /// Enlarges every axis by its scale, repeating values or interpolating linearly; deprecated by ONNX in favour of
    /// Resize.
    Upsample = "Upsample" {
        /// `nearest` or `linear`.
        mode: String = "nearest".into(),
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 9 the scales were an attribute.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    let scales: Option<Vec<f32>> = node.attrs.read("scales", None)?;
    node.attrs.remove("scales");
    if let Some(scales) = scales {
        node.constant(1, "scales", Tensor::vector(scales));
    }
    Ok(())
}

impl Upsample {
    /// The same as a [`Resize`].
    pub fn resize(&self) -> Resize {
        Resize {
            mode: self.mode.clone(),
            coordinate_transformation_mode: "asymmetric".into(),
            nearest_mode: "floor".into(),
            ..Resize::default()
        }
    }

    fn axes(&self, shape: &[usize], scales: &Tensor) -> Result<Vec<Axis>, OpError> {
        self.resize().resampled(shape, Some(scales), None)
    }
}

impl Op for Upsample {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (x.known_shape(), cx.constant(1)) {
            (Some(shape), Some(scales)) => {
                let shape: Vec<usize> = self.axes(&shape, scales)?.into_iter().map(|a| a.output).collect();
                sizes::known(&shape)
            }
            _ => x.rank().map(|rank| vec![Dim::Unknown; rank]),
        };
        Ok(vec![x.with_shape(shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        if cx.quant(0).is_some() && self.mode != "nearest" {
            return Err(OpError::unsupported("interpolation of quantized values; expected a float island"));
        }
        Ok(vec![self.resize().resample(x, &self.axes(x.shape(), cx.input(1)?)?, None)?])
    }

    fn quantization(&self) -> QuantRule {
        if self.mode == "nearest" { QuantRule::Movement } else { QuantRule::Float }
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let axes = self.axes(&cx.shape(cx.input(0)?)?, &cx.constant_input(1)?)?;
        Ok(vec![Some(self.resize().gradient_of_resampled(cx, &axes, None)?), None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("nearest", Upsample::default())
            .f32(&[1, 2], &[1., 2.])
            .f32(&[2], &[2., 2.])
            .gives(&[2, 4], &[1., 1., 2., 2., 1., 1., 2., 2.]),
        Case::new("linear", Upsample { mode: "linear".into() })
            .f32(&[2], &[1., 2.])
            .f32(&[1], &[2.])
            .gives(&[4], &[1., 1.5, 2., 2.]),
    ]
}

use qing_tensor::{Element, Tensor};

use super::{
    LearnedQuantizeGrad,
    support::learned::{Learned, check_scale, scale_index},
};
use crate::{Backward, Case, Eval, Gradient, Gradients, Infer, Op, OpError, Type, op};

op! {
    /// Quantization with a scale that is learned, in f32: `Q = clamp(rint(X ⊘ scale), lo, hi)`, integers in floating point, so
    /// that a convolution of them is the integer dot. Inputs: X, and one scale or one for each slice of `axis`.
    /// Its gradient is `LearnedQuantizeGrad`.
    LearnedQuantize = "LearnedQuantize" in "qing" {
        /// Least integer.
        lo: i64 = -127,
        /// Largest integer.
        hi: i64 = 127,
        /// The axis of the scales, if there are several.
        axis: i64 = 0,
        /// Gives the sign, −1 or +1 (for 0, too), whatever the range; the scale is the width of the estimated gradient.
        bipolar: bool = false,
        /// Gives `scale · Q` instead of `Q`.
        real: bool = false,
        /// How the gradient of the rounding is estimated: `lsq`, `pact`, `ewgs`, or `polynomial` for two levels.
        estimator: String = "lsq".into(),
        /// Strength of `ewgs`.
        delta: f32 = 0.0,
        /// How far from the threshold, in scales, the slope of `polynomial` comes to zero for two levels of a range.
        width: f32 = 0.5,
        /// What the gradient of the scale is multiplied by; LSQ has `1/√(n·hi)` for `n` values.
        factor: f32 = 1.0,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl LearnedQuantize {
    /// The quantizer.
    ///
    /// # Errors
    /// If attributes contradict each other.
    pub fn quantizer(&self) -> Result<Learned, OpError> {
        let estimator = (self.estimator.as_str(), self.delta, self.width);
        Learned::new((self.lo, self.hi), self.bipolar, self.real, estimator, self.factor)
    }
}

impl Op for LearnedQuantize {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        self.quantizer()?;
        let x = cx.ty(0)?;
        check_scale(x.shape.as_deref(), cx.shape(1)?, self.axis)?;
        Ok(vec![Type::maybe(Element::F32, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, scale) = (cx.input(0)?, cx.input(1)?);
        let quantizer = self.quantizer()?;
        let (scales, at) = (scale.to_f32s(), scale_index(x.shape(), scale.len(), self.axis)?);
        let values = x.to_f32s().into_iter().enumerate().map(|(i, x)| quantizer.apply(x, scales[at(i)])).collect();
        Ok(vec![Tensor::new::<f32>(x.shape(), values)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let op = LearnedQuantizeGrad {
            lo: self.lo,
            hi: self.hi,
            axis: self.axis,
            bipolar: self.bipolar,
            real: self.real,
            estimator: self.estimator.clone(),
            delta: self.delta,
            width: self.width,
            factor: self.factor,
        };
        let inputs = [Some(cx.input(0)?), Some(cx.input(1)?), Some(cx.dy()?)];
        let found = cx.emit_all(op, &inputs, 2)?;
        Ok(found.into_iter().enumerate().map(|(i, id)| cx.wants(i).then_some(id)).collect())
    }
}

fn cases() -> Vec<Case> {
    let x = [-1.3, -0.25, 0.0, 0.25, 0.75, 9.0];
    vec![
        // u = −2.6, −0.5, 0, 0.5, 1.5, 18: halves go to even.
        Case::new("per_tensor", LearnedQuantize { lo: -7, hi: 7, ..LearnedQuantize::default() })
            .f32(&[2, 3], &x)
            .f32(&[1], &[0.5])
            .gives(&[2, 3], &[-3., 0., 0., 0., 2., 7.]),
        Case::new("per_channel", LearnedQuantize { lo: -1, hi: 1, ..LearnedQuantize::default() })
            .f32(&[2, 3], &x)
            .f32(&[2], &[0.4, 2.0])
            .gives(&[2, 3], &[-1., -1., 0., 0., 0., 1.]),
        Case::new("last_axis_real", LearnedQuantize { lo: 0, hi: 3, axis: 1, real: true, ..LearnedQuantize::default() })
            .f32(&[2, 3], &x)
            .f32(&[3], &[0.5, 0.25, 2.0])
            .gives(&[2, 3], &[0., 0., 0., 0., 0.75, 6.]),
        Case::new("bipolar", LearnedQuantize { bipolar: true, ..LearnedQuantize::default() })
            .f32(&[2, 3], &x)
            .f32(&[1], &[0.5])
            .gives(&[2, 3], &[-1., -1., 1., 1., 1., 1.]),
        Case::new("not_a_number", LearnedQuantize::default())
            .f32(&[2], &[f32::NAN, f32::INFINITY])
            .f32(&[1], &[0.5])
            .gives(&[2], &[f32::NAN, 127.]),
    ]
}

use qing_tensor::{Element, Tensor};

use super::support::learned::{Learned, check_scale, scale_index};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The estimated gradients of `LearnedQuantize` by X and by the scale. Inputs: its X and scale, and the gradient of its
    /// result. With u = X / scale and `slope` the estimate of dQ/du (1 straight through, 0 outside the range):
    /// `dX = dQ · slope / scale`, and `dscale = factor · Σ −dQ · u / scale` over what is inside the range, `pact` with Q in
    /// the place of u. If the result is real: `dX = dY · slope`, `dscale = factor · Σ dY · (Q − u)`, with Q alone outside.
    LearnedQuantizeGrad = "LearnedQuantizeGrad" in "qing" {
        /// Least integer.
        lo: i64 = -127,
        /// Largest integer.
        hi: i64 = 127,
        /// The axis of the scales, if there are several.
        axis: i64 = 0,
        /// Whether Q is the sign of X.
        bipolar: bool = false,
        /// Whether the result is `scale · Q`.
        real: bool = false,
        /// How the gradient of the rounding is estimated: `lsq`, `pact`, `ewgs`, or `polynomial` for two levels.
        estimator: String = "lsq".into(),
        /// Strength of `ewgs`.
        delta: f32 = 0.0,
        /// How far from the threshold, in scales, the slope of `polynomial` comes to zero for two levels of a range.
        width: f32 = 0.5,
        /// What the gradient of the scale is multiplied by.
        factor: f32 = 1.0,
    }
    inputs: 3..=3, outputs: 2..=2,
    gradient: Gradient::None("an estimate of a gradient has none of its own"),
    cases: cases
}

impl LearnedQuantizeGrad {
    /// The quantizer.
    ///
    /// # Errors
    /// If attributes contradict each other.
    pub fn quantizer(&self) -> Result<Learned, OpError> {
        let estimator = (self.estimator.as_str(), self.delta, self.width);
        Learned::new((self.lo, self.hi), self.bipolar, self.real, estimator, self.factor)
    }
}

impl Op for LearnedQuantizeGrad {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        self.quantizer()?;
        let (x, scale) = (cx.ty(0)?, cx.ty(1)?);
        cx.ty(2)?;
        check_scale(x.shape.as_deref(), scale.shape.as_deref(), self.axis)?;
        Ok(vec![Type::maybe(Element::F32, x.shape.clone()), Type::maybe(Element::F32, scale.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, scale, g) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let quantizer = self.quantizer()?;
        if g.shape() != x.shape() {
            return Err(OpError::invalid(format!("a gradient of {:?} for values of {:?}", g.shape(), x.shape())));
        }
        let (scales, at) = (scale.to_f32s(), scale_index(x.shape(), scale.len(), self.axis)?);
        let mut sums = vec![0f64; scales.len()];
        let values = x.to_f32s().into_iter().zip(g.to_f32s()).enumerate().map(|(i, (x, g))| {
            let (dx, ds) = quantizer.gradient(x, scales[at(i)], g);
            sums[at(i)] += ds;
            dx as f32
        });
        let dx = Tensor::new::<f32>(x.shape(), values.collect())?;
        Ok(vec![dx, Tensor::new::<f32>(scale.shape(), sums.into_iter().map(|v| v as f32).collect())?])
    }
}

fn cases() -> Vec<Case> {
    // u = −2, −0.5, 0.25, 1.75, 3 in units of 0.5.
    let x = [-1.0, -0.25, 0.125, 0.875, 1.5];
    let g = [1.0, 2.0, -4.0, 8.0, -16.0];
    let two = |op: LearnedQuantizeGrad| LearnedQuantizeGrad { lo: 0, hi: 2, ..op };
    let case = |name: &str, op: LearnedQuantizeGrad| Case::new(name, op).f32(&[5], &x).f32(&[1], &[0.5]).f32(&[5], &g);
    let with = |estimator: &str| LearnedQuantizeGrad { estimator: estimator.into(), ..Default::default() };
    vec![
        // Inside are 0.25 and 1.75: dscale = 4·0.25/0.5 − 8·1.75/0.5.
        case("lsq", two(with("lsq"))).gives(&[5], &[0., 0., -8., 16., 0.]).gives(&[1], &[-26.]),
        // Q is 0, 0, 0, 2, 2.
        case("pact", two(with("pact"))).gives(&[5], &[0., 0., -8., 16., 0.]).gives(&[1], &[-32.]),
        // Slopes 1 − 0.5·0.25 and 1 − 0.5·0.25.
        case("ewgs", two(LearnedQuantizeGrad { delta: 0.5, ..with("ewgs") }))
            .gives(&[5], &[0., 0., -7., 14., 0.])
            .gives(&[1], &[-26.]),
        // dscale = −4·(0 − 0.25) + 8·(2 − 1.75) − 16·2, halved.
        case("real", two(LearnedQuantizeGrad { real: true, factor: 0.5, ..Default::default() }))
            .gives(&[5], &[0., 0., -4., 8., 0.])
            .gives(&[1], &[-14.5]),
        // Inside are −0.5 and 0.25; slopes 1 and 1.5.
        case("bipolar", LearnedQuantizeGrad { bipolar: true, ..with("polynomial") })
            .gives(&[5], &[0., 4., -12., 0., 0.])
            .gives(&[1], &[0.]),
        // Inside is 0.25, half a level from the threshold: 2 − 2·0.5.
        case("two_levels", LearnedQuantizeGrad { lo: 0, hi: 1, ..with("polynomial") })
            .gives(&[5], &[0., 0., -8., 0., 0.])
            .gives(&[1], &[2.]),
        // 2.5, 1, 0.25, 1.25 and 2.5 from the threshold; slopes of what is within two: a half of 1/2, 7/8 and 3/8 of it.
        case("wide", LearnedQuantizeGrad { lo: 0, hi: 1, width: 2.0, ..with("polynomial") })
            .gives(&[5], &[0., 1., -3.5, 3., 0.])
            .gives(&[1], &[-3.875]),
        Case::new("per_channel", LearnedQuantizeGrad { lo: -1, hi: 1, ..Default::default() })
            .f32(&[2, 2], &[0.25, 3.0, -1.0, 1.0])
            .f32(&[2], &[0.5, 2.0])
            .f32(&[2, 2], &[1.0, 1.0, 2.0, 4.0])
            .gives(&[2, 2], &[2., 0., 1., 2.])
            .gives(&[2], &[-1., -0.5]),
    ]
}

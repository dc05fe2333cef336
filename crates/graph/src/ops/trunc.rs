use qing_tensor::Tensor;

use super::support::{
    elementwise::broadcast_to,
    integers::one_value,
    rounding::{integer_range, rounding},
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// QONNX's removal of low bits from an integer that stands for a real number. Inputs: x, scale, zero point, bits before,
    /// bits after; or, since QONNX 2, x, scale, zero point, bits before, scale, zero point and bits after.
    Trunc = "Trunc" in "qonnx.custom_op.general" {
        /// How the remaining integer is rounded; see [`Quant`](super::Quant).
        rounding_mode: String = "FLOOR".into(),
        /// Whether the integers are signed; of version 2.
        signed: bool = true,
        /// Whether the range is narrowed by one; of version 2.
        narrow: bool = false,
    }
    inputs: 5..=7, outputs: 1..=1,
    gradient: Gradient::None("training uses the straight-through estimator instead"),
    cases: cases
}

impl Op for Trunc {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let (scale, zero) = (broadcast_to(cx.input(1)?, x.shape())?, broadcast_to(cx.input(2)?, x.shape())?);
        let round = rounding(&self.rounding_mode)?;
        let before = one_value(cx.input(3)?)?;
        let integer = |i: usize, x: f64| (f64::from(x as f32 / scale[i] as f32) + zero[i]).round_ties_even();
        let values: Vec<f64> = if let Some(after) = cx.optional(6) {
            let to = broadcast_to(cx.input(4)?, x.shape())?;
            let (lo, hi) = integer_range(one_value(after)?, self.signed, self.narrow)?;
            let each = |(i, x): (usize, f64)| {
                let step = (to[i] / scale[i]).log2().round_ties_even().exp2();
                (round((integer(i, x) / step).clamp(lo, hi)) - zero[i] / step) * to[i]
            };
            x.to_f64s().into_iter().enumerate().map(each).collect()
        } else {
            let step = (before - one_value(cx.input(4)?)?).exp2();
            let each = |(i, x): (usize, f64)| (round(integer(i, x) / step) - zero[i]) * scale[i];
            x.to_f64s().into_iter().enumerate().map(each).collect()
        };
        Ok(vec![Tensor::new(x.shape(), values)?.cast(x.element())])
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Integers 10 and −7 lose two bits: 2 and −2.
        Case::new("two_bits_less", Trunc::default())
            .f32(&[2], &[5., -3.5])
            .f32(&[], &[0.5])
            .f32(&[], &[0.])
            .f32(&[], &[6.])
            .f32(&[], &[4.])
            .gives(&[2], &[1., -1.]),
        Case::new("rescaled", Trunc { rounding_mode: "ROUND".into(), ..Trunc::default() })
            .f32(&[2], &[5., -100.])
            .f32(&[], &[0.5])
            .f32(&[], &[0.])
            .f32(&[], &[6.])
            .f32(&[], &[2.])
            .f32(&[], &[0.])
            .f32(&[], &[4.])
            .gives(&[2], &[4., -16.]),
    ]
}

use qing_tensor::Tensor;

use super::support::{
    elementwise::broadcast_to,
    integers::one_value,
    rounding::{integer_range, rounding},
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// QONNX's quantization, dequantized again: `scale · (clamp(round(x / scale + zero)) − zero)`. Inputs: x, scale, zero
    /// point (both broadcast) and bits. Signed integers of one bit are −1 and +1.
    Quant = "Quant" in "qonnx.custom_op.general" {
        /// Whether the integers are signed.
        signed: bool = true,
        /// Whether the most negative integer (the largest, if unsigned) is left out.
        narrow: bool = false,
        /// `ROUND` (half to even), `CEIL`, `FLOOR`, `UP`, `DOWN`, `HALF_UP` or `HALF_DOWN`.
        rounding_mode: String = "ROUND".into(),
    }
    inputs: 4..=4, outputs: 1..=1,
    gradient: Gradient::None("training uses the straight-through estimator instead"),
    cases: cases
}

impl Op for Quant {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let (scale, zero) = (broadcast_to(cx.input(1)?, x.shape())?, broadcast_to(cx.input(2)?, x.shape())?);
        let bits = one_value(cx.input(3)?)?;
        let (lo, hi) = integer_range(bits, self.signed, self.narrow)?;
        let round = rounding(&self.rounding_mode)?;
        let values = x
            .to_f64s()
            .into_iter()
            .enumerate()
            .map(|(i, x)| {
                let (scale, zero) = (scale[i], zero[i]);
                // The division is of f32, so that halves fall as they do where the model was made.
                let q = f64::from(x as f32 / scale as f32) + zero;
                let q = if bits == 1.0 && self.signed { 1f64.copysign(q + 0.0) } else { round(q).clamp(lo, hi) };
                (q - zero) * scale
            })
            .collect();
        Ok(vec![Tensor::new::<f64>(x.shape(), values)?.cast(x.element())])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("four_bits", Quant::default())
            .f32(&[2, 2], &[0.25, 0.75, -100., 3.4])
            .f32(&[], &[0.5])
            .f32(&[], &[0.])
            .f32(&[], &[4.])
            .gives(&[2, 2], &[0., 1., -4., 3.5]),
        Case::new("narrow_per_channel", Quant { narrow: true, ..Quant::default() })
            .f32(&[2, 1], &[-100., -100.])
            .f32(&[2, 1], &[0.5, 1.])
            .f32(&[], &[0.])
            .f32(&[], &[4.])
            .gives(&[2, 1], &[-3.5, -7.]),
        Case::new("unsigned_floor", Quant { signed: false, rounding_mode: "FLOOR".into(), ..Quant::default() })
            .f32(&[3], &[-1., 1.9, 9.])
            .f32(&[], &[1.])
            .f32(&[], &[1.])
            .f32(&[], &[2.])
            .gives(&[3], &[-1., 1., 2.]),
        Case::new("one_bit", Quant::default())
            .f32(&[3], &[-0.1, 0., 3.])
            .f32(&[], &[0.5])
            .f32(&[], &[0.])
            .f32(&[], &[1.])
            .gives(&[3], &[-0.5, 0.5, 0.5]),
    ]
}

use qing_tensor::{Element, Tensor};

use super::support::{axes::normalize, data_type::element_of, integers};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// ONNX's dequantization with scale and zero point as inputs: `(x − zero) ⊗ scale`, per tensor, per slice of an axis, or
    /// per block along it. What a model in the QDQ form contains; qing's own form is a quantized type.
    DequantizeLinear = "DequantizeLinear" {
        /// The axis of the scales, if there are several; negative counts from the end.
        axis: i64 = 1,
        /// Values per block along `axis`; 0 means one scale a slice.
        block_size: i64 = 0,
        /// ONNX type of the output; that of the scale if 0.
        output_dtype: i64 = 0,
    }
    inputs: 2..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl DequantizeLinear {
    fn element(&self, scale: Element) -> Result<Element, OpError> {
        if self.output_dtype == 0 { Ok(scale) } else { element_of(self.output_dtype) }
    }
}

impl Op for DequantizeLinear {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(self.element(cx.element(1)?)?, cx.ty(0)?.shape.clone())])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, scale, zero) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
        integers::range(x.element())?;
        let which = integers::scale_indices(x.shape(), scale.shape(), self.axis, self.block_size)?;
        let zeros = zero.map_or_else(|| vec![0; scale.len()], Tensor::to_ints);
        if zeros.len() != scale.len() {
            return Err(OpError::invalid(format!("{} zero points for {} scales", zeros.len(), scale.len())));
        }
        let scales = scale.to_f32s();
        let values: Vec<f32> =
            x.to_ints().into_iter().zip(which).map(|(q, i)| q.wrapping_sub(zeros[i]) as f32 * scales[i]).collect();
        Ok(vec![Tensor::new(x.shape(), values)?.cast(self.element(scale.element())?)])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| {
            let (x, scale) = (cx.input(0)?, cx.input(1)?);
            let shape = cx.shape(x)?;
            // Scales and zero points as they broadcast to the values.
            let spread = |v| match cx.shape(v)?.iter().product::<usize>() {
                1 => cx.reshape(v, &[]),
                _ if self.block_size == 0 => cx.along(v, normalize(self.axis, shape.len())?, shape.len()),
                _ => {
                    let axis = normalize(self.axis, shape.len())?;
                    let blocks: Vec<usize> = (0..shape[axis]).map(|i| i / self.block_size.max(1) as usize).collect();
                    cx.emit(super::Gather { axis: axis as i64 }, &[v, cx.ints(&blocks)])
                }
            };
            let mut centred = cx.cast_like(x, scale)?;
            if let Some(zero) = cx.optional(2) {
                centred = cx.sub(centred, spread(cx.cast_like(zero, scale)?)?)?;
            }
            Ok(vec![Some(cx.mul(centred, spread(scale)?)?)])
        })
    }
}

fn cases() -> Vec<Case> {
    let i4 = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::Bits { width: 4, signed: true }, shape, v).expect("fits");
    vec![
        Case::new("per_tensor", DequantizeLinear::default())
            .input(Tensor::vector(vec![0u8, 128, 255]))
            .f32(&[], &[0.5])
            .input(Tensor::scalar(128u8))
            .gives(&[3], &[-64., 0., 63.5]),
        Case::new("per_axis", DequantizeLinear { axis: 0, ..DequantizeLinear::default() })
            .input(Tensor::new(&[2, 1], vec![3i32, -4]).expect("fits"))
            .f32(&[2], &[0.5, 2.])
            .gives(&[2, 1], &[1.5, -8.]),
        Case::new("blocks_of_four_bits", DequantizeLinear { axis: 0, block_size: 2, ..DequantizeLinear::default() })
            .input(i4(&[3, 1], &[7, -8, 1]))
            .f32(&[2, 1], &[0.5, 2.])
            .input(i4(&[2, 1], &[1, -1]))
            .gives(&[3, 1], &[3., -4.5, 4.]),
    ]
}

use qing_tensor::{Element, Tensor, f16};

use super::support::{data_type::element_of, integers};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, arithmetic, op};

op! {
    /// ONNX's quantization with scale and zero point as inputs: `clamp(rint(x ⊘ scale) + zero)`, per tensor, per slice of
    /// an axis, or per block along it. What a model in the QDQ form contains; qing's own form is a quantized type.
    QuantizeLinear = "QuantizeLinear" {
        /// The axis of the scales, if there are several; negative counts from the end.
        axis: i64 = 1,
        /// Values per block along `axis`; 0 means one scale a slice.
        block_size: i64 = 0,
        /// ONNX type of the output where no zero point says it.
        output_dtype: i64 = 0,
        /// ONNX type of the division; that of the inputs if 0.
        precision: i64 = 0,
        /// How 8-bit floats overflow; integers always saturate.
        saturate: bool = true,
    }
    inputs: 2..=3, outputs: 1..=1,
    gradient: Gradient::None("training uses the straight-through estimator instead"),
    cases: cases
}

impl QuantizeLinear {
    fn element(&self, zero: Option<Element>) -> Result<Element, OpError> {
        let element = match (zero, self.output_dtype) {
            (Some(element), _) => element,
            (None, 0) => Element::U8,
            (None, code) => element_of(code)?,
        };
        integers::range(element).map(|_| element)
    }
}

impl Op for QuantizeLinear {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = self.element(cx.optional(2).map(|t| t.element))?;
        Ok(vec![Type::maybe(element, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, scale, zero) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
        let element = self.element(zero.map(Tensor::element))?;
        let (lo, hi) = integers::range(element)?;
        let which = integers::scale_indices(x.shape(), scale.shape(), self.axis, self.block_size)?;
        let zeros = zero.map_or_else(|| vec![0; scale.len()], Tensor::to_ints);
        if zeros.len() != scale.len() {
            return Err(OpError::invalid(format!("{} zero points for {} scales", zeros.len(), scale.len())));
        }
        let in_f16 = match self.precision {
            0 => x.element() == Element::F16 && scale.element() == Element::F16,
            code => element_of(code)? == Element::F16,
        };
        let scales = scale.to_f32s();
        let quantize = |(x, i): (f32, usize)| {
            if in_f16 {
                arithmetic::quantize(f16::from_f32(x / scales[i]).to_f32(), 1.0, zeros[i], lo, hi)
            } else {
                arithmetic::quantize(x, scales[i], zeros[i], lo, hi)
            }
        };
        let values = x.to_f32s().into_iter().zip(which).map(quantize).collect();
        Ok(vec![integers::from_ints(element, x.shape(), values)?])
    }
}

fn cases() -> Vec<Case> {
    let i8s = |v: &[i8]| Tensor::vector(v.to_vec());
    let i4 = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::Bits { width: 4, signed: true }, shape, v).expect("fits");
    vec![
        Case::new("per_tensor", QuantizeLinear::default())
            .f32(&[4], &[-1., 1., 3., 1000.])
            .f32(&[], &[2.])
            .input(Tensor::scalar(10u8))
            .output(Tensor::vector(vec![10u8, 10, 12, 255])),
        Case::new("per_axis", QuantizeLinear { axis: -1, ..QuantizeLinear::default() })
            .f32(&[2, 2], &[1., 1., -3., -300.])
            .f32(&[2], &[1., 2.])
            .input(i8s(&[0, 1]))
            .output(Tensor::new(&[2, 2], vec![1i8, 1, -3, -128]).expect("fits")),
        Case::new("blocks_of_four_bits", QuantizeLinear { axis: 1, block_size: 2, output_dtype: 22, ..QuantizeLinear::default() })
            .f32(&[1, 3], &[1., 20., 3.])
            .f32(&[1, 2], &[1., 0.5])
            .output(i4(&[1, 3], &[1, 7, 6])),
    ]
}

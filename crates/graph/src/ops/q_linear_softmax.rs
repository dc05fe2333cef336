use qing_tensor::Tensor;

use super::{
    Softmax,
    support::{integers, qoperator},
};
use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, Type, arithmetic, op};

op! {
    /// Softmax of a quantized tensor with scales and zero points as inputs: x, x_scale, x_zero, y_scale, y_zero; a
    /// float island of its own.
    QLinearSoftmax = "QLinearSoftmax" in "com.microsoft" {
        /// The axis; negative counts from the end.
        axis: i64 = -1,
        /// Opset of the [`Softmax`] it stands for: before 13 all axes from `axis` on are one.
        opset: i64 = 13,
    }
    inputs: 5..=5, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl QLinearSoftmax {
    fn softmax(&self) -> Softmax {
        Softmax { axis: self.axis, coerced: self.opset < 13 }
    }
}

impl Op for QLinearSoftmax {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        qoperator::infer(&self.softmax(), cx, &[0])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, from) = qoperator::operand(cx, 0)?;
        let from = arithmetic::per_tensor(&from)?;
        let to = arithmetic::per_tensor(&qoperator::quantized(cx, 3, x.element(), &[])?)?;
        let real: Vec<f32> =
            x.to_ints().into_iter().map(|q| arithmetic::dequantize(q, from.scale, from.zero)).collect();
        let real = Tensor::new(x.shape(), real)?;
        let y = qoperator::eval(
            &self.softmax(),
            &[(&real, Type::maybe(Element::F32, None))],
            &Type::maybe(Element::F32, None),
        )?;
        let values =
            y[0].to_f32s().into_iter().map(|v| arithmetic::quantize(v, to.scale, to.zero, to.lo, to.hi)).collect();
        Ok(vec![integers::from_ints(x.element(), x.shape(), values)?])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", QLinearSoftmax::default())
            .input(Tensor::new(&[2, 2], vec![7u8, 7, 255, 0]).expect("fits"))
            .f32(&[], &[1.0])
            .input(Tensor::scalar(7u8))
            .f32(&[], &[0.003_906_25])
            .input(Tensor::scalar(0u8))
            .output(Tensor::new(&[2, 2], vec![128u8, 128, 255, 0]).expect("fits")),
    ]
}

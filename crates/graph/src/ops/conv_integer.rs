use qing_tensor::{Element, Tensor};

use super::{
    Conv,
    support::integers::{centered_by, narrow},
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Convolution of integers minus their zero points, exact, in i32. Inputs: x, w, x_zero, w_zero (one, or one an output
    /// channel).
    ConvInteger = "ConvInteger" {
        /// `NOTSET`, `SAME_UPPER`, `SAME_LOWER` or `VALID`.
        auto_pad: String = "NOTSET".into(),
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Number of groups the channels are split into.
        group: i64 = 1,
        /// Taps per spatial axis; those of `w` if empty.
        kernel_shape: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 2..=4, outputs: 1..=1,
    gradient: Gradient::None("its inputs are integers"),
    cases: cases
}

impl ConvInteger {
    /// The convolution of quantized types with these attributes.
    pub fn conv(&self) -> Conv {
        Conv {
            auto_pad: self.auto_pad.clone(),
            dilations: self.dilations.clone(),
            group: self.group,
            kernel_shape: self.kernel_shape.clone(),
            pads: self.pads.clone(),
            strides: self.strides.clone(),
        }
    }
}

impl Op for ConvInteger {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let inner = Infer { types: &[cx.optional(0), cx.optional(1)], constants: &[], outputs: 1 };
        Ok(vec![Type::maybe(Element::I32, self.conv().infer(&inner)?.swap_remove(0).shape)])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        let (xs, ws) = (centered_by(x, cx.optional(2), 0)?, centered_by(w, cx.optional(3), 0)?);
        let (shape, acc) = self.conv().convolve(x.shape(), w.shape(), &xs, &ws, &[])?;
        let values = acc.into_iter().map(narrow).collect::<Result<Vec<i32>, OpError>>()?;
        Ok(vec![Tensor::new(&shape, values)?])
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        self.conv().macs(&Infer { types: &[cx.optional(0), cx.optional(1)], constants: &[], outputs: 1 })
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Padding is the zero point: (0, 2, −3) with (3, −1).
        Case::new("padded", ConvInteger { pads: vec![1, 0], ..ConvInteger::default() })
            .input(Tensor::new(&[1, 1, 2], vec![12u8, 7]).expect("fits"))
            .input(Tensor::new(&[1, 1, 2], vec![5u8, 1]).expect("fits"))
            .input(Tensor::scalar(10u8))
            .input(Tensor::scalar(2u8))
            .output(Tensor::new(&[1, 1, 2], vec![-2i32, 9]).expect("fits")),
    ]
}

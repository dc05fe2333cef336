use qing_tensor::Tensor;

use super::{
    Conv,
    support::integers::{centered_by, from_ints, one_scale, one_zero, range},
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, arithmetic, op};

op! {
    /// Convolution of quantized tensors with scales and zero points as inputs: x, x_scale, x_zero, w, w_scale, w_zero,
    /// y_scale, y_zero and an i32 bias. The same numbers as a [`Conv`] of quantized types.
    QLinearConv = "QLinearConv" {
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
    inputs: 8..=9, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl QLinearConv {
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

impl Op for QLinearConv {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let inner = Infer { types: &[cx.optional(0), cx.optional(3)], constants: &[], outputs: 1 };
        let shape = self.conv().infer(&inner)?.swap_remove(0).shape;
        Ok(vec![Type::maybe(cx.element(7)?, shape)])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (cx.input(0)?, cx.input(3)?);
        let (x_scale, w_scale, y_scale) = (one_scale(cx.input(1)?)?, cx.input(4)?.to_f32s(), one_scale(cx.input(6)?)?);
        let (zero, element) = (one_zero(Some(cx.input(7)?))?, cx.input(7)?.element());
        let (lo, hi) = range(element)?;
        let xs = centered_by(x, Some(cx.input(2)?), 0)?;
        let ws = centered_by(w, Some(cx.input(5)?), 0)?;
        let bias: Vec<i64> = cx.optional(8).map_or(vec![], |b| b.to_ints().into_iter().map(i64::from).collect());
        let (shape, acc) = self.conv().convolve(x.shape(), w.shape(), &xs, &ws, &bias)?;
        let (channels, area) = (shape[1], shape[2..].iter().product::<usize>());
        if w_scale.len() != 1 && w_scale.len() != channels {
            return Err(OpError::invalid(format!("{} weight scales for {channels} channels", w_scale.len())));
        }
        let scales: Vec<f32> = w_scale.iter().map(|s| arithmetic::dot_scale(x_scale, *s, y_scale)).collect();
        let values = acc
            .iter()
            .enumerate()
            .map(|(i, acc)| {
                let scale = scales[if scales.len() == 1 { 0 } else { i / area % channels }];
                Ok(arithmetic::requantize(super::support::integers::narrow(*acc)?, scale, zero, lo, hi))
            })
            .collect::<Result<Vec<i32>, OpError>>()?;
        Ok(vec![from_ints(element, &shape, values)?])
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        self.conv().macs(&Infer { types: &[cx.optional(0), cx.optional(3)], constants: &[], outputs: 1 })
    }
}

fn cases() -> Vec<Case> {
    let f = |v: f32| Tensor::scalar(v);
    // The numbers of the quantized case of Conv.
    vec![
        Case::new("per_channel", QLinearConv { pads: vec![0, 1, 0, 0], ..QLinearConv::default() })
            .input(Tensor::new(&[1, 1, 1, 2], vec![12u8, 7]).expect("fits"))
            .input(f(0.5))
            .input(Tensor::scalar(10u8))
            .input(Tensor::new(&[2, 1, 1, 2], vec![3i8, -1, 2, 5]).expect("fits"))
            .f32(&[2], &[0.25, 0.5])
            .input(Tensor::vector(vec![0i8, 0]))
            .input(f(0.5))
            .input(Tensor::scalar(128u8))
            .input(Tensor::vector(vec![4i32, -20]))
            .output(Tensor::new(&[1, 2, 1, 2], vec![128u8, 131, 123, 112]).expect("fits")),
    ]
}

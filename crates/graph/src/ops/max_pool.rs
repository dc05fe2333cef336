use qing_tensor::Tensor;

use super::support::{elementwise::each_index, window::{Explicit, WindowAttrs}};
use crate::{Backward, Gradients, Case, Dim, Element, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Maximum over a sliding window of `X [batch, channels, spatial…]`; padding never wins. The second output is the
    /// linear index of the winner in `X`. On quantized values it compares integers.
    MaxPool = "MaxPool" {
        /// `NOTSET`, `SAME_UPPER`, `SAME_LOWER` or `VALID`.
        auto_pad: String = "NOTSET".into(),
        /// Whether the last, partial window counts.
        ceil_mode: bool = false,
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Taps per spatial axis.
        kernel_shape: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Order of the indices: 0 row-major, 1 column-major.
        storage_order: i64 = 0,
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 1..=1, outputs: 1..=2,
    gradient: Gradient::Smooth,
    cases: cases
}

impl MaxPool {
    /// The window attributes.
    pub fn window(&self) -> WindowAttrs<'_> {
        WindowAttrs {
            auto_pad: &self.auto_pad,
            pads: &self.pads,
            strides: &self.strides,
            dilations: &self.dilations,
            ceil: self.ceil_mode,
        }
    }

    /// Taps per spatial axis.
    ///
    /// # Errors
    /// If one is not positive.
    pub fn kernel(&self) -> Result<Vec<usize>, OpError> {
        super::support::window::kernel(&self.kernel_shape)
    }
}

impl Op for MaxPool {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match &x.shape {
            None => None,
            Some(dims) if dims.len() < 3 => return Err(OpError::invalid(format!("X of rank {}", dims.len()))),
            Some(dims) => {
                let mut shape: Vec<Dim> = dims[..2].to_vec();
                shape.extend(self.window().output_dims(&dims[2..], &self.kernel()?)?);
                Some(shape)
            }
        };
        Ok(vec![x.with_shape(shape.clone()), Type::maybe(Element::I64, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        if x.rank() < 3 {
            return Err(OpError::invalid(format!("X of shape {:?}", x.shape())));
        }
        let kernel = self.kernel()?;
        let spatial_in = &x.shape()[2..];
        let axes = self.window().axes(spatial_in, &kernel)?;
        let spatial: Vec<usize> = axes.iter().map(|a| a.output).collect();
        let mut shape = x.shape()[..2].to_vec();
        shape.extend(&spatial);
        let values = x.to_f64s();
        let area: usize = spatial_in.iter().product();
        let (mut winners, mut indices) = (vec![], vec![]);
        for plane in 0..x.shape()[0] * x.shape()[1] {
            each_index(&spatial, |at| {
                let mut best: Option<(usize, Vec<usize>)> = None;
                each_index(&kernel, |k| {
                    let position: Option<Vec<usize>> =
                        axes.iter().enumerate().map(|(d, axis)| axis.tap(at[d], k[d])).collect();
                    let Some(position) = position else { return };
                    let i = plane * area + position.iter().zip(spatial_in).fold(0, |i, (p, n)| i * n + p);
                    let wins = best.as_ref().is_none_or(|(b, _)| values[i] > values[*b] || values[i].is_nan());
                    if wins {
                        best = Some((i, position));
                    }
                });
                // A window entirely in the padding cannot arise: pads are smaller than kernels in valid models.
                let (i, position) = best.unwrap_or((plane * area, vec![0; spatial.len()]));
                winners.push(i);
                indices.push(if self.storage_order == 0 {
                    i as i64
                } else {
                    let column_major = position.iter().zip(spatial_in).rev().fold(0, |i, (p, n)| i * n + p);
                    (plane * area + column_major) as i64
                });
            });
        }
        Ok(vec![x.take(&shape, winners)?, Tensor::new(&shape, indices)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let x = cx.input(0)?;
        let axes = self.window().axes(&cx.shape(x)?[2..], &self.kernel()?)?;
        let window = Explicit::new(&axes);
        let op = super::MaxPoolGrad {
            dilations: window.dilations,
            kernel_shape: self.kernel_shape.clone(),
            pads: window.pads,
            strides: window.strides,
        };
        Ok(vec![Some(cx.emit(op, &[x, cx.dy()?])?)])
    }
}

fn cases() -> Vec<Case> {
    let op = MaxPool { kernel_shape: vec![2, 2], strides: vec![2, 2], ..MaxPool::default() };
    vec![
        Case::new("2x2", op.clone())
            .f32(&[1, 1, 2, 4], &[1., 2., -3., -4., 5., 0., -1., -2.])
            .gives(&[1, 1, 1, 2], &[5., -1.])
            .output(Tensor::new(&[1, 1, 1, 2], vec![4i64, 6]).expect("fits")),
        Case::new("padded_negative", MaxPool { pads: vec![1, 1, 0, 0], ..op })
            .f32(&[1, 1, 1, 1], &[-7.])
            .gives(&[1, 1, 1, 1], &[-7.]),
    ]
}

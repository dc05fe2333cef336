use qing_tensor::Tensor;

use super::support::{
    elementwise::each_index,
    mean::{infer_element, means},
    window::{Axis, WindowAttrs, kernel},
};
use crate::{Backward, Gradients, Case, Dim, Element, Eval, Gradient, Infer, Op, OpError, Quant, QuantRule, Type, op};

op! {
    /// Mean over a sliding window of `X [batch, channels, spatial…]`. On quantized values the exact sum, requantized.
    AveragePool = "AveragePool" {
        /// `NOTSET`, `SAME_UPPER`, `SAME_LOWER` or `VALID`.
        auto_pad: String = "NOTSET".into(),
        /// Whether the last, partial window counts.
        ceil_mode: bool = false,
        /// Whether taps in the padding count, as zeros.
        count_include_pad: bool = false,
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Taps per spatial axis.
        kernel_shape: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl AveragePool {
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
        kernel(&self.kernel_shape)
    }

    /// How many taps of the window at `output` the mean is over, along one axis. What a window reaches beyond the padding,
    /// because of `ceil_mode`, never counts.
    pub fn taps(&self, axis: &Axis, output: usize) -> usize {
        let end = axis.input + axis.pad + axis.pad_end;
        (0..axis.kernel)
            .filter(|k| {
                if self.count_include_pad {
                    output * axis.stride + k * axis.dilation < end
                } else {
                    axis.tap(output, *k).is_some()
                }
            })
            .count()
    }
}

impl Op for AveragePool {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let shape = match cx.shape(0)? {
            None => None,
            Some(dims) if dims.len() < 3 => return Err(OpError::invalid(format!("X of rank {}", dims.len()))),
            Some(dims) => {
                let mut shape: Vec<Dim> = dims[..2].to_vec();
                shape.extend(self.window().output_dims(&dims[2..], &self.kernel()?)?);
                Some(shape)
            }
        };
        Ok(vec![Type::maybe(infer_element(cx)?, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        if x.rank() < 3 {
            return Err(OpError::invalid(format!("X of shape {:?}", x.shape())));
        }
        let kernel = self.kernel()?;
        let axes = self.window().axes(&x.shape()[2..], &kernel)?;
        let spatial: Vec<usize> = axes.iter().map(|a| a.output).collect();
        let mut shape = x.shape()[..2].to_vec();
        shape.extend(&spatial);
        let area: usize = x.shape()[2..].iter().product();
        // The taps of every window within one plane, the same for all planes.
        let mut windows: Vec<(Vec<usize>, usize)> = vec![];
        each_index(&spatial, |at| {
            let mut taps = vec![];
            each_index(&kernel, |k| {
                let position =
                    axes.iter().enumerate().try_fold(0, |i, (d, axis)| Some(i * axis.input + axis.tap(at[d], k[d])?));
                taps.extend(position);
            });
            windows.push((taps, axes.iter().zip(at).map(|(axis, at)| self.taps(axis, *at)).product()));
        });
        let all = (0..x.shape()[0] * x.shape()[1])
            .flat_map(|plane| windows.iter().map(move |(taps, n)| (taps.iter().map(move |t| plane * area + t), *n)));
        Ok(vec![means(cx, &shape, all)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Mean
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let spatial = cx.shape(cx.input(0)?)?[2..].to_vec();
        let axes = self.window().axes(&spatial, &self.kernel()?)?;
        let pads = axes.iter().map(|a| a.pad).chain(axes.iter().map(|a| a.pad_end));
        let op = super::AveragePoolGrad {
            ceil_mode: self.ceil_mode,
            count_include_pad: self.count_include_pad,
            dilations: self.dilations.clone(),
            input_shape: spatial.iter().map(|n| *n as i64).collect(),
            kernel_shape: self.kernel_shape.clone(),
            pads: pads.map(|p| p as i64).collect(),
            strides: self.strides.clone(),
        };
        Ok(vec![Some(cx.emit(op, &[cx.dy()?])?)])
    }
}

fn cases() -> Vec<Case> {
    let q = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let ints = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::I8, shape, v).expect("fits");
    let padded = AveragePool { kernel_shape: vec![2], pads: vec![1, 1], ..AveragePool::default() };
    let including = AveragePool { count_include_pad: true, ..padded.clone() };
    vec![
        Case::new("2x2", AveragePool { kernel_shape: vec![2, 2], strides: vec![2, 2], ..AveragePool::default() })
            .f32(&[1, 1, 2, 4], &[1., 2., 3., 4., 5., 6., 7., 8.])
            .gives(&[1, 1, 1, 2], &[3.5, 5.5]),
        Case::new("padded", padded.clone()).f32(&[1, 1, 2], &[2., 4.]).gives(&[1, 1, 3], &[2., 3., 4.]),
        Case::new("padding_counts", including.clone()).f32(&[1, 1, 2], &[2., 4.]).gives(&[1, 1, 3], &[1., 3., 2.]),
        // The second window reaches past the end: one value counts.
        Case::new(
            "ceil",
            AveragePool {
                kernel_shape: vec![2],
                strides: vec![2],
                ceil_mode: true,
                count_include_pad: true,
                ..AveragePool::default()
            },
        )
        .f32(&[1, 1, 3], &[1., 3., 5.])
        .gives(&[1, 1, 2], &[2., 5.]),
        // Sums of q + 1 are 4, 7, 3 over one, two and one taps; or over two everywhere.
        Case::new("quantized", padded)
            .quantized_input(ints(&[1, 1, 2], &[3, 2]), q(0.5, -1))
            .quantized_output(ints(&[1, 1, 3], &[8, 7, 6]), q(0.25, 0)),
        Case::new("quantized_padding_counts", including)
            .quantized_input(ints(&[1, 1, 2], &[3, 2]), q(0.5, -1))
            .quantized_output(ints(&[1, 1, 3], &[4, 7, 3]), q(0.25, 0)),
    ]
}

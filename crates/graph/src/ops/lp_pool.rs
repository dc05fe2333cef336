use qing_tensor::Tensor;

use super::support::{
    elementwise::each_index,
    window::{Explicit, WindowAttrs, kernel},
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The norm over a sliding window of `X [batch, channels, spatial…]`; padding counts as zero.
    LpPool = "LpPool" {
        /// `NOTSET`, `SAME_UPPER`, `SAME_LOWER` or `VALID`.
        auto_pad: String = "NOTSET".into(),
        /// Whether the last, partial window counts.
        ceil_mode: bool = false,
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Taps per spatial axis.
        kernel_shape: Vec<i64> = vec![],
        /// Order of the norm.
        p: i64 = 2,
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl LpPool {
    fn window(&self) -> WindowAttrs<'_> {
        WindowAttrs {
            auto_pad: &self.auto_pad,
            pads: &self.pads,
            strides: &self.strides,
            dilations: &self.dilations,
            ceil: self.ceil_mode,
        }
    }
}

impl Op for LpPool {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match &x.shape {
            None => None,
            Some(dims) if dims.len() < 3 => return Err(OpError::invalid(format!("X of rank {}", dims.len()))),
            Some(dims) => {
                let mut shape: Vec<Dim> = dims[..2].to_vec();
                shape.extend(self.window().output_dims(&dims[2..], &kernel(&self.kernel_shape)?)?);
                Some(shape)
            }
        };
        Ok(vec![Type::maybe(x.element, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        if x.rank() < 3 {
            return Err(OpError::invalid(format!("X of shape {:?}", x.shape())));
        }
        let (kernel, spatial) = (kernel(&self.kernel_shape)?, &x.shape()[2..]);
        let axes = self.window().axes(spatial, &kernel)?;
        let outputs: Vec<usize> = axes.iter().map(|a| a.output).collect();
        let mut shape = x.shape()[..2].to_vec();
        shape.extend(&outputs);
        let area = spatial.iter().product::<usize>();
        let p = self.p as f64;
        let powers: Vec<f64> = x.to_f64s().into_iter().map(|v| v.abs().powf(p)).collect();
        let mut y = vec![];
        for plane in 0..x.shape()[0] * x.shape()[1] {
            each_index(&outputs, |at| {
                let mut sum = 0.0;
                each_index(&kernel, |k| {
                    let position = axes.iter().enumerate().try_fold(0, |i, (d, axis)| {
                        Some(i * axis.input + axis.tap(at[d], k[d])?)
                    });
                    sum += position.map_or(0.0, |i| powers[plane * area + i]);
                });
                y.push(sum.powf(1.0 / p));
            });
        }
        Ok(vec![Tensor::new(&shape, y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dy()?);
        let (shape, taps) = (cx.shape(x)?, kernel(&self.kernel_shape)?);
        let window = Explicit::new(&self.window().axes(&shape[2..], &taps)?);
        let power = |v, p: f64| cx.emit(super::Pow {}, &[v, cx.scalar(v, p)]);
        // What every window passes on, dy · y^(1 − p), summed over the windows that a value is in: a transposed convolution.
        let passed = cx.masked(cx.above(y, 0.0)?, cx.mul(dy, power(y, 1.0 - self.p as f64)?)?)?;
        let plane = |shape: &[usize]| [&[shape[0] * shape[1], 1], &shape[2..]].concat();
        let passed = cx.reshape(passed, &plane(&cx.shape(y)?))?;
        let ones = cx.expand(cx.scalar(x, 1.0), &[&[1, 1], &taps[..]].concat())?;
        let op = super::ConvTranspose {
            dilations: window.dilations,
            output_padding: window.rest,
            pads: window.pads,
            strides: window.strides,
            ..super::ConvTranspose::default()
        };
        let collected = cx.reshape(cx.emit(op, &[passed, ones])?, &shape)?;
        let own = power(cx.emit(super::Abs {}, &[x])?, self.p as f64 - 1.0)?;
        Ok(vec![Some(cx.mul(collected, cx.mul(cx.emit(super::Sign {}, &[x])?, own)?)?)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("1d", LpPool { kernel_shape: vec![2], ..LpPool::default() })
            .f32(&[1, 1, 3], &[3., -4., 0.])
            .gives(&[1, 1, 2], &[5., 4.]),
        Case::new("padded", LpPool { kernel_shape: vec![2], p: 1, pads: vec![1, 0], ..LpPool::default() })
            .f32(&[1, 1, 2], &[3., -4.])
            .gives(&[1, 1, 2], &[3., 7.]),
    ]
}

use qing_tensor::{Element, Tensor};

use super::support::{
    dot::{Output, centered},
    elementwise::each_index,
    window::{Explicit, WindowAttrs},
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Quant, QuantRule, Type, op};

op! {
    /// Convolution of `X [batch, channels, spatial…]` with `W [out, channels/group, taps…]` and an optional bias `B [out]`.
    /// On quantized values it is a dot: bias in i32, exact accumulation, requantization per output channel.
    Conv = "Conv" {
        /// `NOTSET`, `SAME_UPPER`, `SAME_LOWER` or `VALID`.
        auto_pad: String = "NOTSET".into(),
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Number of groups the channels are split into.
        group: i64 = 1,
        /// Taps per spatial axis; those of `W` if empty.
        kernel_shape: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 2..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Conv {
    /// The window attributes.
    pub fn window(&self) -> WindowAttrs<'_> {
        WindowAttrs {
            auto_pad: &self.auto_pad,
            pads: &self.pads,
            strides: &self.strides,
            dilations: &self.dilations,
            ceil: false,
        }
    }

    /// The number of groups.
    ///
    /// # Errors
    /// If it is not positive.
    pub fn groups(&self) -> Result<usize, OpError> {
        usize::try_from(self.group)
            .ok()
            .filter(|g| *g > 0)
            .ok_or_else(|| OpError::invalid(format!("group {}", self.group)))
    }
}

impl Op for Conv {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = if cx.ty(0)?.quant.is_some() { Element::F32 } else { cx.element(0)? };
        let (Some(x), Some(w)) = (cx.shape(0)?, cx.shape(1)?) else { return Ok(vec![Type::maybe(element, None)]) };
        if x.len() < 3 || w.len() != x.len() {
            return Err(OpError::invalid(format!("X of rank {} and W of rank {}", x.len(), w.len())));
        }
        let groups = self.groups()?;
        if let (Some(channels), Some(per_group)) = (x[1].known(), w[1].known())
            && per_group.checked_mul(groups) != Some(channels)
        {
            return Err(OpError::invalid(format!("{channels} channels in {groups} groups of {per_group}")));
        }
        if w[0].known().is_some_and(|out| out % groups != 0) {
            return Err(OpError::invalid(format!("{} output channels in {groups} groups", w[0])));
        }
        let kernel: Option<Vec<usize>> = w[2..].iter().map(Dim::known).collect();
        let mut shape = vec![x[0].clone(), w[0].clone()];
        match kernel {
            Some(kernel) => shape.extend(self.window().output_dims(&x[2..], &kernel)?),
            None => shape.extend(x[2..].iter().map(|_| Dim::Unknown)),
        }
        Ok(vec![Type::maybe(element, Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, w, b) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
        if let (Some(xq), Some(wq)) = (cx.quant(0), cx.quant(1)) {
            let output = Output::of_dot(cx.ty(0)?, cx.ty(1)?, cx.output(0))?;
            let bias: Vec<i64> = b.map_or(vec![], |b| b.to_ints().into_iter().map(i64::from).collect());
            let (shape, acc) = self.convolve(x.shape(), w.shape(), &centered(x, xq), &centered(w, wq), &bias)?;
            let (channels, area) = (shape[1], shape[2..].iter().product::<usize>());
            return Ok(vec![output.finish(cx.output(0), &shape, &acc, |i| i / area % channels)?]);
        }
        if !x.element().is_float() {
            return Err(OpError::unsupported(format!("X of {}; expected floats or quantized values", x.element())));
        }
        let bias = b.map_or(vec![], Tensor::to_f64s);
        let (shape, acc) = self.convolve(x.shape(), w.shape(), &x.to_f64s(), &w.to_f64s(), &bias)?;
        Ok(vec![Tensor::new(&shape, acc)?.cast(x.element())])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Dot { weight: 1, bias: 2, axis: 0 }
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        let Ok(types) = self.infer(cx) else { return 0 };
        let (Some(y), Some(w)) = (types[0].known_shape(), cx.optional(1).and_then(Type::known_shape)) else { return 0 };
        y.iter().product::<usize>() as u64 * w[1..].iter().product::<usize>() as u64
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, w, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let (input, kernel) = (cx.shape(x)?, cx.shape(w)?);
        let axes = self.window().axes(&input[2..], &kernel[2..])?;
        let window = Explicit::new(&axes);
        // The weights first: the input is free after them.
        let dw = cx.wanted(1, || {
            let op = super::ConvWeightGrad {
                dilations: window.dilations.clone(),
                group: self.group,
                kernel_shape: kernel[2..].iter().map(|k| *k as i64).collect(),
                pads: window.pads.clone(),
                strides: window.strides.clone(),
            };
            cx.emit(op, &[x, dy])
        })?;
        let db = cx.wanted(2, || cx.sum_to_channels(dy))?;
        let dx = cx.wanted(0, || {
            let op = super::ConvTranspose {
                dilations: window.dilations.clone(),
                group: self.group,
                output_padding: window.rest.clone(),
                pads: window.pads.clone(),
                strides: window.strides.clone(),
                ..super::ConvTranspose::default()
            };
            cx.emit(op, &[dy, w])
        })?;
        Ok(vec![dx, dw, db])
    }
}

impl Conv {
    /// The naive loops, over exact integers or f64.
    pub(super) fn convolve<T>(&self, x: &[usize], w: &[usize], xs: &[T], ws: &[T], bias: &[T]) -> Result<(Vec<usize>, Vec<T>), OpError>
    where
        T: Copy + Default + std::ops::AddAssign + std::ops::Mul<Output = T>,
    {
        if x.len() < 3 || w.len() != x.len() {
            return Err(OpError::invalid(format!("X of shape {x:?} and W of shape {w:?}")));
        }
        let groups = self.groups()?;
        let (per_group, out) = (w[1], w[0]);
        if per_group * groups != x[1] || out % groups != 0 {
            return Err(OpError::invalid(format!("X of shape {x:?}, W of shape {w:?}, {groups} groups")));
        }
        if !bias.is_empty() && bias.len() != out {
            return Err(OpError::invalid(format!("a bias of {} for {out} output channels", bias.len())));
        }
        let axes = self.window().axes(&x[2..], &w[2..])?;
        let spatial: Vec<usize> = axes.iter().map(|a| a.output).collect();
        let mut shape = vec![x[0], out];
        shape.extend(&spatial);
        let (in_area, taps) = (x[2..].iter().product::<usize>(), w[2..].iter().product::<usize>());
        let mut result = Vec::with_capacity(qing_tensor::element_count(&shape)?);
        for n in 0..x[0] {
            for m in 0..out {
                let first = m / (out / groups) * per_group;
                each_index(&spatial, |at| {
                    let mut acc = bias.get(m).copied().unwrap_or_default();
                    let mut tap = 0;
                    each_index(&w[2..], |k| {
                        let position = axes.iter().enumerate().try_fold(0, |i, (d, axis)| {
                            Some(i * axis.input + axis.tap(at[d], k[d])?)
                        });
                        if let Some(position) = position {
                            for c in 0..per_group {
                                let xi = (n * x[1] + first + c) * in_area + position;
                                acc += xs[xi] * ws[(m * per_group + c) * taps + tap];
                            }
                        }
                        tap += 1;
                    });
                    result.push(acc);
                });
            }
        }
        Ok((shape, result))
    }
}

fn cases() -> Vec<Case> {
    let quantized = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let u8s = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::U8, shape, v).expect("fits");
    let i8s = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::I8, shape, v).expect("fits");
    vec![
        Case::new("padded", Conv { pads: vec![1, 1, 1, 1], ..Conv::default() })
            .f32(&[1, 1, 3, 3], &[1., 2., 3., 4., 5., 6., 7., 8., 9.])
            .f32(&[1, 1, 3, 3], &[1.; 9])
            .gives(&[1, 1, 3, 3], &[12., 21., 16., 27., 45., 33., 24., 39., 28.]),
        Case::new("depthwise", Conv { group: 2, ..Conv::default() })
            .f32(&[1, 2, 1, 2], &[1., 2., 3., 4.])
            .f32(&[2, 1, 1, 2], &[1., 10., 2., 1.])
            .f32(&[2], &[0.5, -1.])
            .gives(&[1, 2, 1, 1], &[21.5, 9.]),
        Case::new("strided_1d", Conv { strides: vec![2], dilations: vec![2], ..Conv::default() })
            .f32(&[1, 1, 6], &[1., 2., 3., 4., 5., 6.])
            .f32(&[1, 1, 2], &[1., -1.])
            .gives(&[1, 1, 2], &[-2., -2.]),
        // Padding is the zero point, so x − zero is (0, 2, −3). Channel 0: acc 2, 13 times 0.25; channel 1: −10, −31 times
        // 0.5. Ties go to even.
        Case::new("quantized", Conv { pads: vec![0, 1, 0, 0], ..Conv::default() })
            .quantized_input(u8s(&[1, 1, 1, 2], &[12, 7]), quantized(0.5, 10))
            .quantized_input(i8s(&[2, 1, 1, 2], &[3, -1, 2, 5]), Quant::per_axis(0, vec![0.25, 0.5]).expect("valid"))
            .input(Tensor::vector(vec![4i32, -20]))
            .quantized_output(u8s(&[1, 2, 1, 2], &[128, 131, 123, 112]), quantized(0.5, 128)),
    ]
}

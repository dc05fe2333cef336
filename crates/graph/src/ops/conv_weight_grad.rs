use qing_tensor::Tensor;

use super::support::{
    elementwise::each_index,
    window::{Axis, WindowAttrs, kernel},
};
use crate::{Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The gradient of the weights of a [`Conv`](super::Conv): from its input `X [batch, channels, spatial…]` and the gradient
    /// `dY [batch, out, spatial…]` of its output, `dW [out, channels/group, taps…]`. Every tap is the product of `dY` with what
    /// it saw of `X`, summed over all images and positions.
    ConvWeightGrad = "ConvWeightGrad" in "qing" {
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Number of groups the channels are split into.
        group: i64 = 1,
        /// Taps per spatial axis.
        kernel_shape: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::None("second derivatives are not taken"),
    cases: cases
}

impl ConvWeightGrad {
    /// How the window slides over an input of known size.
    ///
    /// # Errors
    /// If an attribute is out of range or the window is larger than the padded input.
    pub fn axes(&self, input: &[usize]) -> Result<Vec<Axis>, OpError> {
        let window = WindowAttrs {
            auto_pad: "NOTSET",
            pads: &self.pads,
            strides: &self.strides,
            dilations: &self.dilations,
            ceil: false,
        };
        window.axes(input, &kernel(&self.kernel_shape)?)
    }

    /// The number of groups.
    ///
    /// # Errors
    /// If it is not positive.
    pub fn groups(&self) -> Result<usize, OpError> {
        super::Conv { group: self.group, ..super::Conv::default() }.groups()
    }
}

impl Op for ConvWeightGrad {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let (element, kernel, groups) = (cx.element(0)?, kernel(&self.kernel_shape)?, self.groups()?);
        let (Some(x), Some(dy)) = (cx.shape(0)?, cx.shape(1)?) else {
            return Ok(vec![Type::maybe(element, None)]);
        };
        if x.len() != kernel.len() + 2 || dy.len() != x.len() {
            let ranks = format!("X of rank {} and dY of rank {}", x.len(), dy.len());
            return Err(OpError::invalid(format!("{ranks} for a kernel of {} axes", kernel.len())));
        }
        let split = |d: &Dim| d.known().is_none_or(|n| n % groups == 0);
        if !split(&x[1]) || !split(&dy[1]) {
            return Err(OpError::invalid(format!("{} and {} channels in {groups} groups", x[1], dy[1])));
        }
        if let Some(input) = x[2..].iter().map(Dim::known).collect::<Option<Vec<usize>>>() {
            for (axis, have) in self.axes(&input)?.iter().zip(&dy[2..]) {
                if have.known().is_some_and(|n| n != axis.output) {
                    return Err(OpError::invalid(format!("dY has {have} positions where X gives {}", axis.output)));
                }
            }
        }
        let mut shape = vec![dy[1].clone(), x[1].map(|n| n / groups)];
        shape.extend(kernel.into_iter().map(Dim::Known));
        Ok(vec![Type::maybe(element, Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, dy) = (cx.input(0)?, cx.input(1)?);
        let (kernel, groups) = (kernel(&self.kernel_shape)?, self.groups()?);
        let misfit = || OpError::invalid(format!("X {x:?} and dY {dy:?} in {groups} groups for a kernel {kernel:?}"));
        if x.rank() != kernel.len() + 2 || dy.rank() != x.rank() || !x.element().is_float() {
            return Err(misfit());
        }
        let axes = self.axes(&x.shape()[2..])?;
        let spatial: Vec<usize> = axes.iter().map(|a| a.output).collect();
        let (batch, channels, out) = (x.shape()[0], x.shape()[1], dy.shape()[1]);
        let fits = dy.shape()[0] == batch
            && dy.shape()[2..] == spatial[..]
            && channels.is_multiple_of(groups)
            && out.is_multiple_of(groups);
        if !fits {
            return Err(misfit());
        }
        let (area, positions) = (x.shape()[2..].iter().product::<usize>(), spatial.iter().product::<usize>());
        let per_group = channels / groups;
        let mut shape = vec![out, per_group];
        shape.extend(&kernel);
        let (xs, dys) = (x.to_f64s(), dy.to_f64s());
        // For every tap, the pairs of a position of the output and what the tap sees there.
        let mut taps: Vec<Vec<(usize, usize)>> = vec![];
        each_index(&kernel, |k| {
            let mut pairs = vec![];
            let mut position = 0;
            each_index(&spatial, |at| {
                let seen =
                    axes.iter().enumerate().try_fold(0, |i, (d, axis)| Some(i * axis.input + axis.tap(at[d], k[d])?));
                pairs.extend(seen.map(|seen| (position, seen)));
                position += 1;
            });
            taps.push(pairs);
        });
        let mut dw = Vec::with_capacity(super::support::sizes::limited(&shape)?);
        for m in 0..out {
            let first = m / (out / groups) * per_group;
            for c in 0..per_group {
                for pairs in &taps {
                    let mut sum = 0.0;
                    for n in 0..batch {
                        let (dy, x) = (&dys[(n * out + m) * positions..], &xs[(n * channels + first + c) * area..]);
                        sum += pairs.iter().map(|(to, from)| dy[*to] * x[*from]).sum::<f64>();
                    }
                    dw.push(sum);
                }
            }
        }
        Ok(vec![Tensor::new(&shape, dw)?.cast(x.element())])
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        let known = |i: usize| cx.optional(i).and_then(Type::known_shape);
        let (Some(x), Some(dy), Ok(groups)) = (known(0), known(1), self.groups()) else { return 0 };
        let taps: u64 = self.kernel_shape.iter().map(|k| (*k).max(0) as u64).product();
        let per_group = x.get(1).copied().unwrap_or(0) / groups;
        dy.iter().product::<usize>() as u64 * per_group as u64 * taps
    }
}

fn cases() -> Vec<Case> {
    let op = |kernel: &[i64]| ConvWeightGrad { kernel_shape: kernel.to_vec(), ..ConvWeightGrad::default() };
    vec![
        // Each tap sees four of the nine values, all weighed alike.
        Case::new("sums_of_what_taps_see", op(&[2, 2]))
            .f32(&[1, 1, 3, 3], &[1., 2., 3., 4., 5., 6., 7., 8., 9.])
            .f32(&[1, 1, 2, 2], &[1.; 4])
            .gives(&[1, 1, 2, 2], &[12., 16., 24., 28.]),
        Case::new("batch_and_channels", op(&[1]))
            .f32(&[2, 2, 2], &[1., 2., 3., 4., 5., 6., 7., 8.])
            .f32(&[2, 1, 2], &[1., -1., 2., 0.5])
            .gives(&[1, 2, 1], &[12., 17.]),
        Case::new("padding_and_stride", ConvWeightGrad { pads: vec![1, 1], strides: vec![2], ..op(&[3]) })
            .f32(&[1, 1, 4], &[1., 2., 3., 4.])
            .f32(&[1, 1, 2], &[10., 1.])
            .gives(&[1, 1, 3], &[2., 13., 24.]),
        Case::new("dilation", ConvWeightGrad { dilations: vec![2], ..op(&[2]) })
            .f32(&[1, 1, 4], &[1., 2., 3., 4.])
            .f32(&[1, 1, 2], &[1., 10.])
            .gives(&[1, 1, 2], &[21., 43.]),
        Case::new("depthwise", ConvWeightGrad { group: 2, ..op(&[2]) })
            .f32(&[1, 2, 3], &[1., 2., 3., 4., 5., 6.])
            .f32(&[1, 2, 2], &[1., 1., 1., -1.])
            .gives(&[2, 1, 2], &[3., 5., -1., -1.]),
    ]
}

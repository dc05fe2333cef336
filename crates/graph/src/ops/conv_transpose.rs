use qing_tensor::Tensor;

use super::support::{elementwise::each_index, sizes, window};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The transpose of a convolution: every value of `X [batch, channels, spatial…]` adds a multiple of
    /// `W [channels, out/group, taps…]` to the output; with an optional bias `B [out]`.
    ConvTranspose = "ConvTranspose" {
        /// `NOTSET`, `SAME_UPPER`, `SAME_LOWER` or `VALID`.
        auto_pad: String = "NOTSET".into(),
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Number of groups the channels are split into.
        group: i64 = 1,
        /// Taps per spatial axis; those of `W` if empty.
        kernel_shape: Vec<i64> = vec![],
        /// Values added at the end of each spatial axis of the output; 0 if empty.
        output_padding: Vec<i64> = vec![],
        /// Sizes of the spatial axes of the output, which then say the pads.
        output_shape: Vec<i64> = vec![],
        /// Values removed at the begins of all spatial axes of the output, then at the ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Distance in the output between neighbours in the input, per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 2..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

/// How one axis grows: input value `i` and tap `k` add to output `i·stride + k·dilation − pad`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    output: usize,
    stride: usize,
    dilation: usize,
    pad: usize,
}

fn attribute(name: &str, values: &[i64], count: usize, default: usize) -> Result<Vec<usize>, OpError> {
    if values.is_empty() {
        return Ok(vec![default; count]);
    }
    let small = |v: &i64| usize::try_from(*v).ok().filter(|v| *v <= u32::MAX as usize);
    let all: Option<Vec<usize>> = values.iter().map(small).collect();
    all.filter(|v| v.len() == count).ok_or_else(|| OpError::invalid(format!("{name} {values:?} for {count} values")))
}

impl ConvTranspose {
    fn axes(&self, input: &[usize], kernel: &[usize]) -> Result<Vec<Axis>, OpError> {
        let n = input.len();
        let strides = attribute("strides", &self.strides, n, 1)?;
        let dilations = attribute("dilations", &self.dilations, n, 1)?;
        let pads = attribute("pads", &self.pads, 2 * n, 0)?;
        let extra = attribute("output_padding", &self.output_padding, n, 0)?;
        // Some exporters name all axes of the output.
        let wanted = &self.output_shape[self.output_shape.len().saturating_sub(n)..];
        let wanted = attribute("output_shape", wanted, n, 0)?;
        (0..n)
            .map(|i| {
                let too_large = || OpError::invalid(format!("{} values with stride {}", input[i], strides[i]));
                let taps = kernel[i].checked_sub(1).and_then(|k| k.checked_mul(dilations[i])).ok_or_else(too_large)?;
                let full = input[i]
                    .saturating_sub(1)
                    .checked_mul(strides[i])
                    .and_then(|v| v.checked_add(taps)?.checked_add(1)?.checked_add(extra[i]))
                    .ok_or_else(too_large)?;
                let same = matches!(self.auto_pad.as_str(), "SAME_UPPER" | "SAME_LOWER");
                let (output, pad) = if same || !self.output_shape.is_empty() {
                    let output = match (self.output_shape.is_empty(), input[i].checked_mul(strides[i])) {
                        (false, _) => wanted[i],
                        (true, Some(output)) => output,
                        (true, None) => return Err(too_large()),
                    };
                    let total = full.saturating_sub(output);
                    (output, if self.auto_pad == "SAME_UPPER" { total / 2 } else { total.div_ceil(2) })
                } else {
                    let (begin, end) = if self.auto_pad == "VALID" { (0, 0) } else { (pads[i], pads[n + i]) };
                    (full.checked_sub(begin + end).ok_or_else(too_large)?, begin)
                };
                Ok(Axis { output, stride: strides[i], dilation: dilations[i], pad })
            })
            .collect()
    }

    /// The axes of the convolution that this transposes, whose input is the output here.
    ///
    /// # Errors
    /// If an attribute is out of range.
    pub fn transposed(&self, input: &[usize], kernel: &[usize]) -> Result<Vec<window::Axis>, OpError> {
        let axes = self.axes(input, kernel)?;
        let forward = |(i, axis): (usize, Axis)| window::Axis {
            input: axis.output,
            output: input[i],
            kernel: kernel[i],
            stride: axis.stride,
            dilation: axis.dilation,
            pad: axis.pad,
            pad_end: 0,
        };
        Ok(axes.into_iter().enumerate().map(forward).collect())
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

impl Op for ConvTranspose {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = cx.element(0)?;
        let (Some(x), Some(w)) = (cx.shape(0)?, cx.shape(1)?) else { return Ok(vec![Type::maybe(element, None)]) };
        if x.len() < 3 || w.len() != x.len() {
            return Err(OpError::invalid(format!("X of rank {} and W of rank {}", x.len(), w.len())));
        }
        let groups = self.groups()?;
        let mut shape = vec![x[0].clone(), w[1].map(|n| n.saturating_mul(groups))];
        let kernel: Option<Vec<usize>> = w[2..].iter().map(Dim::known).collect();
        match kernel {
            // Axes do not influence each other: unknown ones stand in as large enough.
            Some(kernel) => {
                let input: Vec<usize> = x[2..].iter().map(|d| d.known().unwrap_or(1 << 24)).collect();
                let axes = self.axes(&input, &kernel)?;
                let fixed = !self.output_shape.is_empty();
                shape.extend(
                    x[2..].iter().zip(axes).map(
                        |(d, axis)| {
                            if fixed { Dim::Known(axis.output) } else { d.map(|_| axis.output) }
                        },
                    ),
                );
            }
            None => shape.extend(x[2..].iter().map(|_| Dim::Unknown)),
        }
        Ok(vec![Type::maybe(element, Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        let groups = self.groups()?;
        let fits = x.rank() >= 3
            && w.rank() == x.rank()
            && w.shape()[0] == x.shape()[1]
            && x.shape()[1].is_multiple_of(groups);
        if !fits || !x.element().is_float() {
            return Err(OpError::invalid(format!("X {x:?} and W {w:?} in {groups} groups")));
        }
        let (spatial, kernel) = (&x.shape()[2..], &w.shape()[2..]);
        let axes = self.axes(spatial, kernel)?;
        let (batch, channels, per_group) = (x.shape()[0], x.shape()[1], w.shape()[1]);
        let out = per_group * groups;
        let mut shape = vec![batch, out];
        shape.extend(axes.iter().map(|a| a.output));
        let count = sizes::limited(&shape)?;
        let area: usize = shape[2..].iter().product();
        let (in_area, taps) = (spatial.iter().product::<usize>(), kernel.iter().product::<usize>());
        let mut y = vec![0f64; count];
        if let Some(bias) = cx.optional(2) {
            let bias = bias.to_f64s();
            if bias.len() != out {
                return Err(OpError::invalid(format!("a bias of {} for {out} output channels", bias.len())));
            }
            y.iter_mut().enumerate().for_each(|(i, y)| *y = bias[i / area % out]);
        }
        let (xs, ws) = (x.to_f64s(), w.to_f64s());
        // Pairs of input position and tap, and the output position they add to.
        let mut pairs = vec![];
        let mut position = 0;
        each_index(spatial, |at| {
            let mut tap = 0;
            each_index(kernel, |k| {
                let to = axes.iter().enumerate().try_fold(0, |index, (i, axis)| {
                    let to = (at[i] * axis.stride + k[i] * axis.dilation).checked_sub(axis.pad)?;
                    (to < axis.output).then_some(index * axis.output + to)
                });
                pairs.extend(to.map(|to| (position, tap, to)));
                tap += 1;
            });
            position += 1;
        });
        let in_group = channels / groups;
        for n in 0..batch {
            for c in 0..channels {
                let x = &xs[(n * channels + c) * in_area..][..in_area];
                for m in 0..per_group {
                    let w = &ws[(c * per_group + m) * taps..][..taps];
                    let y = &mut y[(n * out + c / in_group * per_group + m) * area..][..area];
                    for &(position, tap, to) in &pairs {
                        y[to] += x[position] * w[tap];
                    }
                }
            }
        }
        Ok(vec![Tensor::new(&shape, y)?.cast(x.element())])
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        let known = |i: usize| cx.optional(i).and_then(Type::known_shape);
        let (Some(x), Some(w)) = (known(0), known(1)) else { return 0 };
        x.iter().product::<usize>() as u64 * w.iter().skip(1).product::<usize>() as u64
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, w, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let (input, kernel) = (cx.shape(x)?, cx.shape(w)?);
        let axes = self.axes(&input[2..], &kernel[2..])?;
        // The convolution that this transposes: what it does not reach at the end of an axis is left out.
        let mut reached = dy;
        let mut pads_end = vec![];
        for (i, axis) in axes.iter().enumerate() {
            let extent = (kernel[i + 2] - 1) * axis.dilation + 1;
            let needed = (input[i + 2].max(1) - 1) * axis.stride + extent;
            pads_end.push(needed.saturating_sub(axis.output + axis.pad) as i64);
            if axis.output + axis.pad > needed {
                reached = cx.slice(reached, i + 2, 0, needed - axis.pad.min(needed))?;
            }
        }
        let list = |f: fn(&Axis) -> usize| axes.iter().map(|a| f(a) as i64).collect::<Vec<i64>>();
        let (dilations, strides) = (list(|a| a.dilation), list(|a| a.stride));
        let pads = [list(|a| a.pad), pads_end].concat();
        let kernel_shape: Vec<i64> = kernel[2..].iter().map(|k| *k as i64).collect();
        let dw = cx.wanted(1, || {
            let op = super::ConvWeightGrad {
                dilations: dilations.clone(),
                group: self.group,
                kernel_shape: kernel_shape.clone(),
                pads: pads.clone(),
                strides: strides.clone(),
            };
            cx.emit(op, &[reached, x])
        })?;
        let db = cx.wanted(2, || cx.sum_to_channels(dy))?;
        let dx = cx.wanted(0, || {
            let op = super::Conv {
                dilations: dilations.clone(),
                group: self.group,
                pads: pads.clone(),
                strides: strides.clone(),
                ..super::Conv::default()
            };
            cx.emit(op, &[reached, w])
        })?;
        Ok(vec![dx, dw, db])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("overlapping", ConvTranspose::default())
            .f32(&[1, 1, 2], &[1., 2.])
            .f32(&[1, 1, 3], &[1., 10., 100.])
            .f32(&[1], &[0.5])
            .gives(&[1, 1, 4], &[1.5, 12.5, 120.5, 200.5]),
        Case::new(
            "strided_in_groups",
            ConvTranspose {
                group: 2,
                strides: vec![2],
                pads: vec![1, 0],
                output_padding: vec![1],
                ..Default::default()
            },
        )
        .f32(&[1, 2, 2], &[1., 2., 3., 4.])
        .f32(&[2, 1, 2], &[1., 10., 2., 20.])
        .gives(&[1, 2, 4], &[10., 2., 20., 0., 60., 8., 80., 0.]),
        Case::new(
            "same_upper",
            ConvTranspose { auto_pad: "SAME_UPPER".into(), strides: vec![2], ..Default::default() },
        )
        .f32(&[1, 1, 2], &[1., 2.])
        .f32(&[1, 1, 3], &[1., 10., 100.])
        // In full 1, 10, 102, 20, 200; the last one is cut off.
        .gives(&[1, 1, 4], &[1., 10., 102., 20.]),
    ]
}

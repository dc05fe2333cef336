//! Windows that slide over the spatial axes of `[batch, channel, spatial…]`: convolution and pooling.

use crate::{Dim, OpError};

/// The window attributes of ONNX, with empty lists standing for their defaults.
#[derive(Debug, Clone, Copy)]
pub struct WindowAttrs<'a> {
    /// `NOTSET`, `SAME_UPPER`, `SAME_LOWER` or `VALID`.
    pub auto_pad: &'a str,
    /// Begins of all spatial axes, then ends.
    pub pads: &'a [i64],
    /// Step of the window.
    pub strides: &'a [i64],
    /// Distance between taps.
    pub dilations: &'a [i64],
    /// Whether the last, partial window counts.
    pub ceil: bool,
}

/// How a window slides along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Size of the input.
    pub input: usize,
    /// Size of the output.
    pub output: usize,
    /// Taps.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Distance between taps.
    pub dilation: usize,
    /// Padding before.
    pub pad: usize,
    /// Padding after.
    pub pad_end: usize,
}

impl Axis {
    /// The input position of a tap, if it is not in the padding.
    pub fn tap(&self, output: usize, tap: usize) -> Option<usize> {
        (output * self.stride + tap * self.dilation).checked_sub(self.pad).filter(|i| *i < self.input)
    }
}

impl WindowAttrs<'_> {
    /// The axes for an input and kernel of known size.
    ///
    /// # Errors
    /// If an attribute is out of range or the window is larger than the padded input.
    pub fn axes(&self, input: &[usize], kernel: &[usize]) -> Result<Vec<Axis>, OpError> {
        let rank = input.len();
        if kernel.len() != rank {
            return Err(OpError::invalid(format!("a kernel of {} axes over {rank} spatial axes", kernel.len())));
        }
        let strides = positive("strides", self.strides, rank)?;
        let dilations = positive("dilations", self.dilations, rank)?;
        let pads: Vec<usize> = match self.pads.len() {
            0 => vec![0; 2 * rank],
            n if n == 2 * rank => self
                .pads
                .iter()
                .map(|p| {
                    usize::try_from(*p).map_err(|_| OpError::unsupported(format!("negative pads {:?}", self.pads)))
                })
                .collect::<Result<_, _>>()?,
            n => return Err(OpError::invalid(format!("{n} pads for {rank} spatial axes"))),
        };
        (0..rank).map(|i| self.axis(input[i], kernel[i], strides[i], dilations[i], pads[i], pads[rank + i])).collect()
    }

    fn axis(
        &self,
        input: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        mut pad: usize,
        mut pad_end: usize,
    ) -> Result<Axis, OpError> {
        let too_large =
            || OpError::invalid(format!("a window of {kernel}×{dilation} over {input} values is too large"));
        let extent = kernel
            .checked_sub(1)
            .and_then(|k| k.checked_mul(dilation))
            .and_then(|k| k.checked_add(1))
            .ok_or_else(too_large)?;
        let padded =
            |pad: usize, end: usize| input.checked_add(pad).and_then(|n| n.checked_add(end)).ok_or_else(too_large);
        let output = match self.auto_pad {
            "NOTSET" | "" => {
                let room = padded(pad, pad_end)?.checked_sub(extent).ok_or_else(too_large)?;
                let mut output = if self.ceil { room.div_ceil(stride) + 1 } else { room / stride + 1 };
                // A window that starts in the end padding does not count.
                if self.ceil && (output - 1) * stride >= input + pad {
                    output -= 1;
                }
                output
            }
            "VALID" => {
                (pad, pad_end) = (0, 0);
                input.checked_sub(extent).ok_or_else(too_large)? / stride + 1
            }
            mode @ ("SAME_UPPER" | "SAME_LOWER") => {
                let output = input.div_ceil(stride);
                let total = (output.max(1) - 1)
                    .checked_mul(stride)
                    .and_then(|n| n.checked_add(extent))
                    .ok_or_else(too_large)?
                    .saturating_sub(input);
                pad = if mode == "SAME_UPPER" { total / 2 } else { total.div_ceil(2) };
                pad_end = total - pad;
                output
            }
            other => return Err(OpError::invalid(format!("auto_pad {other:?}"))),
        };
        Ok(Axis { input, output, kernel, stride, dilation, pad, pad_end })
    }

    /// Output dimensions for a partly known input; `kernel` is known.
    ///
    /// # Errors
    /// As [`WindowAttrs::axes`].
    pub fn output_dims(&self, input: &[Dim], kernel: &[usize]) -> Result<Vec<Dim>, OpError> {
        // Axes do not influence each other: unknown ones stand in as large enough.
        let sizes: Vec<usize> = input.iter().map(|d| d.known().unwrap_or(usize::MAX >> 16)).collect();
        let axes = self.axes(&sizes, kernel)?;
        Ok(input.iter().zip(axes).map(|(d, axis)| d.map(|_| axis.output)).collect())
    }
}

/// The same windows said with explicit pads alone, as gradients need them: no `auto_pad`, no `ceil_mode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explicit {
    /// Distance between taps, per spatial axis.
    pub dilations: Vec<i64>,
    /// Begins of all spatial axes, then ends.
    pub pads: Vec<i64>,
    /// Step of the window, per spatial axis.
    pub strides: Vec<i64>,
    /// How many values at the end of each padded axis no window reaches: the `output_padding` of the transposed convolution.
    pub rest: Vec<i64>,
}

impl Explicit {
    /// For axes as [`WindowAttrs::axes`] gives them.
    pub fn new(axes: &[Axis]) -> Explicit {
        let list = |f: fn(&Axis) -> usize| axes.iter().map(|a| f(a) as i64).collect::<Vec<i64>>();
        let ends = |axis: &Axis| {
            let extent = (axis.kernel.max(1) - 1) * axis.dilation + 1;
            let reach = (axis.output.max(1) - 1) * axis.stride + extent;
            let declared = axis.input + axis.pad + axis.pad_end;
            let fits = declared >= reach && declared - reach < axis.stride;
            let end = if fits { axis.pad_end } else { reach.saturating_sub(axis.input + axis.pad) };
            (end as i64, (axis.input + axis.pad + end).saturating_sub(reach) as i64)
        };
        let (ends, rest): (Vec<i64>, Vec<i64>) = axes.iter().map(ends).unzip();
        let pads = [list(|a| a.pad), ends].concat();
        Explicit { dilations: list(|a| a.dilation), pads, strides: list(|a| a.stride), rest }
    }
}

fn positive(name: &str, values: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    match values.len() {
        0 => Ok(vec![1; rank]),
        n if n == rank => values
            .iter()
            .map(|v| {
                usize::try_from(*v)
                    .ok()
                    .filter(|v| *v > 0 && *v <= u32::MAX as usize)
                    .ok_or_else(|| OpError::invalid(format!("{name} {values:?}")))
            })
            .collect(),
        n => Err(OpError::invalid(format!("{n} {name} for {rank} spatial axes"))),
    }
}

/// Reads `kernel_shape`.
///
/// # Errors
/// If it is empty or a tap count is not positive.
pub fn kernel(kernel_shape: &[i64]) -> Result<Vec<usize>, OpError> {
    if kernel_shape.is_empty() {
        return Err(OpError::invalid("kernel_shape is required"));
    }
    positive("kernel_shape", kernel_shape, kernel_shape.len())
}

/// Shape of the output of a pool over all spatial axes.
///
/// # Errors
/// If there are no channels.
pub fn global_dims(x: &[Dim]) -> Result<Vec<Dim>, OpError> {
    if x.len() < 2 {
        return Err(OpError::invalid(format!("X of rank {}", x.len())));
    }
    Ok(x.iter().enumerate().map(|(i, d)| if i < 2 { d.clone() } else { Dim::Known(1) }).collect())
}

/// For a pool over all spatial axes: the shape of its output, how many planes there are, and how many values each has.
///
/// # Errors
/// If there are no channels or no values.
pub fn global(x: &qing_tensor::Tensor) -> Result<(Vec<usize>, usize, usize), OpError> {
    let area: usize = x.shape().get(2..).unwrap_or_default().iter().product();
    if x.rank() < 2 || area == 0 {
        return Err(OpError::invalid(format!("X of shape {:?}", x.shape())));
    }
    let mut shape = x.shape().to_vec();
    shape[2..].fill(1);
    Ok((shape, x.len() / area, area))
}

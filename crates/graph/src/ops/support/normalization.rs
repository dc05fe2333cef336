//! What the normalizations share: moments, and scale and bias broadcast to the values.

use qing_tensor::{Tensor, broadcast, broadcast_strides, strides};

use super::axes::Along;
use crate::OpError;

/// Mean and (biased) variance.
pub fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n)
}

/// A scale and an optional bias, broadcast to values of a shape.
#[derive(Debug)]
pub struct Affine {
    strides: Vec<usize>,
    scale: (Vec<f64>, Vec<usize>),
    bias: Option<(Vec<f64>, Vec<usize>)>,
}

impl Affine {
    /// Reads scale and bias for values of `shape`.
    ///
    /// # Errors
    /// If they do not broadcast to it.
    pub fn new(shape: &[usize], scale: &Tensor, bias: Option<&Tensor>) -> Result<Affine, OpError> {
        let read = |t: &Tensor| {
            if broadcast(shape, t.shape())? != shape {
                return Err(OpError::invalid(format!("{:?} does not broadcast to {shape:?}", t.shape())));
            }
            Ok((t.to_f64s(), broadcast_strides(t.shape(), shape)))
        };
        Ok(Affine { strides: strides(shape), scale: read(scale)?, bias: bias.map(read).transpose()? })
    }

    /// `v · scale + bias` for the value at linear index `i`.
    pub fn apply(&self, i: usize, v: f64) -> f64 {
        let at = |(values, steps): &(Vec<f64>, Vec<usize>)| {
            let mut rest = i;
            let mut index = 0;
            for (own, step) in self.strides.iter().zip(steps) {
                index += rest / own * step;
                rest %= own;
            }
            values[index]
        };
        v * at(&self.scale) + self.bias.as_ref().map_or(0.0, at)
    }
}

/// `(x − mean) / √(var + epsilon) · scale + bias`, moments over each of `groups` groups of channels of each instance of
/// `x [batch, channels, …]`; scale and bias have a value for each channel, or for each group.
///
/// # Errors
/// If groups, scale or bias do not fit the channels.
pub fn normalize_groups(
    x: &Tensor,
    groups: usize,
    scale: &Tensor,
    bias: &Tensor,
    epsilon: f64,
) -> Result<Vec<Tensor>, OpError> {
    if x.rank() < 2 || groups == 0 || !x.shape()[1].is_multiple_of(groups) {
        return Err(OpError::invalid(format!("{groups} groups in {:?}", x.shape())));
    }
    let Along { length: channels, inner, .. } = Along::new(x.shape(), 1);
    let (scale, bias) = (scale.to_f64s(), bias.to_f64s());
    if scale.len() != bias.len() || (scale.len() != channels && scale.len() != groups) {
        let counts = format!("{} scales and {} biases", scale.len(), bias.len());
        return Err(OpError::invalid(format!("{counts} for {channels} channels in {groups} groups")));
    }
    let mut y = x.to_f64s();
    let size = channels / groups * inner;
    for (g, values) in y.chunks_exact_mut(size.max(1)).enumerate() {
        let (mean, var) = moments(values);
        let inverse = 1.0 / (var + epsilon).sqrt();
        for (i, v) in values.iter_mut().enumerate() {
            let group = g % groups;
            let at = if scale.len() == channels { group * (channels / groups) + i / inner } else { group };
            *v = (*v - mean) * inverse * scale[at] + bias[at];
        }
    }
    Ok(vec![Tensor::new(x.shape(), y)?.cast(x.element())])
}

//! What the normalizations share: moments, and scale and bias broadcast to the values.

use qing_tensor::{Tensor, broadcast, broadcast_strides, strides};

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

//! What the normalizations share: moments, and scale and bias broadcast to the values.

use qing_tensor::{Tensor, broadcast, broadcast_strides, strides};

use super::axes::Along;
use crate::{Backward, Dim, Eval, Gradients, Infer, OpError, Type, ValueId};

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

/// Type of a vector with a value for each channel (axis 1) of input 0; the inputs `vectors` must be such.
///
/// # Errors
/// If one is not, or input 0 has no channels.
pub fn infer_channels(cx: &Infer<'_>, vectors: &[usize]) -> Result<Type, OpError> {
    let x = cx.ty(0)?;
    let channels = match &x.shape {
        None => Dim::Unknown,
        Some(dims) => dims.get(1).cloned().ok_or_else(|| OpError::invalid("X has no channels"))?,
    };
    for i in vectors {
        let fits = cx.shape(*i)?.is_none_or(|have| match (have, &channels) {
            ([Dim::Known(have)], Dim::Known(want)) => have == want,
            (have, _) => have.len() == 1,
        });
        if !fits {
            return Err(OpError::invalid(format!("input {i} is {} for {channels} channels", cx.ty(*i)?)));
        }
    }
    Ok(Type::maybe(x.element, Some(vec![channels])))
}

/// Input 0 seen along its channels (axis 1), and the values of inputs that have one for each channel.
///
/// # Errors
/// If one has not, or input 0 is empty, has no channels or is not of floats.
pub fn channel_vectors<const N: usize>(cx: &Eval<'_>, inputs: [usize; N]) -> Result<(Along, [Vec<f64>; N]), OpError> {
    let x = cx.input(0)?;
    if x.rank() < 2 || x.is_empty() || !x.element().is_float() {
        return Err(OpError::invalid(format!("X {x:?}; expected floats with channels")));
    }
    let along = Along::new(x.shape(), 1);
    let mut vectors = [const { Vec::new() }; N];
    for (vector, i) in vectors.iter_mut().zip(inputs) {
        *vector = cx.input(i)?.to_f64s();
        if vector.len() != along.length {
            return Err(OpError::invalid(format!(
                "{} values in input {i} for {} channels",
                vector.len(),
                along.length
            )));
        }
    }
    Ok((along, vectors))
}

/// For every channel (axis 1) of a shape of rank 2 or more, the linear indices of its values.
pub fn by_channel(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let Along { outer, length, inner } = Along::new(shape, 1);
    (0..length).map(move |c| (0..outer).flat_map(|o| (0..inner).map(move |i| (o * length + c) * inner + i)).collect())
}

/// `x` with mean 0 and variance 1 over `axes`, and the inverses of the standard deviations it was divided by.
///
/// # Errors
/// If the shape of `x` is not known.
pub fn standardized(
    cx: &Backward<'_>,
    x: ValueId,
    axes: &[usize],
    epsilon: f32,
) -> Result<(ValueId, ValueId), OpError> {
    let centred = cx.sub(x, cx.mean(x, axes)?)?;
    let var = cx.mean(cx.square(centred)?, axes)?;
    let inverse = cx.emit(crate::ops::Reciprocal {}, &[cx.sqrt(cx.offset(var, epsilon.into())?)?])?;
    Ok((cx.mul(centred, inverse)?, inverse))
}

/// The gradient of what [`standardized`] was made of, from that of its result:
/// `inverse · (g − mean(g) − normal · mean(g · normal))`.
///
/// # Errors
/// If shapes do not fit.
pub fn gradient_of_standardized(
    cx: &Backward<'_>,
    (normal, inverse): (ValueId, ValueId),
    axes: &[usize],
    g: ValueId,
) -> Result<ValueId, OpError> {
    let along = cx.mul(normal, cx.mean(cx.mul(g, normal)?, axes)?)?;
    cx.mul(inverse, cx.sub(cx.sub(g, cx.mean(g, axes)?)?, along)?)
}

/// The gradients of [`normalize_groups`]: of values (input 0), scale (input 1) and bias (input 2).
///
/// # Errors
/// If shapes are not known.
pub fn gradient_of_groups(cx: &Backward<'_>, groups: usize, epsilon: f32) -> Gradients {
    let (x, scale, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
    let shape = cx.shape(x)?;
    let count: usize = shape.iter().product();
    // Scale and bias have a value for each channel, or for each group.
    let view = |parts: usize| [shape[0], parts, count / (shape[0] * parts).max(1)];
    let (rows, affine) = (view(groups), view(cx.shape(scale)?[0]));
    let normal = standardized(cx, cx.reshape(x, &rows)?, &[2], epsilon)?;
    let dy = cx.reshape(dy, &affine)?;
    let dscale = cx.wanted(1, || cx.sum_to_channels(cx.mul(dy, cx.reshape(normal.0, &affine)?)?))?;
    let dbias = cx.wanted(2, || cx.sum_to_channels(dy))?;
    let dx = cx.wanted(0, || {
        let g = cx.reshape(cx.mul(dy, cx.along(scale, 1, 3)?)?, &rows)?;
        cx.reshape(gradient_of_standardized(cx, normal, &[2], g)?, &shape)
    })?;
    Ok(vec![dx, dscale, dbias])
}

//! Which way every weight is rounded, as something that can be learned (AdaRound, arXiv:2004.10568): a weight is `floor + h` steps of
//! its scale, `h` a stretched and clipped sigmoid that ends at 0 or 1.

use qing_graph::{Element, Tensor, Type, arithmetic::symmetric_range};

use crate::{
    LightenError,
    quantize::assign::{LayerWeights, integer_bias},
};

/// The sigmoid goes from −0.1 to 1.1 before it is clipped, so that it reaches both ends.
pub(super) const STRETCH: f32 = 1.2;

/// The roundings of a layer.
#[derive(Debug, Clone)]
pub(super) struct Rounding {
    /// Integers below the weights, so that one more is still in range.
    pub base: Vec<f32>,
    /// From which `h` follows: that of the float weights at the beginning.
    pub logits: Vec<f32>,
    /// One scale, or one for each output channel.
    pub scales: Vec<f32>,
    /// The integers so far.
    ints: Vec<i32>,
    axis: usize,
    inner: usize,
    channels: usize,
}

impl Rounding {
    /// The roundings of float weights at the scales that were chosen.
    pub(super) fn new(float: &Tensor, layer: &LayerWeights, axis: usize) -> Result<Rounding, LightenError> {
        let shape = float.shape();
        let scales = layer.ty.quant.as_ref().map_or_else(|| vec![1.0], |q| q.scales().to_vec());
        let (channels, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        let mut made = Rounding {
            base: vec![],
            logits: vec![],
            scales,
            ints: layer.weights.to_ints(),
            axis,
            inner: inner.max(1),
            channels: channels.max(1),
        };
        let (lo, hi) = symmetric_range(layer.ty.element).map_or((-1.0, 1.0), |(lo, hi)| (lo as f32, hi as f32));
        for (i, w) in float.to_f32s().iter().enumerate() {
            let u = w / made.scale(made.channel(i));
            let base = u.floor().clamp(lo, hi - 1.0);
            let h = (u - base).clamp(0.002, 0.998);
            let p = (h + (STRETCH - 1.0) / 2.0) / STRETCH;
            made.base.push(base);
            made.logits.push((p / (1.0 - p)).ln());
        }
        Ok(made)
    }

    /// What weights that went from the integers so far to `other` give more on average, channel by channel.
    pub(super) fn drift(&self, other: &[f32], means: &Tensor) -> Vec<f64> {
        let (means, mut drift) = (means.to_f32s(), vec![0.0; self.channels]);
        let whole = means.len() == other.len();
        for (i, (new, old)) in other.iter().zip(self.reals()).enumerate() {
            // One row of means stands for all, without the axis of the channels.
            let at = if whole { i } else { i / (self.inner * self.channels) * self.inner + i % self.inner };
            drift[self.channel(i)] += f64::from(new - old) * f64::from(means[at]);
        }
        drift
    }

    fn channel(&self, i: usize) -> usize {
        i / self.inner % self.channels
    }

    /// The scale of an output channel.
    pub(super) fn scale(&self, channel: usize) -> f32 {
        if self.scales.len() == 1 { self.scales[0] } else { self.scales[channel] }
    }

    /// The shape in which the scales broadcast to weights of shape `shape`.
    pub(super) fn scale_shape(&self, shape: &[usize]) -> Vec<usize> {
        (0..shape.len()).map(|d| if d == self.axis && self.scales.len() > 1 { shape[d] } else { 1 }).collect()
    }

    /// The weights that the integers so far stand for.
    pub(super) fn reals(&self) -> Vec<f32> {
        self.ints.iter().enumerate().map(|(i, q)| *q as f32 * self.scale(self.channel(i))).collect()
    }

    /// A bias as the accumulator holds it, in whole units of `x_scale` times the scale of its channel.
    pub(super) fn whole_bias(&self, bias: &[f64], x_scale: f32) -> Vec<f32> {
        let ints = integer_bias(bias, x_scale, &self.scales);
        ints.iter().enumerate().map(|(c, b)| *b as f32 * (x_scale * self.scale(c))).collect()
    }

    /// The weights that were learned.
    ///
    /// # Errors
    /// If they do not fit their type.
    pub(super) fn weights(&self, logits: &[f32], element: Element, ty: &Type) -> Result<Tensor, LightenError> {
        let shape = ty.known_shape().unwrap_or_else(|| vec![logits.len()]);
        let ints: Vec<i32> =
            self.base.iter().zip(logits).map(|(base, v)| *base as i32 + i32::from(*v >= 0.0)).collect();
        Ok(Tensor::from_ints(element, &shape, &ints).map_err(qing_graph::OpError::from)?)
    }
}

#[cfg(test)]
mod tests {
    use qing_graph::Quant;

    use super::*;

    fn layer(bits: u8, weights: &[f32], scales: Vec<f32>) -> (Tensor, LayerWeights) {
        let element = Element::integer(bits, true).unwrap();
        let shape = [scales.len(), weights.len() / scales.len()];
        let ty = Type::new(element, shape).quantized(element, Quant::per_axis(0, scales).unwrap());
        let weights = Tensor::new(&shape, weights.to_vec()).unwrap();
        (
            weights,
            LayerWeights { ty, weights: Tensor::from_ints(element, &shape, &[0; 4]).unwrap(), bias: None, means: None },
        )
    }

    #[test]
    fn what_is_not_learned_is_the_nearest_integer() {
        let (float, layer) = layer(3, &[0.4, -0.26, 9.0, -9.0], vec![0.5, 0.25]);
        let r = Rounding::new(&float, &layer, 0).unwrap();
        let made = r.weights(&r.logits, layer.ty.element, &layer.ty).unwrap();
        // 0.8, −0.52 halves; 36, −36 quarters, clipped.
        assert_eq!(made.to_ints(), [1, -1, 3, -3]);
        assert_eq!(r.scale_shape(&[2, 2]), [2, 1]);
    }

    #[test]
    fn all_up_and_all_down_stay_in_range() {
        let (float, layer) = layer(2, &[0.4, -0.26, 9.0, -9.0], vec![0.5, 0.25]);
        let r = Rounding::new(&float, &layer, 0).unwrap();
        let all = |v: f32| r.weights(&[v; 4], layer.ty.element, &layer.ty).unwrap().to_ints();
        assert_eq!((all(9.0), all(-9.0)), (vec![1, 0, 1, 0], vec![0, -1, 0, -1]));
    }
}

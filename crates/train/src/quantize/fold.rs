//! Trained values as the numbers of the integer network: normalization folded into scales, signs and biases.

use std::collections::HashMap;

use qing_graph::{Graph, NodeId};

use super::{
    build::Slots,
    outline::{Dot, Kind, Outline},
    scales::weight_range,
};
use crate::{TrainError, parameters::Values};

/// The numbers of a dot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// Integers of the weights, in the order of the tensor.
    pub weights: Vec<i32>,
    /// What they were rounded from, in the same unit.
    pub latent: Vec<f32>,
    /// A scale for each output channel.
    pub scales: Vec<f32>,
    /// In units of the sums; empty if there is none.
    pub bias: Vec<i32>,
}

/// The numbers of an integer network.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Folded {
    pub layers: HashMap<NodeId, Layer>,
    /// The scale of each quantizer.
    pub scales: Vec<f32>,
}

/// Biases stay where every integer is an f32, so that training computes with the same.
const LARGEST_BIAS: f64 = (1u32 << 22) as f64;

/// Folds trained values; `exact` if all sums shall be trained as the integers they are.
///
/// # Errors
/// If they do not fit the network, are not finite, or make sums of integers that f32 does not hold.
pub(super) fn fold(
    graph: &Graph,
    outline: &Outline,
    slots: &Slots,
    values: &Values,
    exact: bool,
) -> Result<Folded, TrainError> {
    let mut scales = vec![];
    for (quantizer, slot) in outline.quantizers.iter().zip(&slots.quantizers) {
        let scale = quantizer.scale_in(*slot, &values.parameters);
        if !(scale.is_finite() && scale > 0.0) {
            let name = &graph.value(quantizer.leader).name;
            return Err(TrainError::invalid(format!("the scale of `{name}` became {scale}; lower the learning rate")));
        }
        scales.push(scale);
    }
    let mut layers = HashMap::new();
    for (i, kind) in outline.kinds.iter().enumerate() {
        let (Kind::Dot(dot), Some(slots)) = (kind, slots.dots.get(&i)) else { continue };
        let weights = graph.constant(dot.weight).ok_or_else(|| TrainError::invalid("weights that are not constant"))?;
        let shape = weights.shape().to_vec();
        let name = &graph.nodes[i].name;
        let get = |index: usize| {
            let found = values.parameters.get(index).filter(|v| v.iter().all(|v| v.is_finite()));
            found.ok_or_else(|| TrainError::invalid(format!("`{name}`: values that are missing or not finite")))
        };
        let latent = get(slots.weight)?;
        let steps = slots.scale.map(get).transpose()?;
        let channels = shape[dot.axis];
        let inner: usize = shape[dot.axis + 1..].iter().product();
        let channel = |at: usize| at / inner.max(1) % channels;
        let (lo, hi) = weight_range(dot.bits);
        let ratio = |(at, w): (usize, &f32)| match steps {
            Some(steps) if dot.bits > 1 => w / steps[channel(at)],
            _ => *w,
        };
        let mut ratios: Vec<f32> = latent.iter().enumerate().map(ratio).collect();
        let x_scale = scales[dot.x];
        let layer = if let Some([gamma, beta]) = slots.norm {
            let statistic = |at: usize| {
                let found = values.statistics.get(at).filter(|v| v.len() == channels);
                found.ok_or_else(|| TrainError::invalid(format!("`{name}`: statistics do not fit the network")))
            };
            let (mean, var) = (statistic(slots.statistics)?, statistic(slots.statistics + 1)?);
            let (gamma, beta) = (get(gamma)?, get(beta)?);
            let mut layer = Layer { weights: vec![], latent: vec![], scales: vec![], bias: vec![] };
            let mut signs = vec![1f32; channels];
            for c in 0..channels {
                let factor = f64::from(gamma[c]) / (f64::from(var[c].max(0.0)) + f64::from(slots.epsilon)).sqrt();
                let (scale, bias, sign) = channel_of(factor, beta[c].into(), mean[c].into());
                layer.scales.push((scale / f64::from(x_scale)) as f32);
                layer.bias.push(bias);
                // Few sums of signs count nothing in a unit that large: they stay signs.
                signs[c] = if dot.bits == 1 && sign == 0.0 { 1.0 } else { sign };
            }
            ratios.iter_mut().enumerate().for_each(|(at, w)| *w *= signs[channel(at)]);
            layer
        } else {
            let steps = steps.ok_or_else(|| TrainError::invalid(format!("`{name}` has no scales")))?;
            let mut bias = vec![];
            if let Some(slot) = slots.bias {
                for (b, s) in get(slot)?.iter().zip(steps) {
                    bias.push(whole_bias(b / (x_scale * s)));
                }
            }
            Layer { weights: vec![], latent: vec![], scales: steps.clone(), bias }
        };
        let code = |w: &f32| match dot.bits {
            1 if *w < 0.0 => -1,
            1 => 1,
            _ => w.clamp(lo as f32, hi as f32).round_ties_even() as i32,
        };
        let codes: Vec<i32> = ratios.iter().map(code).collect();
        // Sums of reals are near those of integers, however large these are.
        if exact || slots.norm.is_some() {
            check_sums(name, dot, outline, &codes, channel, channels)?;
        }
        if let Some(bad) = layer.scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return Err(TrainError::invalid(format!("`{name}`: a scale of its weights became {bad}")));
        }
        layers.insert(i, Layer { weights: codes, latent: ratios, ..layer });
    }
    Ok(Folded { layers, scales })
}

/// A bias in whole sums.
pub(super) fn whole_bias(bias: f32) -> i32 {
    bias.clamp(-LARGEST_BIAS as f32, LARGEST_BIAS as f32).round_ties_even() as i32
}

/// Scale, bias and sign of a channel that gives `factor · (sum − mean) + beta`.
fn channel_of(factor: f64, beta: f64, mean: f64) -> (f64, i32, f32) {
    // A channel that is switched off still has its shift: the unit is made large enough for it, the sums count nothing.
    let least = (beta.abs() / LARGEST_BIAS).max(1e-20);
    if factor.abs() < least {
        return (least, whole_bias((beta / least) as f32), 0.0);
    }
    let sign = if factor < 0.0 { -1.0 } else { 1.0 };
    let bias = beta / factor.abs() - f64::from(sign) * mean;
    (factor.abs(), whole_bias(bias as f32), sign)
}

/// Training adds in f32, which is exact below 2^24.
fn check_sums(
    name: &str,
    dot: &Dot,
    outline: &Outline,
    codes: &[i32],
    channel: impl Fn(usize) -> usize,
    channels: usize,
) -> Result<(), TrainError> {
    let (lo, hi) = outline.quantizers[dot.x].range();
    let most = i64::from(lo.abs().max(hi.abs()));
    let mut sums = vec![0i64; channels];
    for (at, q) in codes.iter().enumerate() {
        sums[channel(at)] += i64::from(q.abs()) * most;
    }
    match sums.iter().max() {
        Some(sum) if *sum >= 1 << 24 => Err(TrainError::invalid(format!(
            "`{name}`: its sums may reach {sum}, and f32 counts to 2^24; give it fewer bits"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_keep_what_they_compute() {
        for (factor, beta, mean) in [(0.5, 1.0, 10.0), (-0.25, 3.0, -7.0), (1e-3, -2.0, 1e3)] {
            let (scale, bias, sign) = channel_of(factor, beta, mean);
            for sum in [-100.0, 0.0, 55.0] {
                let want = factor * (sum - mean) + beta;
                let have = scale * (f64::from(sign) * sum + f64::from(bias));
                // The bias is rounded to whole sums.
                assert!((want - have).abs() <= 0.5 * scale + 1e-9, "{factor} {beta} {mean}: {want} {have}");
            }
        }
    }

    #[test]
    fn dead_channels_give_their_shift() {
        for beta in [0.0, 1.5, -3.0] {
            let (scale, bias, sign) = channel_of(0.0, beta, 5.0);
            assert!(scale > 0.0 && sign == 0.0);
            assert!((scale * f64::from(bias) - beta).abs() < 1e-6);
        }
    }
}

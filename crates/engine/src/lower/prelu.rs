//! PReLUs between quantized values, as part of the layer before them.
//!
//! Their slopes differ from channel to channel, so no one table does for them, and in the graph they are an island of floats:
//! dequantize, multiply, quantize. All that depends on one quantized value and a channel, so every result can be worked
//! out when the plan is made. Where one multiplication gives the same for all of them, that is what runs.

use qing_graph::{Node, NodeId, ValueId, arithmetic, ops};
use qing_kernels::quantized::QPRelu;

use super::{Lower, quantize::clip_of};
use crate::storage::bias;

/// A PReLU that a layer can do to its results.
pub(super) struct Fused {
    pub(super) prelu: QPRelu,
    /// The value that is computed in the end.
    pub(super) output: ValueId,
    /// Absorbed nodes.
    pub(super) nodes: [NodeId; 3],
}

/// The PReLU that alone reads `value`, quantized per tensor and with `channels` channels, and is quantized again.
pub(super) fn after(cx: &Lower<'_>, value: ValueId, channels: usize) -> Option<Fused> {
    let next = |value: ValueId, name: &str| -> Option<(NodeId, &Node)> {
        cx.single_consumer(value).filter(|(_, node)| node.op.name() == name && node.input(0) == Some(value))
    };
    let (dequantize, real) = next(value, "Dequantize")?;
    let (prelu, bent) = cx
        .single_consumer(real.outputs[0])
        .filter(|(_, node)| node.op.is::<ops::PRelu>() && node.input(0) == Some(real.outputs[0]))?;
    let (quantize, last) = next(bent.outputs[0], "Quantize")?;
    let output = last.outputs[0];
    let (x, y) = (cx.graph.ty(value), cx.graph.ty(output));
    let (from, to) = (arithmetic::per_tensor(x).ok()?, arithmetic::per_tensor(y).ok()?);
    let rank = x.rank()?;
    let slope = cx.graph.constant(bent.input(1)?)?;
    // One slope, or one for each channel, which is axis 1.
    let shape = slope.shape();
    let along = |axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let slopes = slope.to_f32s();
    if (0..rank).any(|axis| along(axis) != 1 && (axis != 1 || along(1) != channels)) || slopes.is_empty() {
        return None;
    }
    let (_, clip) = clip_of(y)?;
    let result = |q: i32, slope: f32| {
        let real = arithmetic::dequantize(q, from.scale, from.zero);
        let bent = if real < 0.0 { slope * real } else { real };
        arithmetic::quantize(bent, to.scale, to.zero, to.lo, to.hi)
    };
    let stored_zero = u8::try_from(from.zero + bias(x.element)).ok()?;
    let factor = |slope: f32, range: std::ops::RangeInclusive<i32>| {
        let about = (f64::from(slope) * f64::from(from.scale) / f64::from(to.scale)) as f32;
        // The product of three roundings is this one up to a few units in the last place.
        (0..=16).flat_map(|step| [step, -step]).map(|step| nudged(about, step)).find(|factor| {
            factor.is_finite()
                && range.clone().all(|q| {
                    let whole = ((q - from.zero) as f32 * factor).round_ties_even() as i64;
                    let got = whole.saturating_add(to.zero.into()).clamp(to.lo.into(), to.hi.into());
                    got == i64::from(result(q, slope))
                })
        })
    };
    let above = factor(1.0, from.zero..=from.hi)?;
    let below: Option<Vec<f32>> = slopes.iter().map(|slope| factor(*slope, from.lo..=from.zero)).collect();
    let mut below = below?;
    if below.len() == 1 {
        below = vec![below[0]; channels];
    }
    let nodes = [dequantize, prelu, quantize];
    Some(Fused { prelu: QPRelu { x_zero: stored_zero, above, below, clip }, output, nodes })
}

/// The number `steps` representable numbers further from zero.
fn nudged(value: f32, steps: i32) -> f32 {
    f32::from_bits(value.to_bits().saturating_add_signed(steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nudging_goes_to_neighbours() {
        assert!(nudged(1.0, 1) > 1.0 && nudged(1.0, -1) < 1.0 && nudged(-1.0, 1) < -1.0);
        assert_eq!(nudged(0.25, 0), 0.25);
    }
}

//! How far the outputs of a quantized network's layers are from those of the float network.

use std::collections::BTreeMap;

use qing_graph::{Graph, Quant, QuantRule, Tensor, Type, ValueId};

use super::Noise;
use crate::{
    LightenError, Progress,
    quantize::{Mode, Quantized},
    run::Observer,
};

/// Power of the signal and of the error, summed.
#[derive(Debug, Clone, Copy, Default)]
struct Power {
    signal: f64,
    error: f64,
}

impl Power {
    fn add(&mut self, float: &[f32], lighter: &[f32]) {
        for (a, b) in float.iter().zip(lighter) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            self.signal += a * a;
            self.error += (a - b) * (a - b);
        }
    }

    /// In decibels; `None` if there is no signal. Errors below what can be told apart count as 200 dB.
    fn decibels(self) -> Option<f64> {
        (self.signal > 0.0).then(|| (10.0 * (self.signal / self.error).log10()).min(200.0))
    }
}

/// A value of the float graph, one of the typed graph that stands for it, and the layer they are compared for.
struct Pair {
    layer: Option<String>,
    float: ValueId,
    typed: ValueId,
}

/// Runs both networks over the batches.
pub(super) fn measure(
    float: &Graph,
    quantized: &Quantized,
    batches: &[Vec<Tensor>],
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Noise, LightenError> {
    let mut noise = Noise { layers: BTreeMap::new(), output: None };
    if batches.is_empty() {
        return Ok(noise);
    }
    let typed = &quantized.assigned.graph;
    let pairs = pairs(float, quantized);
    let mut of_float = Observer::new(float, &pairs.iter().map(|p| p.float).collect::<Vec<_>>(), threads);
    let mut of_typed = Observer::new(typed, &pairs.iter().map(|p| p.typed).collect::<Vec<_>>(), threads);
    let mut powers = vec![Power::default(); pairs.len()];
    for (i, batch) in batches.iter().enumerate() {
        progress(Progress { stage: "measure noise", done: i, total: batches.len() });
        let (a, b) = (of_float.run(batch)?, of_typed.run(batch)?);
        for (k, pair) in pairs.iter().enumerate() {
            powers[k].add(&a[k].to_f32s(), &reals(&b[k], typed.ty(pair.typed)));
        }
    }
    progress(Progress { stage: "measure noise", done: batches.len(), total: batches.len() });
    for (pair, power) in pairs.iter().zip(powers) {
        match (&pair.layer, power.decibels()) {
            (Some(layer), Some(db)) => {
                noise.layers.insert(layer.clone(), db);
            }
            (None, db) => noise.output = db,
            _ => {}
        }
    }
    Ok(noise)
}

/// Signal-to-quantization-noise ratio of the first output alone, in decibels; 0 if it is silent.
pub(crate) fn output_sqnr(
    float: &Graph,
    quantized: &Quantized,
    batches: &[Vec<Tensor>],
    threads: usize,
) -> Result<f64, LightenError> {
    let typed = &quantized.assigned.graph;
    let (Some(a), Some(b)) = (float.outputs.first(), typed.outputs.first()) else { return Ok(0.0) };
    let (mut of_float, mut of_typed) = (Observer::new(float, &[*a], threads), Observer::new(typed, &[*b], threads));
    let mut power = Power::default();
    for batch in batches {
        let (a, b) = (of_float.run(batch)?, of_typed.run(batch)?);
        power.add(&a[0].to_f32s(), &b[0].to_f32s());
    }
    Ok(power.decibels().unwrap_or(0.0))
}

/// Signal-to-noise ratio of the first output of another float network, in decibels; `None` if there is no signal.
pub(crate) fn float_sqnr(
    float: &Graph,
    other: &Graph,
    batches: &[Vec<Tensor>],
    threads: usize,
) -> Result<Option<f64>, LightenError> {
    let (Some(a), Some(b)) = (float.outputs.first(), other.outputs.first()) else { return Ok(None) };
    let (mut first, mut second) = (Observer::new(float, &[*a], threads), Observer::new(other, &[*b], threads));
    let mut power = Power::default();
    for batch in batches {
        let (a, b) = (first.run(batch)?, second.run(batch)?);
        power.add(&a[0].to_f32s(), &b[0].to_f32s());
    }
    Ok(power.decibels())
}

fn pairs(float: &Graph, quantized: &Quantized) -> Vec<Pair> {
    let made = &quantized.assigned;
    let mut pairs = vec![];
    for (i, node) in float.nodes.iter().enumerate() {
        if matches!(quantized.modes()[i], Mode::Float(_)) || !matches!(node.op.quantization(), QuantRule::Dot { .. }) {
            continue;
        }
        let y = node.outputs[0];
        // A layer with an activation function fused into it is compared after that function.
        let compared = quantized.leaders.get(&y).copied().unwrap_or(y);
        let Some(typed) = made.quantized.get(&y).or_else(|| made.floats.get(&y)) else { continue };
        pairs.push(Pair { layer: Some(node.name.clone()), float: compared, typed: *typed });
    }
    if let (Some(a), Some(b)) = (float.outputs.first(), made.graph.outputs.first()) {
        pairs.push(Pair { layer: None, float: *a, typed: *b });
    }
    pairs
}

/// The reals that a tensor stands for.
fn reals(tensor: &Tensor, ty: &Type) -> Vec<f32> {
    match ty.quant.as_deref().and_then(Quant::as_per_tensor) {
        Some((scale, zero)) => tensor.to_ints().into_iter().map(|q| (q - zero) as f32 * scale).collect(),
        None => tensor.to_f32s(),
    }
}

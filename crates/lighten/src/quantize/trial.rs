//! A float network with one layer that computes as if on few bits: what that layer alone does to the result.

use std::sync::Arc;

use qing_graph::{Graph, NodeId, QuantRule, Tensor, ValueId, ops};

use super::{
    Bits, QuantizeOptions,
    assign::LayerWeights,
    decide::{Decision, decide},
    dots, layer, range,
};
use crate::{
    LightenError, Progress,
    calibrate::{Moments, Statistics, calibrate},
};

/// A float network and what calibration says of it.
pub(crate) struct Trial<'a> {
    graph: &'a Graph,
    decision: Decision,
    dots: Vec<NodeId>,
    statistics: Statistics,
    options: &'a QuantizeOptions,
}

/// A layer at some width of its weights, as floats.
#[derive(Debug, Clone)]
pub(crate) struct Rounded {
    weights: Tensor,
    bias: Option<Tensor>,
}

impl<'a> Trial<'a> {
    /// Calibrates `graph`, whose constants are folded.
    ///
    /// # Errors
    /// If the batches do not fit the network, or an op fails.
    pub(crate) fn new(
        graph: &'a Graph,
        batches: &[Vec<Tensor>],
        options: &'a QuantizeOptions,
        threads: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trial<'a>, LightenError> {
        options.validate()?;
        let decision = decide(graph, options);
        let dots = dots(graph, &decision);
        let leaders: Vec<ValueId> =
            dots.iter().filter_map(|i| Some(decision.leader(graph.nodes[*i].input(0)?))).collect();
        let samples = batches.iter().map(|b| b.first().and_then(|t| t.shape().first().copied()).unwrap_or(1)).sum();
        let wants_moments = options.bias_correction || options.error_feedback;
        let moments: Vec<(NodeId, Moments)> = dots
            .iter()
            .filter(|_| wants_moments)
            .filter_map(|i| Some((*i, Moments::of(graph, &graph.nodes[*i], options.error_feedback, samples)?)))
            .collect();
        let mut values = leaders;
        values.sort_unstable();
        values.dedup();
        let statistics = calibrate(graph, batches, &values, &moments, threads, progress)?;
        Ok(Trial { graph, decision, dots, statistics, options })
    }

    /// The layers that compute on integers, in order.
    pub(crate) fn layers(&self) -> &[NodeId] {
        &self.dots
    }

    /// The weights of layer `i` (of [`Trial::layers`]) at `bits`.
    ///
    /// # Errors
    /// As quantization.
    pub(crate) fn round(&self, i: usize, bits: u8) -> Result<Rounded, LightenError> {
        let at = self.dots[i];
        let node = &self.graph.nodes[at];
        let x_scale = match node.input(0).map(|x| self.decision.leader(x)) {
            Some(x) => range::activation(&self.statistics.histograms[&x], 8, self.options.range)?.1.scale(0),
            None => 1.0,
        };
        let (moments, correct) = (self.statistics.moments.get(&at), layer::takes_bias(node));
        let encoding = self.options.encoding;
        let made = layer::quantize(self.graph, node, bits, x_scale, moments, correct, encoding, self.options)?;
        let bias = made.bias.as_ref().map(|b| Tensor::vector(b.iter().map(|v| *v as f32).collect::<Vec<_>>()));
        let weights = Tensor::new(made.weights.shape(), reals(&made)?).map_err(qing_graph::OpError::from)?;
        Ok(Rounded { weights, bias })
    }

    /// The network with layer `i` computed on these weights, which were rounded to `bits.weights`, and on activations of
    /// `bits.activations`.
    ///
    /// # Errors
    /// If the graph would be malformed.
    pub(crate) fn with(&self, i: usize, rounded: &Rounded, bits: Bits) -> Result<Graph, LightenError> {
        let at = self.dots[i];
        let mut graph = self.graph.clone();
        let node = graph.nodes[at].clone();
        let QuantRule::Dot { weight, bias, .. } = node.op.quantization() else {
            return Err(LightenError::Option(format!("`{}` has no weights", node.name)));
        };
        let mut inputs = node.inputs.clone();
        inputs[weight] = Some(graph.add_constant("trial.weight", rounded.weights.clone()));
        if let Some(b) = &rounded.bias {
            inputs.resize(inputs.len().max(bias + 1), None);
            inputs[bias] = Some(graph.add_constant("trial.bias", b.clone()));
        }
        if let Some(x) = node.input(0) {
            let histogram = &self.statistics.histograms[&self.decision.leader(x)];
            let (element, quant) = range::activation(histogram, bits.activations, self.options.range)?;
            let ty = graph.ty(x).clone().quantized(element, quant);
            let q = graph.add_typed_node(Arc::new(ops::Quantize {}), "trial.quantize", &[Some(x)], vec![ty])?[0];
            let back = graph.add_node(Arc::new(ops::Dequantize {}), "trial.dequantize", &[Some(q)], 1)?[0];
            inputs[0] = Some(back);
            graph.nodes[at..].rotate_right(2);
            graph.nodes[at + 2].inputs = inputs;
        }
        Ok(graph)
    }
}

/// What the integers of a layer stand for.
pub(super) fn reals(layer: &LayerWeights) -> Result<Vec<f32>, LightenError> {
    let shape = layer.weights.shape().to_vec();
    let ints = layer.weights.to_ints();
    let quant = layer.ty.quant.as_ref().ok_or_else(|| LightenError::Option("weights without a scale".into()))?;
    Ok(ints.iter().enumerate().map(|(i, q)| *q as f32 * quant.scale(quant.slice_of(&shape, i))).collect())
}

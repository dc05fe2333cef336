//! Sparse weights: most weights of a layer become zero, in a pattern that kernels turn into time, and those that stay make up for those that go.
//!
//! Which go, and what the others become, follows from how the layer's inputs go together on calibration data: optimal brain surgery (Hassibi
//! and Stork, 1993), column by column as in SparseGPT (arXiv:2301.00774), with the inverse of the second moments factored once. Without data,
//! or to compare with, by magnitude.

mod pattern;
mod surgery;

use std::collections::BTreeMap;

use qing_graph::{Graph, NodeId, OpError, QuantRule, Tensor, ops, passes, verify};
use serde::Serialize;

pub use pattern::Pattern;

use crate::{
    LightenError, Progress,
    calibrate::{Moments, calibrate},
};

/// How to make weights sparse.
#[derive(Debug, Clone, PartialEq)]
pub struct SparsifyOptions {
    /// Which weights may stay.
    pub pattern: Pattern,
    /// Whether weights are judged, and the rest of them corrected, by what calibration shows; else they go by magnitude.
    pub surgery: bool,
    /// Layers with fewer inputs to an output keep all their weights.
    pub fewest_inputs: usize,
    /// Threads of the engine.
    pub threads: usize,
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SparseLayer {
    /// Its name.
    pub layer: String,
    /// Its weights.
    pub weights: usize,
    /// How many of them are zero.
    pub zeros: usize,
    /// Power of what is lost over the power of the output on calibration data, if there was any.
    pub lost: Option<f64>,
}

/// A network with sparse weights, and what became of its layers.
#[derive(Debug)]
pub struct Sparsified {
    /// The network.
    pub graph: Graph,
    /// Layer by layer; layers that keep all weights are not among them.
    pub layers: Vec<SparseLayer>,
}

/// A layer's weights as kernels see them: `[outputs, inputs]`, inputs in the order of memory, channels last.
pub(crate) struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f64>,
    /// For each column, its place in a row of the tensor's own order.
    order: Vec<usize>,
}

/// The weights of a layer that may become sparse: a convolution with one group, or a product with a constant matrix.
fn matrix(graph: &Graph, node: &qing_graph::Node) -> Option<Matrix> {
    let QuantRule::Dot { weight, axis, .. } = node.op.quantization() else { return None };
    let w = graph.constant(node.input(weight)?)?;
    if !w.element().is_float() {
        return None;
    }
    let all = w.to_f64s();
    if let Some(conv) = node.op.downcast::<ops::Conv>() {
        let (rows, channels) = (*w.shape().first()?, *w.shape().get(1)?);
        let taps: usize = w.shape()[2..].iter().product();
        if conv.group != 1 {
            return None;
        }
        let order: Vec<usize> = (0..taps).flat_map(|tap| (0..channels).map(move |c| c * taps + tap)).collect();
        let columns = order.len();
        let values =
            (0..rows).flat_map(|r| order.iter().map(move |c| (r, c))).map(|(r, c)| all[r * columns + c]).collect();
        return Some(Matrix { rows, columns, values, order });
    }
    let &[a, b] = w.shape() else { return None };
    let (rows, columns) = if axis == 0 { (a, b) } else { (b, a) };
    let at = |r: usize, c: usize| if axis == 0 { r * b + c } else { c * b + r };
    let values = (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))).map(|(r, c)| all[at(r, c)]).collect();
    Some(Matrix { rows, columns, values, order: (0..columns).collect() })
}

/// Puts weights back where they came from.
fn store(graph: &mut Graph, node: NodeId, m: &Matrix) -> Result<(), LightenError> {
    let node = &graph.nodes[node];
    let QuantRule::Dot { weight, axis, .. } = node.op.quantization() else { return Ok(()) };
    let Some((id, w)) = node.input(weight).and_then(|id| Some((id, graph.constant(id)?))) else { return Ok(()) };
    let mut all = vec![0.0f32; m.values.len()];
    for (i, v) in m.values.iter().enumerate() {
        let (r, c) = (i / m.columns, i % m.columns);
        let at = if axis == 0 { r * m.columns + m.order[c] } else { c * m.rows + r };
        all[at] = *v as f32;
    }
    let tensor = Tensor::new(w.shape(), all).map_err(OpError::from)?.cast(w.element());
    graph.value_mut(id).constant = Some(tensor);
    Ok(())
}

/// Makes a float network sparse; `calibration` holds batches of inputs as the network takes them.
///
/// # Errors
/// If no layer can be made sparse, surgery is wanted without calibration data, weights are not finite, or something cannot be run.
pub fn sparsify(
    graph: &Graph,
    calibration: &[Vec<Tensor>],
    options: &SparsifyOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Sparsified, LightenError> {
    options.pattern.check()?;
    if calibration.is_empty() && options.surgery {
        return Err(LightenError::Calibration(
            "weights are judged by what layers see: give some typical inputs".into(),
        ));
    }
    let mut float = graph.clone();
    passes::normalize(&mut float)?;
    let mut float = float.compacted();
    let samples = calibration.iter().map(|b| b.first().and_then(|t| t.shape().first().copied()).unwrap_or(1)).sum();
    // Constants that several nodes read would be changed for all of them.
    let readers = |id| float.nodes.iter().flat_map(|n| n.inputs.iter().flatten()).filter(|i| **i == id).count();
    let matrices: BTreeMap<NodeId, Matrix> = (0..float.nodes.len())
        .filter(|i| float.nodes[*i].input(1).is_some_and(|w| readers(w) == 1))
        .filter_map(|i| Some((i, matrix(&float, &float.nodes[i])?)))
        .filter(|(_, m)| m.columns >= options.fewest_inputs && m.rows > 0)
        .collect();
    if matrices.is_empty() {
        let few = options.fewest_inputs;
        return Err(LightenError::Option(format!(
            "no layer has weights for {few} inputs or more that could become zero"
        )));
    }
    if let Some((node, _)) = matrices.iter().find(|(_, m)| m.values.iter().any(|v| !v.is_finite())) {
        return Err(LightenError::Option(format!("`{}` has weights that are not finite", float.nodes[*node].name)));
    }
    let moments: Vec<(NodeId, Moments)> = (matrices.keys())
        .filter_map(|i| Some((*i, Moments::of(&float, &float.nodes[*i], options.surgery, samples)?)))
        .collect();
    let statistics = calibrate(&float, calibration, &[], &moments, options.threads, progress)?;
    let (mut layers, count) = (vec![], matrices.len());
    for (done, (node, mut m)) in matrices.into_iter().enumerate() {
        progress(Progress { stage: "sparsify", done, total: count });
        let seen = statistics.moments.get(&node).filter(|s| s.groups() == 1 && s.width() == m.columns);
        let products =
            seen.filter(|_| !calibration.is_empty()).and_then(|s| s.covariance(0)).map(|c| ordered(&c, &m.order));
        let before = m.values.clone();
        match products.as_deref().filter(|_| options.surgery) {
            Some(h) => surgery::operate(&mut m, h, options.pattern),
            None => pattern::by_magnitude(&mut m, options.pattern),
        }
        store(&mut float, node, &m)?;
        layers.push(SparseLayer {
            layer: float.nodes[node].name.clone(),
            weights: m.values.len(),
            zeros: m.values.iter().filter(|v| **v == 0.0).count(),
            lost: products.map(|h| lost(&before, &m, &h)),
        });
    }
    progress(Progress { stage: "sparsify", done: count, total: count });
    verify::verify(&float)?;
    Ok(Sparsified { graph: float, layers })
}

/// Second moments in another order of their columns.
fn ordered(h: &[f64], order: &[usize]) -> Vec<f64> {
    let n = order.len();
    order.iter().flat_map(|a| order.iter().map(move |b| h[a * n + b])).collect()
}

/// The power of the change of a layer's outputs over their power.
fn lost(before: &[f64], after: &Matrix, h: &[f64]) -> f64 {
    let n = after.columns;
    let power = |row: &[f64]| -> f64 {
        row.iter()
            .enumerate()
            .filter(|(_, v)| **v != 0.0)
            .map(|(i, v)| v * row.iter().zip(&h[i * n..(i + 1) * n]).map(|(w, h)| w * h).sum::<f64>())
            .sum()
    };
    let (mut change, mut whole) = (0.0, 0.0);
    for (old, new) in before.chunks_exact(n).zip(after.values.chunks_exact(n)) {
        let difference: Vec<f64> = old.iter().zip(new).map(|(a, b)| a - b).collect();
        change += power(&difference);
        whole += power(old);
    }
    if whole > 0.0 { change / whole } else { 0.0 }
}

#[cfg(test)]
mod tests;

//! Two networks side by side: where their values agree, how well, and where they part.
//!
//! Both run on the same data. Values are matched by name first (qing keeps names when it makes a network lighter), then layers that
//! are left by structure: op, shape and order. A layer is looked at after the activation function behind it, since a quantized layer
//! may have it inside. Quantized values are compared as the reals they stand for.

mod measure;
mod spots;

use qing_graph::{Graph, Tensor, passes};
use serde::Serialize;

use crate::{LightenError, Progress, run::Observer};

pub use self::spots::Match;
use self::{
    measure::{Difference, comparable, reals},
    spots::{matches, sources},
};

/// How two values that stand for each other differ, over all samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// Name of the value in the first network.
    pub a: String,
    /// Name of the value in the second network.
    pub b: String,
    /// The node that begins to compute it in the first network; a function behind a layer belongs to the layer.
    pub a_node: String,
    /// The node that begins to compute it in the second network.
    pub b_node: String,
    /// The op that made it in the first network.
    pub op: String,
    /// Whether it is the result of a layer with weights.
    pub layer: bool,
    /// How the two were found to belong together.
    pub matched: Match,
    /// Type in the first network.
    pub a_type: String,
    /// Type in the second network.
    pub b_type: String,
    /// Power of the first over the power of the difference, in decibels; absent if the first is all zeros, 200 if they are equal.
    pub snr_db: Option<f64>,
    /// Cosine of the angle between both.
    pub cosine: Option<f64>,
    /// Largest difference.
    pub max_error: f64,
    /// Mean of the difference, second minus first: bias.
    pub mean_error: f64,
    /// Largest magnitude in the first network.
    pub max_value: f64,
    /// Factor from the first to the second that leaves the least difference; far from 1 where one of them has another unit.
    pub gain: f64,
    /// Power of the difference over the power of the first, less that of the values it is computed from: what this place adds. Of
    /// values in different units, what is left when they are brought to one.
    pub added: f64,
}

/// What came of running two networks on the same data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Samples.
    pub samples: usize,
    /// Values that stand for each other, in the order of the first network.
    pub pairs: Vec<Pair>,
    /// Positions in `pairs` of the places that add most to the difference, worst first.
    pub parting: Vec<usize>,
    /// Layers with weights of the first network that have no counterpart.
    pub only_a: Vec<String>,
    /// Layers with weights of the second network that have no counterpart.
    pub only_b: Vec<String>,
    /// Share of the samples for which both prefer the same class; absent if the first output is no row of scores.
    pub agreement: Option<f64>,
    /// The class each network prefers, sample by sample.
    #[serde(skip)]
    pub predictions: Vec<(usize, usize)>,
}

/// Places named as those where networks part.
const PARTING: usize = 5;

/// Runs `a` and `b` on the same samples: `batches` has, for each, the inputs of the first and of the second.
///
/// # Errors
/// If there is no data, the networks have different numbers of outputs or outputs of different shapes, or one cannot be run.
pub fn compare(
    a: &Graph,
    b: &Graph,
    batches: &[(Vec<Tensor>, Vec<Tensor>)],
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Comparison, LightenError> {
    compare_seen(a, b, batches, threads, progress, &mut |_, _, _| {})
}

/// [`compare`], showing `see` the reals of every batch: the node of the first network, its values, those of the second network.
pub(crate) fn compare_seen(
    a: &Graph,
    b: &Graph,
    batches: &[(Vec<Tensor>, Vec<Tensor>)],
    threads: usize,
    progress: &mut dyn FnMut(Progress),
    see: &mut dyn FnMut(&str, &[f32], &[f32]),
) -> Result<Comparison, LightenError> {
    let Some((first, second)) = batches.first() else {
        return Err(LightenError::Calibration("nothing to compare on; give at least one sample".into()));
    };
    if a.outputs.is_empty() || a.outputs.len() != b.outputs.len() {
        let (n, m) = (a.outputs.len(), b.outputs.len());
        return Err(LightenError::Option(format!(
            "networks with {n} and {m} outputs cannot stand for each other; compare versions of one network"
        )));
    }
    let (mut free_a, mut free_b) = (a.clone(), b.clone());
    passes::normalize(&mut free_a)?;
    passes::normalize(&mut free_b)?;
    let (a, b) = (bound(&free_a, first), bound(&free_b, second));
    let found = matches(&a, &b);
    let ids = |side: fn(&spots::Matched) -> qing_graph::ValueId| found.pairs.iter().map(side).collect::<Vec<_>>();
    // The last batch may be smaller than the first.
    let mut of_a = Observer::new(&free_a, &ids(|m| m.a), threads);
    let mut of_b = Observer::new(&free_b, &ids(|m| m.b), threads);
    let mut sums: Vec<Difference> = vec![Difference::default(); found.pairs.len()];
    let mut kept = vec![true; found.pairs.len()];
    let (mut samples, mut predictions, mut classes) = (0, vec![], true);
    for (i, (x, y)) in batches.iter().enumerate() {
        progress(Progress { stage: "compare", done: i, total: batches.len() });
        let (values_a, values_b) = (of_a.run(x)?, of_b.run(y)?);
        for (k, pair) in found.pairs.iter().enumerate() {
            let (s, t) = (reals(&values_a[k], a.ty(pair.a)), reals(&values_b[k], b.ty(pair.b)));
            let Some(t) = comparable(values_a[k].shape(), values_b[k].shape(), t) else {
                if pair.matched == Match::Output {
                    return Err(LightenError::Option(format!(
                        "outputs `{}` {:?} and `{}` {:?} have different shapes; compare versions of one network",
                        a.value(pair.a).name,
                        values_a[k].shape(),
                        b.value(pair.b).name,
                        values_b[k].shape()
                    )));
                }
                kept[k] = false;
                continue;
            };
            sums[k].add(&s, &t);
            see(&pair.a_node, &s, &t);
        }
        samples += x.first().and_then(|t| t.shape().first().copied()).unwrap_or(1);
        let output = found.pairs.iter().position(|p| p.matched == Match::Output && p.a == a.outputs[0]);
        match output.and_then(|k| measure::classes(&values_a[k]).zip(measure::classes(&values_b[k]))) {
            Some((p, q)) if p.len() == q.len() => predictions.extend(p.into_iter().zip(q)),
            _ => classes = false,
        }
    }
    progress(Progress { stage: "compare", done: batches.len(), total: batches.len() });
    let noise: Vec<f64> = sums.iter().map(Difference::unlike).collect();
    let before = sources(&a, &found.pairs);
    let mut pairs = vec![];
    for (k, m) in found.pairs.iter().enumerate().filter(|(k, _)| kept[*k]) {
        let from = before[k].iter().filter(|j| kept[**j]).map(|j| noise[*j]).fold(0.0, f64::max);
        pairs.push(Pair {
            a: a.value(m.a).name.clone(),
            b: b.value(m.b).name.clone(),
            a_node: m.a_node.clone(),
            b_node: m.b_node.clone(),
            op: m.op.into(),
            layer: m.layer,
            matched: m.matched,
            a_type: a.ty(m.a).to_string(),
            b_type: b.ty(m.b).to_string(),
            snr_db: sums[k].snr_db(),
            cosine: sums[k].cosine(),
            max_error: sums[k].max_error,
            mean_error: sums[k].mean_error(),
            max_value: sums[k].max_value,
            gain: sums[k].gain(),
            added: noise[k] - from,
        });
    }
    let mut parting: Vec<usize> = (0..pairs.len()).filter(|k| pairs[*k].added > 0.0).collect();
    parting.sort_by(|i, j| pairs[*j].added.total_cmp(&pairs[*i].added));
    parting.truncate(PARTING);
    let same = predictions.iter().filter(|(p, q)| p == q).count();
    let agreement = (classes && !predictions.is_empty()).then(|| same as f64 / predictions.len() as f64);
    if agreement.is_none() {
        predictions.clear();
    }
    Ok(Comparison { samples, pairs, parting, only_a: found.only_a, only_b: found.only_b, agreement, predictions })
}

/// The graph with its shapes known, as far as they follow from those of the inputs.
fn bound(graph: &Graph, inputs: &[Tensor]) -> Graph {
    let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
    qing_graph::infer::specialize(graph, &shapes).unwrap_or_else(|_| graph.clone())
}

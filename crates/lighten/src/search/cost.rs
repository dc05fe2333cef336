//! What the widths of each layer cost: bytes, bit operations, time on this machine, or whatever a [`CostModel`] counts.

use std::{collections::BTreeMap, sync::Arc};

use qing_engine::{Options, Plan, Session};
use qing_graph::{Element, Graph, Tensor};

use super::budget::Measure;
use crate::{Bits, LightenError, report};

/// A network in the forms in which it could be built: all its layers at one pair of widths.
pub struct Forms<'a> {
    /// The float network as it came; the forms may have other layers.
    pub float: &'a Graph,
    /// Names of the layers to choose for.
    pub layers: &'a [String],
    /// The pairs of widths to choose from, and the whole network at each.
    pub forms: &'a [(Bits, Graph)],
    /// One batch of inputs.
    pub sample: &'a [Tensor],
    /// Threads of the engine.
    pub threads: usize,
}

/// What is known of a cost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Costs {
    /// `layers[layer][choice]`.
    pub layers: Vec<Vec<f64>>,
    /// What everything else costs, whatever is chosen.
    pub fixed: f64,
    /// What the float network costs.
    pub float: f64,
}

/// Counts what a choice of widths costs. The engine's own are below; a chip has others.
pub trait CostModel {
    /// What is counted.
    fn measure(&self) -> Measure;

    /// Counts it for every layer and choice.
    ///
    /// # Errors
    /// If a form cannot be built or run.
    fn costs(&mut self, forms: &Forms<'_>) -> Result<Costs, LightenError>;
}

/// Bytes of the device file: integers at their own width, scales, biases; the rest is fixed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size;

impl CostModel for Size {
    fn measure(&self) -> Measure {
        Measure::Size
    }

    fn costs(&mut self, forms: &Forms<'_>) -> Result<Costs, LightenError> {
        let mut costs = Costs { float: file_bytes(forms.float), ..Costs::default() };
        let bytes: Vec<BTreeMap<String, f64>> = forms.forms.iter().map(|(_, graph)| stored(graph)).collect();
        costs.layers = by_layer(forms, &bytes);
        // The file beyond its tensors: names, types, and the gaps between tensors.
        for ((_, graph), bytes) in forms.forms.iter().zip(&bytes) {
            costs.fixed = costs.fixed.max(file_bytes(graph) - bytes.values().sum::<f64>());
        }
        Ok(costs)
    }
}

/// Bytes of a graph as a device file.
pub(crate) fn file_bytes(graph: &Graph) -> f64 {
    qing_formats::qing::to_bytes(graph).len() as f64
}

/// By layer, bytes of its constants as they are stored.
fn stored(graph: &Graph) -> BTreeMap<String, f64> {
    let mut by = BTreeMap::new();
    for node in &graph.nodes {
        let bytes: f64 = (node.inputs.iter().flatten())
            .filter_map(|id| Some((graph.constant(*id)?, graph.ty(*id))))
            .map(|(t, ty)| {
                let scales = ty.quant.as_ref().map_or(0, |q| 4 * q.scales().len());
                (t.len() as f64 * t.element().bits() as f64 / 8.0).ceil() + scales as f64
            })
            .sum();
        *by.entry(node.name.clone()).or_insert(0.0) += bytes;
    }
    by
}

fn by_layer(forms: &Forms<'_>, found: &[BTreeMap<String, f64>]) -> Vec<Vec<f64>> {
    let of = |layer: &String| found.iter().map(|by| by.get(layer).copied().unwrap_or(0.0)).collect();
    forms.layers.iter().map(of).collect()
}

/// Multiply–accumulates times the bits of both operands.
#[derive(Debug, Clone, Copy, Default)]
pub struct BitOperations;

impl CostModel for BitOperations {
    fn measure(&self) -> Measure {
        Measure::BitOperations
    }

    fn costs(&mut self, forms: &Forms<'_>) -> Result<Costs, LightenError> {
        let mut costs = Costs::default();
        let mut found = vec![];
        for (_, graph) in forms.forms {
            let layers = report::layers(graph, Some(forms.sample));
            found.push(layers.iter().map(|l| (l.name.clone(), l.bit_operations as f64)).collect::<BTreeMap<_, _>>());
            let chosen: f64 = found.last().into_iter().flat_map(BTreeMap::values).sum();
            let all = report::totals(graph, Some(forms.sample)).bit_operations as f64;
            costs.fixed = costs.fixed.max(all - chosen);
        }
        costs.layers = by_layer(forms, &found);
        costs.float = report::totals(forms.float, Some(forms.sample)).bit_operations as f64;
        Ok(costs)
    }
}

/// Milliseconds of one run on this machine: every form is profiled, layer by layer, in turns; the least of its runs counts.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Runs of every form.
    pub runs: usize,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { runs: 12 }
    }
}

impl CostModel for Latency {
    fn measure(&self) -> Measure {
        Measure::Latency
    }

    fn costs(&mut self, forms: &Forms<'_>) -> Result<Costs, LightenError> {
        let inputs = one_sample(forms.float, forms.sample)?;
        let graphs: Vec<&Graph> = forms.forms.iter().map(|(_, g)| g).chain([forms.float]).collect();
        let mut sessions = vec![];
        for graph in &graphs {
            sessions.push(session(graph, &inputs, forms.threads)?);
        }
        // By form, the least time of every step.
        let mut least: Vec<BTreeMap<usize, (String, u64)>> = vec![BTreeMap::new(); graphs.len()];
        for _ in 0..self.runs.max(1) {
            for (session, least) in sessions.iter_mut().zip(&mut least) {
                for (i, step) in session.profile()?.into_iter().enumerate() {
                    let entry = least.entry(i).or_insert((step.node, u64::MAX));
                    entry.1 = entry.1.min(step.nanos);
                }
            }
        }
        let mut found = vec![];
        let mut others = vec![];
        for steps in &least {
            let mut by: BTreeMap<String, f64> = BTreeMap::new();
            let mut other = 0.0;
            for (node, nanos) in steps.values() {
                let ms = *nanos as f64 * 1e-6;
                if forms.layers.contains(node) { *by.entry(node.clone()).or_insert(0.0) += ms } else { other += ms }
            }
            found.push(by);
            others.push(other);
        }
        let float = found.pop().map_or(0.0, |by| by.values().sum::<f64>()) + others.pop().unwrap_or(0.0);
        others.sort_by(f64::total_cmp);
        let fixed = others.get(others.len() / 2).copied().unwrap_or(0.0);
        Ok(Costs { layers: by_layer(forms, &found), fixed, float })
    }
}

/// Milliseconds of a run of `graph`: the median of the least of a few series.
pub(crate) fn measured_latency(graph: &Graph, sample: &[Tensor], threads: usize) -> Result<f64, LightenError> {
    let inputs = one_sample(graph, sample)?;
    let mut session = session(graph, &inputs, threads)?;
    let mut times = vec![];
    for _ in 0..30 {
        let start = std::time::Instant::now();
        session.run_into()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 4])
}

fn session(graph: &Graph, inputs: &[Tensor], threads: usize) -> Result<Session, LightenError> {
    let options = Options {
        input_shapes: Some(inputs.iter().map(|t| t.shape().to_vec()).collect()),
        ..Options::threads(threads)
    };
    let mut session = Session::new(Arc::new(Plan::new(graph, &options)?));
    session.run(inputs)?;
    Ok(session)
}

/// The first sample of a batch, where the network takes batches of any size.
fn one_sample(graph: &Graph, batch: &[Tensor]) -> Result<Vec<Tensor>, LightenError> {
    let first = |(i, t): (usize, &Tensor)| {
        let declared = graph.inputs.get(i).and_then(|id| graph.ty(*id).shape.as_ref()?.first()?.known());
        let mut shape = t.shape().to_vec();
        match shape.first_mut() {
            Some(n) if *n > 1 && declared.is_none() && t.element() == Element::F32 => {
                let each = t.len() / *n;
                *n = 1;
                Tensor::new(&shape, t.to_f32s()[..each].to_vec()).map_err(qing_graph::OpError::from)
            }
            _ => Ok(t.clone()),
        }
    };
    Ok(batch.iter().enumerate().map(first).collect::<Result<_, _>>()?)
}

//! How much each unit matters.

use std::sync::Arc;

use qing_engine::{Plan, Session};
use qing_graph::{Dim, Element, Graph, NodeId, OpError, Tensor, Type, ValueId, gradient, infer, ops};

use super::depend::{Dependencies, Part};
use crate::{LightenError, Progress};

/// By what units are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// The size of all weights that make, change and read a channel, beside that of the others of its group (Li et al.,
    /// arXiv:1608.08710, over whole groups as in DepGraph, arXiv:2301.12900). Needs no data.
    Magnitude,
    /// The scales of batch normalization (network slimming, Liu et al., arXiv:1708.06519). Needs no data, but a network whose
    /// normalization is not folded.
    Scale,
    /// What taking the channel out changes in the output, to first order: gradients of a factor on it, squared, over
    /// calibration data (Molchanov et al., arXiv:1906.10771). There are no labels: answers are drawn from what the network
    /// itself says, so that the squares are its Fisher information.
    Taylor,
}

/// The importance of every unit.
///
/// # Errors
/// If there is nothing to judge by, or the network cannot be run or differentiated.
pub(super) fn importance(
    graph: &Graph,
    d: &Dependencies,
    how: Importance,
    batches: &[Vec<Tensor>],
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<f64>, LightenError> {
    match how {
        Importance::Magnitude => Ok(relative(d, &magnitudes(graph, d, |_, _| true))),
        Importance::Scale => {
            let gamma = |node: NodeId, input: usize| graph.nodes[node].op.name() == "BatchNormalization" && input == 1;
            let found = magnitudes(graph, d, gamma);
            if found.iter().all(|v| *v == 0.0) {
                return Err(LightenError::Option(
                    "the network has no batch normalization whose scales could be judged; use magnitude or taylor"
                        .into(),
                ));
            }
            // A unit without a normalization is never the least.
            Ok(found.into_iter().map(|v| if v == 0.0 { f64::INFINITY } else { v }).collect())
        }
        Importance::Taylor => taylor(graph, d, batches, threads, progress),
    }
}

/// Square roots of the sums of squares of what belongs to each unit.
fn magnitudes(graph: &Graph, d: &Dependencies, counts: impl Fn(NodeId, usize) -> bool) -> Vec<f64> {
    let mut sums = vec![0.0; d.units];
    for slice in d.slices.iter().filter(|s| counts(s.node, s.input)) {
        // Running means and variances are no weights.
        if graph.nodes[slice.node].op.name() == "BatchNormalization" && slice.input > 2 {
            continue;
        }
        let Some(tensor) = graph.constant(slice.constant) else { continue };
        let inner: usize = tensor.shape()[slice.axis + 1..].iter().product();
        for (i, v) in tensor.to_f64s().into_iter().enumerate() {
            let atom = slice.atoms[i / inner.max(1) % slice.atoms.len()];
            if let Some(unit) = d.unit[atom] {
                sums[unit] += v * v;
            }
        }
    }
    sums.into_iter().map(f64::sqrt).collect()
}

/// Beside the mean of the group: layers of different sizes are compared.
fn relative(d: &Dependencies, values: &[f64]) -> Vec<f64> {
    let mut out = values.to_vec();
    for group in &d.groups {
        let mean = group.units.iter().map(|u| values[*u]).sum::<f64>() / group.units.len().max(1) as f64;
        group.units.iter().for_each(|u| out[*u] /= mean.max(f64::MIN_POSITIVE));
    }
    out
}

/// A value, the axis of its channels, their units.
struct Gate {
    value: ValueId,
    axis: usize,
    units: Vec<Option<usize>>,
}

fn taylor(
    graph: &Graph,
    d: &Dependencies,
    batches: &[Vec<Tensor>],
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<f64>, LightenError> {
    let Some(first) = batches.first() else {
        return Err(LightenError::Calibration("taylor importance needs samples, labels not needed".into()));
    };
    let shapes: Vec<Vec<usize>> = first.iter().map(|t| t.shape().to_vec()).collect();
    let gates = gates(graph, d);
    if gates.is_empty() {
        return Ok(vec![0.0; d.units]);
    }
    let plain = infer::specialize(graph, &shapes)?;
    let (mut gated, inputs, seed) = with_gates(&plain, &gates)?;
    let end = gated.nodes.len();
    let output = gated.outputs[0];
    let found = gradient::reverse(&mut gated, 0..end, &[(output, seed)], &inputs)?;
    gated.outputs = found.iter().flatten().copied().collect();
    gated.remove_dead_nodes();
    let session = |graph: &Graph| -> Result<Session, LightenError> {
        Ok(Session::new(Arc::new(Plan::new(graph, &qing_engine::Options::threads(threads))?)))
    };
    let (mut forward, mut backward) = (session(&plain)?, session(&gated)?);
    let ones: Vec<Tensor> = inputs
        .iter()
        .map(|id| {
            let shape = gated.ty(*id).known_shape().unwrap_or_default();
            let count = shape.iter().product();
            Tensor::new(&shape, vec![1f32; count]).map_err(OpError::from)
        })
        .collect::<Result<_, _>>()?;
    let mut sums = vec![0.0; d.units];
    let (mut samples, mut number) = (0usize, 0u64);
    for (i, batch) in batches.iter().enumerate() {
        progress(Progress { stage: "judge channels", done: i, total: batches.len() });
        if batch.iter().zip(&shapes).any(|(t, s)| t.shape() != s.as_slice()) {
            continue;
        }
        let answer = forward.run(batch)?.swap_remove(0);
        let seed = draw(&answer, &mut number)?;
        let mut feeds = batch.clone();
        feeds.extend(ones.iter().cloned());
        feeds.push(seed);
        let gradients = backward.run(&feeds)?;
        let rows = answer.shape().first().copied().unwrap_or(1).max(1);
        let mut all = vec![0.0; rows * d.units];
        let mut gradients = gradients.iter();
        for (gate, found) in gates.iter().zip(&found) {
            let Some(gradient) = found.and_then(|_| gradients.next()) else { continue };
            let values = gradient.to_f32s();
            for (k, v) in values.iter().enumerate() {
                let (row, channel) = (k / gate.units.len(), k % gate.units.len());
                if let Some(unit) = gate.units[channel] {
                    all[row.min(rows - 1) * d.units + unit] += f64::from(*v);
                }
            }
        }
        for row in all.chunks_exact(d.units.max(1)) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += v * v);
        }
        samples += rows;
    }
    progress(Progress { stage: "judge channels", done: batches.len(), total: batches.len() });
    if sums.iter().any(|v| !v.is_finite()) {
        return Err(LightenError::Calibration("gradients are no finite numbers: are there NaN in the weights?".into()));
    }
    Ok(sums.into_iter().map(|s| s / samples.max(1) as f64).collect())
}

/// What every layer makes, after its normalization. Layers that only change channels on their way have no gate of their own.
fn gates(graph: &Graph, d: &Dependencies) -> Vec<Gate> {
    let consumers = graph.consumers();
    let mut gates = vec![];
    let mut nodes: Vec<NodeId> = d.slices.iter().filter(|s| s.part == Part::Output).map(|s| s.node).collect();
    nodes.dedup();
    for node in nodes {
        let mut value = graph.nodes[node].outputs[0];
        while let [next] = consumers[value.0 as usize].as_slice()
            && graph.nodes[*next].op.name() == "BatchNormalization"
        {
            value = graph.nodes[*next].outputs[0];
        }
        let Some(lane) = &d.lanes[value.0 as usize] else { continue };
        let units: Vec<Option<usize>> = lane.atoms.iter().map(|a| d.unit[*a]).collect();
        if lane.axis > 0 && units.iter().any(Option::is_some) && !gates.iter().any(|g: &Gate| g.value == value) {
            gates.push(Gate { value, axis: lane.axis, units });
        }
    }
    gates
}

/// The graph with a factor on every gate, one for each sample and channel, and an input for the gradient of the first output.
fn with_gates(graph: &Graph, gates: &[Gate]) -> Result<(Graph, Vec<ValueId>, ValueId), LightenError> {
    let mut gated = graph.clone();
    let mut inputs = vec![];
    for gate in gates {
        let shape = gated.ty(gate.value).known_shape().ok_or_else(|| {
            LightenError::Option(format!("the shape of `{}` is not known", gated.value(gate.value).name))
        })?;
        let dims = (0..shape.len()).map(|i| Dim::Known(if i == 0 || i == gate.axis { shape[i] } else { 1 }));
        let dims: Vec<Dim> = dims.collect();
        let name = format!("{}.gate", gated.value(gate.value).name);
        let factor = gated.add_input(&name, Type::new(Element::F32, dims));
        let made = gated.nodes.iter().position(|n| n.outputs.contains(&gate.value)).unwrap_or(0);
        let out = gated.add_node(Arc::new(ops::Mul {}), &name, &[Some(gate.value), Some(factor)], 1)?[0];
        let node = gated.nodes.pop().ok_or_else(|| LightenError::Option("no node".into()))?;
        for reader in &mut gated.nodes[made + 1..] {
            reader.inputs.iter_mut().flatten().filter(|id| **id == gate.value).for_each(|id| *id = out);
        }
        gated.outputs.iter_mut().filter(|id| **id == gate.value).for_each(|id| *id = out);
        gated.nodes.insert(made + 1, node);
        inputs.push(factor);
    }
    let ty = gated.ty(gated.outputs[0]).clone();
    let seed = gated.add_input("answer.gradient", Type::maybe(Element::F32, ty.shape));
    Ok((gated, inputs, seed))
}

/// The gradient of a surprise at answers that the network itself gives: of classes, one is drawn by its probability; of
/// anything else, every number's sign is drawn, which makes the squares those of Gauss and Newton.
fn draw(answer: &Tensor, number: &mut u64) -> Result<Tensor, LightenError> {
    let values = answer.to_f32s();
    let mut uniform = || {
        *number += 1;
        let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let classes = match answer.shape() {
        [_, classes] if *classes > 1 => *classes,
        _ => {
            let signs = values.iter().map(|_| if uniform() < 0.5 { -1f32 } else { 1.0 }).collect();
            return Ok(Tensor::new(answer.shape(), signs).map_err(OpError::from)?);
        }
    };
    let mut out = vec![];
    for row in values.chunks_exact(classes) {
        let sum: f32 = row.iter().sum();
        let given = row.iter().all(|v| *v >= 0.0) && (sum - 1.0).abs() < 1e-3;
        let top = row.iter().fold(f32::MIN, |a, b| a.max(*b));
        let mut p: Vec<f64> = row.iter().map(|v| f64::from(if given { *v } else { (v - top).exp() })).collect();
        let total: f64 = p.iter().sum();
        p.iter_mut().for_each(|v| *v /= total);
        let mut rest = uniform();
        let chosen = p
            .iter()
            .position(|v| {
                rest -= v;
                rest < 0.0
            })
            .unwrap_or(classes - 1);
        out.extend((0..classes).map(|i| {
            let hit = f64::from(u8::from(i == chosen));
            if given { -hit / p[i].max(1e-6) } else { p[i] - hit }
        } as f32));
    }
    Ok(Tensor::new(answer.shape(), out).map_err(OpError::from)?)
}

//! Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721): channels of a value may be scaled if the layers that
//! write it are scaled the other way and those that read it make up for it. Values whose channels are of one size lose
//! less to a scale they share.
//!
//! The values that must be scaled together form a group: what passes through ReLU, pooling and residual sums, which a
//! positive factor passes unchanged. A group that touches anything else stays as it is. A clip such as ReLU6 is passed too,
//! by the channels that calibration never saw reach it: they may grow until they do.
//!
//! On few bits a channel counts as large as its quantization would let it be, some multiple of its root mean square, and grows by that: what
//! it rarely exceeds is clipped, by the range of the value or by the clip that was there. So each channel has very nearly a
//! range of its own (as with per-channel activations, but at no cost where a depthwise layer reads).

use std::collections::{BTreeMap, BTreeSet};

use qing_graph::{Element, Graph, Node, NodeId, Tensor, ValueId};

use crate::{LightenError, run::Observer};

/// Share of the spread of a value's channels that moves into the weights that read it.
const SHARE: f64 = 0.5;

/// Factors stay between this and its inverse.
const LARGEST_FACTOR: f64 = 64.0;

/// Activations of so many bits clip their largest values; of fewer they would clip much more, which was not measured.
const FEW_BITS: std::ops::RangeInclusive<u8> = 3..=6;
/// Where they do, as a multiple of the root mean square. Measured: MobileNetV2 in four bits, roundings by feedback, 400 images: 42 % by the
/// largest values; 23, 41, 53, 51 and 48 % with 2, 3, 4, 5 and 6.
const PEAK: f64 = 4.0;

/// Room left between the largest value seen and the clip.
const HEADROOM: f64 = 1.1;

/// The same network with evener channels, for activations of `bits` bits. On few bits it clips values that are rare.
///
/// # Errors
/// If the network cannot be run on the batches.
pub(crate) fn equalize(
    graph: &Graph,
    batches: &[Vec<Tensor>],
    bits: u8,
    threads: usize,
) -> Result<Graph, LightenError> {
    let groups = groups(graph);
    let values: Vec<ValueId> = groups.iter().flat_map(|g| g.values.iter().copied()).collect();
    let peaks = channel_peaks(graph, &values, batches, bits, threads)?;
    let mut made = graph.clone();
    for group in &groups {
        let factors = factors(&made, group, &peaks);
        for node in &group.writers {
            scale_outputs(&mut made, *node, &factors)?;
        }
        for node in &group.readers {
            scale_inputs(&mut made, *node, &factors)?;
        }
    }
    Ok(made)
}

/// Values that are scaled together.
#[derive(Debug, Default)]
struct Group {
    channels: usize,
    values: Vec<ValueId>,
    writers: Vec<NodeId>,
    readers: Vec<NodeId>,
    /// Values before a clip: their size says nothing about what is left of them.
    clipped: BTreeSet<ValueId>,
    /// The lowest height at which the group is clipped.
    ceiling: Option<f64>,
}

/// The height of a clip from zero up to a constant.
fn ceiling(graph: &Graph, node: &Node) -> Option<f64> {
    let bound = |i| graph.constant(node.input(i)?)?.to_f64s().first().copied();
    if node.op.name() != "Clip" || !node.op.spec().domain.is_empty() || bound(1) != Some(0.0) {
        return None;
    }
    bound(2).filter(|m| *m > 0.0 && m.is_finite())
}

/// Whether a node passes a factor per channel unchanged.
fn transparent(graph: &Graph, node: &Node) -> bool {
    if !node.op.spec().domain.is_empty() || node.outputs.len() != 1 {
        return false;
    }
    match node.op.name() {
        "Relu" | "LeakyRelu" | "MaxPool" | "AveragePool" | "GlobalAveragePool" | "Identity" => true,
        "Clip" => ceiling(graph, node).is_some(),
        // A sum of values of one shape; a constant operand would have to be scaled as well.
        "Add" => {
            let shapes: Vec<_> = node.inputs.iter().flatten().map(|id| &graph.ty(*id).shape).collect();
            let free = node.inputs.iter().flatten().all(|id| graph.constant(*id).is_none());
            free && shapes.len() == 2 && shapes[0].is_some() && shapes[0] == shapes[1]
        }
        "Flatten" => {
            node.op.attrs().read("axis", 1i64).is_ok_and(|a| a == 1) && {
                let dims = node.input(0).and_then(|x| graph.ty(x).shape.as_ref());
                dims.is_some_and(|d| d.len() >= 2 && d[2..].iter().all(|d| d.known() == Some(1)))
            }
        }
        _ => false,
    }
}

/// A layer whose weights can be scaled: `(weights, groups)`.
fn layer<'g>(graph: &'g Graph, node: &Node) -> Option<(&'g Tensor, usize)> {
    let w = graph.constant(node.input(1)?).filter(|w| w.element() == Element::F32)?;
    let attrs = node.op.attrs();
    let bias = node.input(2).is_none_or(|b| graph.constant(b).is_some());
    match node.op.name() {
        "Conv" if bias && w.rank() >= 3 => Some((w, usize::try_from(attrs.read("group", 1i64).ok()?).ok()?.max(1))),
        "Gemm" if bias && w.rank() == 2 => {
            let plain = attrs.read("transB", 0i64).ok()? == 1
                && attrs.read("transA", 0i64).ok()? == 0
                && attrs.read("alpha", 1.0f32).ok()? == 1.0
                && attrs.read("beta", 1.0f32).ok()? == 1.0
                && node.input(2).and_then(|b| graph.constant(b)).is_none_or(|b| b.len() == w.shape()[0]);
            plain.then_some((w, 1))
        }
        _ => None,
    }
}

fn groups(graph: &Graph) -> Vec<Group> {
    let mut parent: Vec<usize> = (0..graph.values().len()).collect();
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    let mut fixed: BTreeSet<usize> = graph.inputs.iter().chain(&graph.outputs).map(|id| id.0 as usize).collect();
    let (mut writers, mut readers) = (vec![], vec![]);
    for (i, node) in graph.nodes.iter().enumerate() {
        let (ins, outs) = (node.inputs.iter().flatten(), &node.outputs);
        if transparent(graph, node) {
            let y = root(&mut parent, outs[0].0 as usize);
            for x in ins.filter(|id| graph.constant(**id).is_none()) {
                let x = root(&mut parent, x.0 as usize);
                parent[x] = y;
            }
        } else if layer(graph, node).is_some() {
            writers.push((i, outs[0]));
            readers.extend(node.input(0).map(|x| (i, x)));
        } else {
            fixed.extend(ins.chain(outs).map(|id| id.0 as usize));
        }
    }
    let fixed: BTreeSet<usize> = fixed.into_iter().map(|i| root(&mut parent, i)).collect();
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for (i, y) in writers {
        groups.entry(root(&mut parent, y.0 as usize)).or_default().writers.push(i);
    }
    for (i, x) in readers {
        groups.entry(root(&mut parent, x.0 as usize)).or_default().readers.push(i);
    }
    for (id, value) in graph.values() {
        let at = root(&mut parent, id.0 as usize);
        if let Some(group) = groups.get_mut(&at)
            && value.constant.is_none()
        {
            let channels = value.ty.shape.as_ref().and_then(|s| s.get(1)?.known()).unwrap_or(0);
            group.channels = if group.values.is_empty() || group.channels == channels { channels } else { 0 };
            group.values.push(id);
        }
    }
    for node in graph.nodes.iter() {
        if let (Some(height), Some(x)) = (ceiling(graph, node), node.input(0))
            && let Some(group) = groups.get_mut(&root(&mut parent, x.0 as usize))
        {
            group.clipped.insert(x);
            group.ceiling = Some(group.ceiling.map_or(height, |h| h.min(height)));
        }
    }
    groups
        .into_iter()
        .filter(|(at, g)| !fixed.contains(at) && g.channels > 1 && !g.writers.is_empty() && !g.readers.is_empty())
        .map(|(_, g)| g)
        .collect()
}

/// Largest magnitude of every channel of every value.
fn channel_peaks(
    graph: &Graph,
    values: &[ValueId],
    batches: &[Vec<Tensor>],
    bits: u8,
    threads: usize,
) -> Result<BTreeMap<ValueId, Vec<f64>>, LightenError> {
    // Largest magnitude, sum of squares and number of values.
    let mut peaks: BTreeMap<ValueId, Vec<[f64; 3]>> = BTreeMap::new();
    if values.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut observer = Observer::new(graph, values, threads);
    for batch in batches {
        for (id, tensor) in values.iter().zip(observer.run(batch)?) {
            let shape = tensor.shape();
            let (channels, area) = (shape[1], shape[2..].iter().product::<usize>().max(1));
            let peak = peaks.entry(*id).or_insert_with(|| vec![[0.0; 3]; channels]);
            for (i, plane) in tensor.to_f32s().chunks(area).enumerate() {
                let largest = plane.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let [most, squares, count] = &mut peak[i % channels];
                *most = most.max(f64::from(largest));
                *squares += plane.iter().map(|v| f64::from(v * v)).sum::<f64>();
                *count += plane.len() as f64;
            }
        }
    }
    let size = |[most, squares, count]: [f64; 3]| {
        if FEW_BITS.contains(&bits) { most.min(PEAK * (squares / count.max(1.0)).sqrt()) } else { most }
    };
    Ok(peaks.into_iter().map(|(id, channels)| (id, channels.into_iter().map(size).collect())).collect())
}

/// By what each channel of a group is divided.
fn factors(graph: &Graph, group: &Group, peaks: &BTreeMap<ValueId, Vec<f64>>) -> Vec<f64> {
    let n = group.channels;
    let mut sizes = vec![0.0f64; n];
    for peak in group.values.iter().filter(|id| !group.clipped.contains(id)).filter_map(|id| peaks.get(id)) {
        for (s, p) in sizes.iter_mut().zip(peak) {
            *s = s.max(*p);
        }
    }
    // How much of the range of the weights that read it a channel takes: a channel that reads none but its own is free.
    let mut reach = vec![0.0f64; n];
    let mut dense = false;
    for node in &group.readers {
        let Some((w, groups)) = layer(graph, &graph.nodes[*node]) else { continue };
        let per_group = w.shape()[1];
        if per_group == 1 {
            continue;
        }
        dense = true;
        let (values, taps) = (w.to_f32s(), w.shape()[2..].iter().product::<usize>());
        let rows_per_group = (w.shape()[0] / groups).max(1);
        for (r, row) in values.chunks((per_group * taps).max(1)).enumerate() {
            let top = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (k, v) in row.iter().enumerate().filter(|_| top > 0.0) {
                let c = r / rows_per_group * per_group + k / taps.max(1);
                reach[c] = reach[c].max(f64::from(v.abs() / top));
            }
        }
    }
    let raw = |c: usize| if dense { sizes[c].powf(SHARE) / reach[c].powf(1.0 - SHARE) } else { sizes[c] };
    let legal = |v: f64| v.is_finite() && v > 0.0;
    if let Some(height) = group.ceiling {
        // What reaches the ceiling stays; the tallest of the others grows to just below it.
        let tallest =
            (0..n).filter(|c| sizes[*c] < height && legal(raw(*c))).map(|c| sizes[c] / raw(c)).fold(0.0, f64::max);
        let unit = tallest * HEADROOM / height;
        return (0..n)
            .map(|c| if sizes[c] < height && legal(raw(c)) && unit > 0.0 { raw(c) * unit } else { 1.0 })
            .map(|f| f.clamp(1.0 / LARGEST_FACTOR, 1.0))
            .collect();
    }
    let alive: Vec<f64> = (0..n).map(raw).filter(|v| legal(*v)).collect();
    let middle = (alive.iter().map(|v| v.ln()).sum::<f64>() / alive.len().max(1) as f64).exp();
    (0..n)
        .map(raw)
        .map(|v| if legal(v) { (v / middle).clamp(1.0 / LARGEST_FACTOR, LARGEST_FACTOR) } else { 1.0 })
        .collect()
}

/// Replaces a constant input of a node.
fn replace(
    graph: &mut Graph,
    node: NodeId,
    input: usize,
    shape: &[usize],
    values: Vec<f32>,
) -> Result<(), LightenError> {
    let tensor = Tensor::new(shape, values).map_err(qing_graph::OpError::from)?;
    let name = format!("{}.equalized{input}", graph.nodes[node].name);
    let id = graph.add_constant(&name, tensor);
    graph.nodes[node].inputs[input] = Some(id);
    Ok(())
}

/// Divides the output channels of a layer.
fn scale_outputs(graph: &mut Graph, node: NodeId, factors: &[f64]) -> Result<(), LightenError> {
    let Some((w, _)) = layer(graph, &graph.nodes[node]) else { return Ok(()) };
    let (shape, inner) = (w.shape().to_vec(), w.shape()[1..].iter().product::<usize>().max(1));
    let scaled = w.to_f32s().iter().enumerate().map(|(i, v)| (f64::from(*v) / factors[i / inner]) as f32).collect();
    let bias = graph.nodes[node].input(2).and_then(|b| graph.constant(b)).map(Tensor::to_f32s);
    replace(graph, node, 1, &shape, scaled)?;
    if let Some(bias) = bias {
        let scaled: Vec<f32> = bias.iter().zip(factors).map(|(b, f)| (f64::from(*b) / f) as f32).collect();
        replace(graph, node, 2, &[scaled.len()], scaled)?;
    }
    Ok(())
}

/// Multiplies the weights of a layer by the factors of the channels they read.
fn scale_inputs(graph: &mut Graph, node: NodeId, factors: &[f64]) -> Result<(), LightenError> {
    let Some((w, groups)) = layer(graph, &graph.nodes[node]) else { return Ok(()) };
    let shape = w.shape().to_vec();
    let (per_group, taps) = (shape[1], shape[2..].iter().product::<usize>().max(1));
    let rows_per_group = (shape[0] / groups).max(1);
    let channel = |i: usize| i / (per_group * taps) / rows_per_group * per_group + i / taps % per_group;
    let scaled = w.to_f32s().iter().enumerate().map(|(i, v)| (f64::from(*v) * factors[channel(i)]) as f32).collect();
    replace(graph, node, 1, &shape, scaled)
}

//! Matrix products with constant weights, and what writes the values they read: the places where smoothing
//! ([`super::smooth`]) and rotation ([`super::rotate`]) change a transformer without changing what it computes.

use qing_graph::{Element, Graph, Node, NodeId, OpError, Tensor, ValueId, ops};

use crate::LightenError;

/// Which node writes each value and which read it.
pub(super) struct Links {
    producers: Vec<Option<NodeId>>,
    consumers: Vec<Vec<NodeId>>,
}

impl Links {
    pub(super) fn new(graph: &Graph) -> Links {
        Links { producers: graph.producers(), consumers: graph.consumers() }
    }

    /// The node that writes a value.
    pub(super) fn producer(&self, value: ValueId) -> Option<NodeId> {
        self.producers[value.0 as usize]
    }

    /// The nodes that read a value, once for each place.
    pub(super) fn consumers(&self, value: ValueId) -> &[NodeId] {
        &self.consumers[value.0 as usize]
    }

    /// The matrix products whose first input, and no other, is a value.
    pub(super) fn products(&self, graph: &Graph, value: ValueId) -> Vec<NodeId> {
        let reads = |i: &NodeId| {
            let node = &graph.nodes[*i];
            let once = node.inputs.iter().filter(|id| **id == Some(value)).count() == 1;
            node.input(0) == Some(value) && once && sizes(graph, node).is_some()
        };
        self.consumers(value).iter().copied().filter(reads).collect()
    }

    /// Whether one node alone reads a value, and it is no result.
    pub(super) fn read_once(&self, graph: &Graph, value: ValueId) -> bool {
        self.consumers(value).len() == 1 && !graph.outputs.contains(&value)
    }

    /// The node that writes a value, if it is op `T` and nothing but one node reads the value.
    fn inner<'g, T: qing_graph::Op>(&self, graph: &'g Graph, value: ValueId) -> Option<(&'g T, &'g Node)> {
        let node = &graph.nodes[self.producer(value)?];
        Some((node.op.downcast::<T>()?, node)).filter(|_| self.read_once(graph, value))
    }
}

/// The weights of a matrix product, one row per input channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub inputs: usize,
    pub outputs: usize,
    /// Row-major.
    pub values: Vec<f64>,
}

impl Matrix {
    /// The weights of input channel `i`.
    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.outputs..(i + 1) * self.outputs]
    }

    /// The weights of output channel `j`.
    pub(super) fn column(&self, j: usize) -> Vec<f64> {
        (0..self.inputs).map(|i| self.values[i * self.outputs + j]).collect()
    }
}

/// Whether the weights hold one row per output channel; `None` if the node is no product of its first input with a constant
/// matrix of floats.
fn transposed(graph: &Graph, node: &Node) -> Option<bool> {
    graph.constant(node.input(1)?).filter(|w| w.element() == Element::F32 && w.rank() == 2 && !w.is_empty())?;
    if node.op.is::<ops::MatMul>() {
        return Some(false);
    }
    let gemm = node.op.downcast::<ops::Gemm>()?;
    let bias = node.input(2).is_none_or(|b| graph.constant(b).is_some_and(|b| b.element() == Element::F32));
    (gemm.alpha == 1.0 && gemm.beta == 1.0 && !gemm.transA && bias).then_some(gemm.transB)
}

/// Input and output channels of a matrix product with constant weights.
pub(super) fn sizes(graph: &Graph, node: &Node) -> Option<(usize, usize)> {
    let transposed = transposed(graph, node)?;
    match graph.constant(node.input(1)?)?.shape() {
        [k, n] => Some(if transposed { (*n, *k) } else { (*k, *n) }),
        _ => None,
    }
}

/// The weights of a matrix product.
pub(super) fn matrix(graph: &Graph, node: &Node) -> Option<Matrix> {
    let (inputs, outputs) = sizes(graph, node)?;
    let values = graph.constant(node.input(1)?)?.to_f64s();
    let values = match transposed(graph, node)? {
        false => values,
        true => (0..values.len()).map(|i| values[i % outputs * inputs + i / outputs]).collect(),
    };
    Some(Matrix { inputs, outputs, values })
}

/// What writes a value, where its channels (its last axis) can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// A normalization with a gain, and a bias if it has one, for every channel.
    Norm(NodeId),
    /// A matrix product, and the node behind it that adds a constant for every channel.
    Dense {
        /// The product.
        layer: NodeId,
        /// The addition.
        bias: Option<NodeId>,
    },
}

/// The place of a constant of `channels` values along the last axis among the inputs of an addition.
pub(super) fn constant_place(graph: &Graph, node: &Node, channels: usize) -> Option<usize> {
    node.inputs.iter().position(|id| {
        id.and_then(|id| graph.constant(id))
            .is_some_and(|c| c.element() == Element::F32 && c.len() == channels && c.shape().last() == Some(&channels))
    })
}

/// Where the bias of a matrix product is, a constant for every output channel: node and input.
pub(super) fn bias_place(graph: &Graph, links: &Links, layer: NodeId) -> Option<(NodeId, usize)> {
    let node = &graph.nodes[layer];
    let (_, outputs) = sizes(graph, node)?;
    if node.input(2).and_then(|id| graph.constant(id)).is_some_and(|b| b.len() == outputs) {
        return Some((layer, 2));
    }
    let y = node.outputs[0];
    let at = *links.consumers(y).first().filter(|_| links.read_once(graph, y))?;
    let sum = &graph.nodes[at];
    sum.op.is::<ops::Add>().then(|| Some((at, constant_place(graph, sum, outputs)?)))?
}

/// The node that writes `value`, if it is one whose channels can be changed.
pub(super) fn writer(graph: &Graph, links: &Links, value: ValueId, channels: usize) -> Option<Writer> {
    let at = links.producer(value)?;
    let node = &graph.nodes[at];
    if sizes(graph, node).is_some() {
        return Some(Writer::Dense { layer: at, bias: None });
    }
    if node.op.is::<ops::Add>() {
        let other = node.input(1 - constant_place(graph, node, channels)?)?;
        let layer = links.producer(other).filter(|_| links.read_once(graph, other))?;
        let (_, outputs) = sizes(graph, &graph.nodes[layer])?;
        return (outputs == channels).then_some(Writer::Dense { layer, bias: Some(at) });
    }
    is_norm(graph, node, channels).then_some(Writer::Norm(at))
}

/// Whether a node normalizes the last axis, with constant gain and bias.
pub(super) fn is_norm(graph: &Graph, node: &Node, channels: usize) -> bool {
    let rank = node.input(0).and_then(|x| graph.ty(x).rank());
    let axis = if let Some(op) = node.op.downcast::<ops::LayerNormalization>() {
        op.axis
    } else if let Some(op) = node.op.downcast::<ops::RmsNormalization>() {
        op.axis
    } else {
        return false;
    };
    let fits = |i| node.input(i).and_then(|id| graph.constant(id)).is_some_and(|c| c.len() == channels);
    let last = axis == -1 || rank.is_some_and(|r| axis == r as i64 - 1);
    last && fits(1) && (node.input(2).is_none() || fits(2))
}

/// For the result of attention with its heads put together, the value that holds the heads' values side by side, and channels per
/// head: what is done to the channels of that value within a head is done to those of the result.
pub(super) fn attended(graph: &Graph, links: &Links, value: ValueId) -> Option<(ValueId, usize)> {
    let swaps = |t: &ops::Transpose| t.perm == [0, 2, 1, 3];
    let dims = |id: ValueId| -> Option<Vec<_>> { graph.ty(id).shape.as_ref().map(|s| s.to_vec()) };
    let joined = &graph.nodes[links.producer(value)?];
    joined.op.downcast::<ops::Reshape>()?;
    let (t, swap) = links.inner::<ops::Transpose>(graph, joined.input(0)?)?;
    let (_, product) = links.inner::<ops::MatMul>(graph, swap.input(0)?).filter(|_| swaps(t))?;
    let (t, swap) = links.inner::<ops::Transpose>(graph, product.input(1)?)?;
    let (_, split) = links.inner::<ops::Reshape>(graph, swap.input(0)?).filter(|_| swaps(t))?;
    let source = split.input(0).filter(|v| links.read_once(graph, *v))?;
    let (heads, depth) = match dims(split.outputs[0])?[..] {
        [_, _, ref h, ref d] => (h.known()?, d.known()?),
        _ => return None,
    };
    // Heads side by side before and after, and every token a row of both.
    let whole = |id| dims(id).is_some_and(|d| d.len() == 3 && d[2].known() == Some(heads * depth));
    (whole(source) && whole(value)).then_some((source, depth))
}

/// Replaces constant input `input` of a node.
fn replace(graph: &mut Graph, node: NodeId, input: usize, tensor: Tensor, what: &str) {
    let name = format!("{}.{what}{input}", graph.nodes[node].name);
    let id = graph.add_constant(&name, tensor);
    graph.nodes[node].inputs[input] = Some(id);
}

/// Maps a constant input of a node; nothing if it is absent.
pub(super) fn map_constant(
    graph: &mut Graph,
    node: NodeId,
    input: usize,
    map: &dyn Fn(&mut [f64]),
) -> Result<(), LightenError> {
    let Some(old) = graph.nodes[node].input(input).and_then(|id| graph.constant(id)) else { return Ok(()) };
    let (shape, mut values) = (old.shape().to_vec(), old.to_f64s());
    map(&mut values);
    let tensor = Tensor::new(&shape, values.into_iter().map(|v| v as f32).collect()).map_err(OpError::from)?;
    replace(graph, node, input, tensor, "evened");
    Ok(())
}

/// Replaces the weights of a matrix product.
fn replace_matrix(graph: &mut Graph, node: NodeId, matrix: &Matrix) -> Result<(), LightenError> {
    let (n, k) = (matrix.outputs, matrix.inputs);
    let at = |i: usize| matrix.values[i] as f32;
    let tensor = match transposed(graph, &graph.nodes[node]) {
        Some(true) => Tensor::new(&[n, k], (0..n * k).map(|i| at(i % k * n + i / k)).collect()),
        _ => Tensor::new(&[k, n], (0..n * k).map(at).collect()),
    };
    replace(graph, node, 1, tensor.map_err(OpError::from)?, "evened");
    Ok(())
}

/// Maps the channels that a writer gives, linearly: every row of its weights, and its bias; for normalizations `map` must change
/// each channel by itself.
pub(super) fn map_outputs(graph: &mut Graph, writer: Writer, map: &dyn Fn(&mut [f64])) -> Result<(), LightenError> {
    match writer {
        Writer::Norm(node) => {
            map_constant(graph, node, 1, map)?;
            map_constant(graph, node, 2, map)
        }
        Writer::Dense { layer, bias } => {
            if let Some(mut weights) = matrix(graph, &graph.nodes[layer]) {
                weights.values.chunks_exact_mut(weights.outputs).for_each(map);
                let channels = weights.outputs;
                replace_matrix(graph, layer, &weights)?;
                map_constant(graph, layer, 2, map)?;
                let place = bias.and_then(|b| Some((b, constant_place(graph, &graph.nodes[b], channels)?)));
                if let Some((b, place)) = place {
                    map_constant(graph, b, place, map)?;
                }
            }
            Ok(())
        }
    }
}

/// Maps the weights that each output channel of a matrix product has for its input channels.
pub(super) fn map_inputs(graph: &mut Graph, node: NodeId, map: &dyn Fn(&mut [f64])) -> Result<(), LightenError> {
    let Some(mut weights) = matrix(graph, &graph.nodes[node]) else { return Ok(()) };
    for j in 0..weights.outputs {
        let mut column = weights.column(j);
        map(&mut column);
        for (i, v) in column.into_iter().enumerate() {
            weights.values[i * weights.outputs + j] = v;
        }
    }
    replace_matrix(graph, node, &weights)
}

/// Puts nodes that were appended before the first node that reads what they give.
pub(super) fn sort(graph: &mut Graph) {
    fn visit(i: NodeId, graph: &Graph, producers: &[Option<NodeId>], seen: &mut [bool], order: &mut Vec<NodeId>) {
        if std::mem::replace(&mut seen[i], true) {
            return;
        }
        for id in graph.nodes[i].inputs.iter().flatten() {
            if let Some(before) = producers[id.0 as usize] {
                visit(before, graph, producers, seen, order);
            }
        }
        order.push(i);
    }
    let (producers, mut order) = (graph.producers(), vec![]);
    let mut seen = vec![false; graph.nodes.len()];
    (0..graph.nodes.len()).for_each(|i| visit(i, graph, &producers, &mut seen, &mut order));
    graph.nodes = order.into_iter().map(|i| graph.nodes[i].clone()).collect();
}

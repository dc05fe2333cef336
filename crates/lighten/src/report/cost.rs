//! Parameters, operations and bytes of a network of any types.

use qing_graph::{Dim, Element, Graph, Node, QuantRule, Tensor, Type, infer};

use super::{Layer, Totals};

/// Costs of every layer with weights, for one sample; `sample` gives the shapes of inputs that are not known. Shapes that
/// stay unknown count nothing.
pub fn layers(graph: &Graph, sample: Option<&[Tensor]>) -> Vec<Layer> {
    let graph = bound(graph, sample);
    graph.nodes.iter().filter_map(|node| layer(&graph, node)).collect()
}

/// Sums over a network, for one sample.
pub fn totals(graph: &Graph, sample: Option<&[Tensor]>) -> Totals {
    let graph = bound(graph, sample);
    let mut sum = Totals::default();
    for node in &graph.nodes {
        match layer(&graph, node) {
            Some(layer) => {
                sum.parameters += layer.parameters;
                sum.weight_bytes += layer.weight_bytes;
                sum.macs += layer.macs;
                sum.bit_operations += layer.bit_operations;
            }
            None => {
                let macs = macs(&graph, node);
                sum.macs += macs;
                let bits = |i| node.input(i).map_or(32, |id| bits_of(graph.ty(id)));
                sum.bit_operations += macs * bits(0) * bits(1);
            }
        }
    }
    sum
}

/// The graph for one sample: the leading dimension of inputs is 1 where it is open, others as in `sample`.
pub(crate) fn bound(graph: &Graph, sample: Option<&[Tensor]>) -> Graph {
    let shapes: Vec<Vec<usize>> = graph
        .inputs
        .iter()
        .enumerate()
        .map(|(i, id)| {
            let dims = graph.ty(*id).shape.clone().unwrap_or_else(|| {
                sample.and_then(|s| s.get(i)).map_or(vec![], |t| t.shape().iter().map(|_| Dim::Unknown).collect())
            });
            let from_sample = |axis: usize| sample.and_then(|s| s.get(i)?.shape().get(axis).copied());
            dims.iter()
                .enumerate()
                .map(|(axis, d)| match d.known() {
                    Some(n) => n,
                    None if axis == 0 => 1,
                    None => from_sample(axis).unwrap_or(1),
                })
                .collect()
        })
        .collect();
    infer::specialize(graph, &shapes).unwrap_or_else(|_| graph.clone())
}

/// Multiply–accumulates of every node of a graph whose shapes are known.
pub(crate) fn macs_by_node(graph: &Graph) -> Vec<u64> {
    graph.nodes.iter().map(|node| macs(graph, node)).collect()
}

fn macs(graph: &Graph, node: &Node) -> u64 {
    infer::with_context(graph, node, |cx| node.op.macs(cx))
}

fn bits_of(ty: &Type) -> u64 {
    ty.element.bits() as u64
}

fn layer(graph: &Graph, node: &Node) -> Option<Layer> {
    let QuantRule::Dot { weight, bias, .. } = node.op.quantization() else { return None };
    let w = node.input(weight)?;
    let weights = graph.constant(w)?;
    let b = node.input(bias).and_then(|id| graph.constant(id));
    let x = graph.ty(node.input(0)?);
    let macs = macs(graph, node);
    let (weight_bits, activation_bits) = (bits_of(graph.ty(w)), bits_of(x));
    Some(Layer {
        name: node.name.clone(),
        op: node.op.name().into(),
        output: graph.ty(node.outputs[0]).known_shape().unwrap_or_default(),
        weight_bits: weight_bits as u8,
        activation_bits: activation_bits as u8,
        parameters: (weights.len() + b.map_or(0, Tensor::len)) as u64,
        weight_bytes: packed_bytes(weights) + b.map_or(0.0, packed_bytes),
        macs,
        bit_operations: macs * weight_bits * activation_bits,
        sqnr_db: None,
    })
}

/// Bytes at the width the values need: two-bit weights that use three codes count log2 3 bits.
fn packed_bytes(t: &Tensor) -> f64 {
    let ternary = t.element() == Element::Bits { width: 2, signed: true } && t.to_ints().iter().all(|v| *v >= -1);
    let bits = if ternary { 3f64.log2() } else { t.element().bits() as f64 };
    t.len() as f64 * bits / 8.0
}

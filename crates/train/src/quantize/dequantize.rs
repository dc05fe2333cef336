//! The float network that a quantized one stands for, to be trained again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use qing_graph::{Element, Granularity, Graph, Node, QuantRule, Tensor, Type, ValueId, ops};

use crate::TrainError;

/// How a quantized network stores its values, by the names and widths they have in the network of reals that stands for it. Where a name is of
/// several values that differ, nothing is known of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    activations: BTreeMap<(String, u8), Option<(Element, f32, i32)>>,
    weights: BTreeMap<(String, u8), Option<Vec<f32>>>,
}

impl Known {
    /// Element, scale and zero point of an activation of so many bits.
    pub(super) fn activation(&self, name: &str, bits: u8) -> Option<(Element, f32, i32)> {
        self.activations.get(&(name.to_owned(), bits)).copied().flatten()
    }

    /// A scale for each output channel of weights of so many bits.
    pub(super) fn weights(&self, name: &str, bits: u8) -> Option<&[f32]> {
        self.weights.get(&(name.to_owned(), bits)).and_then(Option::as_deref)
    }

    fn see_activation(&mut self, name: &str, ty: &Type) {
        let Some((scale, zero)) = ty.quant.as_ref().and_then(|q| q.as_per_tensor()) else { return };
        let found = Some((ty.element, scale, zero));
        let kept = self.activations.entry((name.to_owned(), ty.element.bits() as u8)).or_insert(found);
        *kept = kept.filter(|kept| Some(*kept) == found);
    }

    fn see_weights(&mut self, name: &str, ty: &Type, channels: usize, axis: usize) {
        let Some(quant) = &ty.quant else { return };
        let own = matches!(quant.granularity(), Granularity::Tensor) || quant.granularity() == Granularity::Axis(axis);
        let found = own.then(|| (0..channels).map(|c| quant.scale(c)).collect::<Vec<f32>>());
        let kept = self.weights.entry((name.to_owned(), ty.element.bits() as u8)).or_insert_with(|| found.clone());
        if *kept != found {
            *kept = None;
        }
    }
}

/// A network of reals that computes what a typed one does but for rounding: constants are what their integers stand for,
/// roundings are left out. A range that begins at zero becomes the ReLU that it is. With it comes what is known of the quantizations.
///
/// # Errors
/// If the network takes integers, or an op does not work on reals.
pub(super) fn float(typed: &Graph) -> Result<(Graph, Known), TrainError> {
    let mut kept = Known::default();
    let mut graph = Graph::new(&typed.name);
    graph.metadata.clone_from(&typed.metadata);
    let mut known: HashMap<ValueId, ValueId> = HashMap::new();
    for id in &typed.inputs {
        let value = typed.value(*id);
        if value.ty.quant.is_some() {
            return Err(TrainError::invalid(format!(
                "input `{}` is {}: a network that takes integers cannot be trained; start from one that takes real numbers",
                value.name, value.ty
            )));
        }
        known.insert(*id, graph.add_input(&value.name, value.ty.clone()));
    }
    for node in &typed.nodes {
        let read = |id: ValueId| {
            let name = &typed.value(id).name;
            known
                .get(&id)
                .copied()
                .ok_or_else(|| TrainError::invalid(format!("`{name}` is read before it is computed")))
        };
        if node.op.is::<ops::Quantize>() || node.op.is::<ops::Dequantize>() {
            let x = node.input(0).ok_or_else(|| TrainError::invalid(format!("node `{}` reads nothing", node.name)))?;
            let x = read(x)?;
            kept.see_activation(&graph.value(x).name, typed.ty(node.outputs[0]));
            known.insert(node.outputs[0], x);
            continue;
        }
        let mut inputs = vec![];
        for (i, id) in node.inputs.iter().enumerate() {
            inputs.push(match id {
                Some(id) if typed.constant(*id).is_some() => {
                    let tensor = real_constant(typed, node, i, *id)?;
                    if let QuantRule::Dot { weight, axis, .. } = node.op.quantization()
                        && i == weight
                        && let Some(channels) = tensor.shape().get(axis)
                    {
                        kept.see_weights(&typed.value(*id).name, typed.ty(*id), *channels, axis);
                    }
                    Some(graph.add_constant(&typed.value(*id).name, tensor))
                }
                Some(id) => Some(read(*id)?),
                None => None,
            });
        }
        let mut outputs = graph.add_node(node.op.clone(), &node.name, &inputs, node.outputs.len())?;
        if from_zero(typed, node) {
            let name = format!("{}.relu", node.name);
            outputs[0] = graph.add_node(Arc::new(ops::Relu {}), &name, &[Some(outputs[0])], 1)?[0];
        }
        for (old, new) in node.outputs.iter().zip(outputs) {
            kept.see_activation(&graph.value(new).name, typed.ty(*old));
            known.insert(*old, new);
        }
    }
    for id in &typed.outputs {
        let name = &typed.value(*id).name;
        let output = known.get(id).copied();
        graph.mark_output(output.ok_or_else(|| TrainError::invalid(format!("output `{name}` is never computed")))?);
    }
    Ok((graph, kept))
}

/// What a constant that input `i` of a node reads stands for.
fn real_constant(graph: &Graph, node: &Node, i: usize, id: ValueId) -> Result<Tensor, TrainError> {
    let (ty, Some(tensor)) = (graph.ty(id), graph.constant(id)) else {
        return Err(TrainError::invalid(format!("`{}` is not constant", graph.value(id).name)));
    };
    if let Some(quant) = &ty.quant {
        let shape = tensor.shape();
        let real = |(at, q): (usize, i32)| {
            let slice = quant.slice_of(shape, at);
            quant.scale(slice) * (q - quant.zero(slice)) as f32
        };
        return Ok(Tensor::new(shape, tensor.to_ints().into_iter().enumerate().map(real).collect::<Vec<f32>>())?);
    }
    // A bias is in the unit of the sums.
    if let QuantRule::Dot { weight, bias, .. } = node.op.quantization()
        && i == bias
        && tensor.element() == Element::I32
        && let Some(x) = node.input(0).and_then(|x| graph.ty(x).quant.as_deref()?.as_per_tensor())
        && let Some(w) = node.input(weight).and_then(|w| graph.ty(w).quant.as_ref())
    {
        let real = |(c, b): (usize, i32)| b as f32 * (x.0 * w.scale(c));
        let values = tensor.to_ints().into_iter().enumerate().map(real).collect::<Vec<f32>>();
        return Ok(Tensor::new(tensor.shape(), values)?);
    }
    Ok(tensor.clone())
}

/// Whether a node gives sums whose type holds nothing below zero.
fn from_zero(graph: &Graph, node: &Node) -> bool {
    let ty = graph.ty(node.outputs[0]);
    let sums = matches!(node.op.quantization(), QuantRule::Dot { .. } | QuantRule::Add);
    let zero = ty.quant.as_ref().and_then(|q| q.as_per_tensor()).map(|(_, zero)| zero);
    sums && zero.is_some() && zero == ty.range().map(|(lo, _)| lo)
}

//! The typed graph: every value of the float graph in the form its readers want.

use std::collections::BTreeMap;

use qing_graph::{Element, Graph, NodeId, OpError, Quant, QuantRule, Tensor, Type, ValueId, ops};

use super::{
    decide::{Decision, Mode, activations},
    dense::{Links, constant_place},
    layer::takes_bias,
};
use crate::LightenError;

/// Quantized parameters of a layer.
#[derive(Debug, Clone)]
pub(super) struct LayerWeights {
    /// Type of the weights.
    pub ty: Type,
    /// Their integers.
    pub weights: Tensor,
    /// Bias in real numbers, after correction; absent if there is none.
    pub bias: Option<Vec<f64>>,
    /// The mean of what every weight is multiplied by, of the shape of the weights or, where all channels read the same, 1 along
    /// their axis; absent if the bias was not corrected.
    pub means: Option<Tensor>,
}

/// All numbers of a quantized network.
#[derive(Debug, Clone, Default)]
pub(super) struct Chosen {
    /// The quantization of every leading value.
    pub types: BTreeMap<ValueId, (Element, Quant)>,
    /// For dots that read their input in fewer bits than it is stored in, in which.
    pub narrow: BTreeMap<NodeId, (Element, Quant)>,
    /// The parameters of every dot.
    pub layers: BTreeMap<NodeId, LayerWeights>,
}

impl Chosen {
    /// The quantization in which a dot reads its input.
    pub(super) fn read(&self, graph: &Graph, decision: &Decision, dot: NodeId) -> Option<&(Element, Quant)> {
        let x = graph.nodes[dot].input(0).map(|x| decision.leader(x))?;
        self.narrow.get(&dot).or_else(|| self.types.get(&x))
    }
}

/// A typed graph, and which of its values stands for which of the float graph.
#[derive(Debug)]
pub(crate) struct Assigned {
    /// The typed graph.
    pub graph: Graph,
    /// For values of the float graph that exist quantized, the typed value.
    pub quantized: BTreeMap<ValueId, ValueId>,
    /// For values of the float graph that exist in floating point, the value.
    pub floats: BTreeMap<ValueId, ValueId>,
}

/// Largest bias in units of the accumulator: leaves room for the products.
const LARGEST_BIAS: f64 = (1u32 << 30) as f64;

/// Builds the typed graph.
///
/// # Errors
/// If the typed graph would be malformed.
pub(super) fn assign(graph: &Graph, decision: &Decision, chosen: &Chosen) -> Result<Assigned, LightenError> {
    let mut builder = Builder {
        from: graph,
        decision,
        chosen,
        narrowed: BTreeMap::new(),
        links: Links::new(graph),
        sums: BTreeMap::new(),
        made: Assigned { graph: Graph::new(&graph.name), quantized: BTreeMap::new(), floats: BTreeMap::new() },
    };
    builder.made.graph.metadata.clone_from(&graph.metadata);
    for id in &graph.inputs {
        let value = graph.value(*id);
        let new = builder.made.graph.add_input(&value.name, value.ty.clone());
        builder.made.floats.insert(*id, new);
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        match &decision.modes[i] {
            Mode::Float(_) => builder.float_node(i, node)?,
            Mode::Integer => builder.integer_node(i, node, false)?,
            Mode::RealDot => builder.integer_node(i, node, true)?,
        }
    }
    for id in &graph.outputs {
        let new = builder.float(*id)?;
        builder.made.graph.mark_output(new);
        let name = graph.value(*id).name.clone();
        if builder.made.graph.value(new).name != name {
            if let Some(other) = builder.made.graph.find(&name) {
                builder.made.graph.rename(other, &format!("{name}.quantized"));
            }
            builder.made.graph.rename(new, &name);
        }
    }
    Ok(builder.made)
}

struct Builder<'a> {
    from: &'a Graph,
    decision: &'a Decision,
    chosen: &'a Chosen,
    /// Values rescaled for layers that read them in fewer bits; those of one scale are shared.
    narrowed: BTreeMap<(ValueId, Element, u32), ValueId>,
    links: Links,
    /// For additions after matrix products, the constant among their inputs with what the product's bias adds.
    sums: BTreeMap<NodeId, (usize, Tensor)>,
    made: Assigned,
}

impl Builder<'_> {
    /// The value in floating point, dequantized if need be; constants as they are.
    fn float(&mut self, id: ValueId) -> Result<ValueId, LightenError> {
        if let Some(new) = self.made.floats.get(&id) {
            return Ok(*new);
        }
        let value = self.from.value(id);
        let new = if let Some(constant) = &value.constant {
            self.made.graph.add_typed_constant(&value.name, value.ty.clone(), constant.clone())
        } else {
            let q = *self.made.quantized.get(&id).ok_or_else(|| undefined(&value.name))?;
            let name = format!("{}.dequantized", value.name);
            self.made.graph.add_node(std::sync::Arc::new(ops::Dequantize {}), &name, &[Some(q)], 1)?[0]
        };
        self.made.floats.insert(id, new);
        Ok(new)
    }

    /// The type of the quantized form of a value.
    fn quantized_type(&self, id: ValueId) -> Result<Type, LightenError> {
        let (element, quant) =
            self.chosen.types.get(&self.decision.leader(id)).ok_or_else(|| {
                LightenError::Calibration(format!("`{}` has no statistics", self.from.value(id).name))
            })?;
        Ok(self.from.ty(id).clone().quantized(*element, quant.clone()))
    }

    /// The value quantized.
    fn quantized(&mut self, id: ValueId) -> Result<ValueId, LightenError> {
        if let Some(new) = self.made.quantized.get(&id) {
            return Ok(*new);
        }
        let name = &self.from.value(id).name;
        let x = *self.made.floats.get(&id).ok_or_else(|| undefined(name))?;
        let ty = self.quantized_type(id)?;
        let op = std::sync::Arc::new(ops::Quantize {});
        let new = self.made.graph.add_typed_node(op, &format!("{name}.quantized"), &[Some(x)], vec![ty])?[0];
        self.made.quantized.insert(id, new);
        Ok(new)
    }

    /// The value quantized, rescaled to fewer bits.
    fn narrowed(&mut self, id: ValueId, (element, quant): &(Element, Quant)) -> Result<ValueId, LightenError> {
        let key = (id, *element, quant.scale(0).to_bits());
        if let Some(new) = self.narrowed.get(&key) {
            return Ok(*new);
        }
        let x = self.quantized(id)?;
        let ty = self.from.ty(id).clone().quantized(*element, quant.clone());
        let name = format!("{}.q{}", self.from.value(id).name, element.bits());
        let op = std::sync::Arc::new(ops::Quantize {});
        let new = self.made.graph.add_typed_node(op, &name, &[Some(x)], vec![ty])?[0];
        self.narrowed.insert(key, new);
        Ok(new)
    }

    fn float_node(&mut self, index: NodeId, node: &qing_graph::Node) -> Result<(), LightenError> {
        let mut inputs =
            node.inputs.iter().map(|id| id.map(|id| self.float(id)).transpose()).collect::<Result<Vec<_>, _>>()?;
        if let Some((place, sum)) = self.sums.remove(&index) {
            inputs[place] = Some(self.made.graph.add_constant(&format!("{}.bias", node.name), sum));
        }
        let types = node.outputs.iter().map(|id| self.from.ty(*id).clone()).collect();
        let outputs = self.made.graph.add_typed_node(node.op.clone(), &node.name, &inputs, types)?;
        self.adopt(node, &outputs, false);
        Ok(())
    }

    fn integer_node(&mut self, index: NodeId, node: &qing_graph::Node, real: bool) -> Result<(), LightenError> {
        let layer = self.chosen.layers.get(&index);
        let quantized = activations(self.from, node);
        let (mut weight_at, mut bias_at) = (usize::MAX, usize::MAX);
        if let QuantRule::Dot { weight, bias, .. } = node.op.quantization() {
            (weight_at, bias_at) = (weight, bias);
        }
        let mut inputs = vec![];
        for (i, id) in node.inputs.iter().enumerate() {
            inputs.push(match id {
                Some(_) if i == weight_at || i == bias_at => None,
                Some(id) if quantized.contains(id) => Some(match self.chosen.narrow.get(&index) {
                    Some(to) => self.narrowed(*id, to)?,
                    None => self.quantized(*id)?,
                }),
                Some(id) => Some(self.float(*id)?),
                None => None,
            });
        }
        if let (QuantRule::Dot { weight, bias, .. }, Some(layer)) = (node.op.quantization(), layer) {
            let x = inputs[0].ok_or_else(|| undefined(&node.name))?;
            let x_scale = scale_of(self.made.graph.ty(x)).ok_or_else(|| undefined(&node.name))?;
            let name = format!("{}.weight", node.name);
            inputs[weight] = Some(self.made.graph.add_typed_constant(&name, layer.ty.clone(), layer.weights.clone()));
            if let Some(values) = layer.bias.as_ref().filter(|_| takes_bias(node)) {
                let scales = layer.ty.quant.as_ref().map_or(&[1.0][..], |q| q.scales());
                let ints = integer_bias(values, x_scale, scales);
                inputs.resize(inputs.len().max(bias + 1), None);
                let name = format!("{}.bias", node.name);
                inputs[bias] = Some(self.made.graph.add_constant(&name, Tensor::vector(ints)));
            } else if inputs.len() > bias {
                inputs.truncate(bias);
            }
        }
        if let Some(values) = layer.and_then(|l| l.bias.as_ref()).filter(|_| !takes_bias(node)) {
            return self.with_sum(node, &inputs, values);
        }
        let mut types = vec![];
        for id in &node.outputs {
            types.push(if real { self.from.ty(*id).clone() } else { self.quantized_type(*id)? });
        }
        let outputs = self.made.graph.add_typed_node(node.op.clone(), &node.name, &inputs, types)?;
        self.adopt(node, &outputs, !real);
        Ok(())
    }

    /// A matrix product and its bias as a sum of reals: in the sum that follows, if one does.
    fn with_sum(
        &mut self,
        node: &qing_graph::Node,
        inputs: &[Option<ValueId>],
        values: &[f64],
    ) -> Result<(), LightenError> {
        let y = node.outputs[0];
        let ty = self.from.ty(y).clone();
        let product = self.made.graph.add_typed_node(node.op.clone(), &node.name, inputs, vec![ty.clone()])?;
        if self.links.read_once(self.from, y)
            && let Some(at) = self.links.consumers(y).first()
            && matches!(self.decision.modes[*at], Mode::Float(_))
            && self.from.nodes[*at].op.is::<ops::Add>()
            && let Some(place) = constant_place(self.from, &self.from.nodes[*at], values.len())
            && let Some(old) = self.from.nodes[*at].input(place).and_then(|id| self.from.constant(id))
        {
            let sum = old.to_f64s().iter().zip(values).map(|(a, b)| (a + b) as f32).collect();
            let sum = Tensor::new(old.shape(), sum).map_err(OpError::from)?;
            self.sums.insert(*at, (place, sum));
            self.adopt(node, &product, false);
            return Ok(());
        }
        let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        let bias = self.made.graph.add_constant(&format!("{}.bias", node.name), Tensor::vector(values));
        let op = std::sync::Arc::new(ops::Add {});
        let name = format!("{}.biased", node.name);
        let sum = self.made.graph.add_typed_node(op, &name, &[Some(product[0]), Some(bias)], vec![ty])?;
        self.adopt(node, &sum, false);
        Ok(())
    }

    /// Notes what the node defines, under the names the values had.
    fn adopt(&mut self, node: &qing_graph::Node, outputs: &[ValueId], quantized: bool) {
        for (old, new) in node.outputs.iter().zip(outputs) {
            self.made.graph.rename(*new, &self.from.value(*old).name);
            if quantized { &mut self.made.quantized } else { &mut self.made.floats }.insert(*old, *new);
        }
    }
}

fn undefined(name: &str) -> LightenError {
    LightenError::Graph(qing_graph::GraphError::Malformed(format!("`{name}` is read before it is defined")))
}

fn scale_of(ty: &Type) -> Option<f32> {
    Some(ty.quant.as_ref()?.as_per_tensor()?.0)
}

/// Bias in units of `x_scale·w_scale[c]`.
pub(super) fn integer_bias(values: &[f64], x_scale: f32, scales: &[f32]) -> Vec<i32> {
    let scale = |i: usize| f64::from(x_scale) * f64::from(if scales.len() == 1 { scales[0] } else { scales[i] });
    values
        .iter()
        .enumerate()
        .map(|(i, b)| (b / scale(i)).round_ties_even().clamp(-LARGEST_BIAS, LARGEST_BIAS) as i32)
        .collect()
}

/// The smallest weight scale with which a bias fits the accumulator.
pub(super) fn least_scale(bias: f64, x_scale: f32) -> f32 {
    (bias.abs() / (f64::from(x_scale) * LARGEST_BIAS * 0.5)) as f32
}

/// Quantization of weights of shape `shape` with channels at `axis`.
///
/// # Errors
/// If a scale is not a positive finite number.
pub(super) fn weight_type(element: Element, shape: &[usize], axis: usize, scales: Vec<f32>) -> Result<Type, OpError> {
    let quant = match scales[..] {
        [one] if shape[axis] != 1 => Quant::per_tensor(one, 0)?,
        _ => Quant::per_axis(axis, scales)?,
    };
    Ok(Type::new(element, shape.iter().copied()).quantized(element, quant))
}

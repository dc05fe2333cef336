//! A block as a graph of its own: in floating point, on rounded numbers, or in the form in which its numbers are learned.
//!
//! Rounded numbers are floats that stand for integers: what is quantized goes through `LearnedQuantize`, weights are integers
//! times their scale. The typed graph computes the same but for the rounding of float sums.

use std::{collections::HashMap, sync::Arc};

use qing_graph::{Element, Graph, Node, NodeId, Op, Quant, QuantRule, Tensor, Type, ValueId, ops};
use qing_train::{
    TrainError,
    loss::Terms,
    parameters::{Parameter, Role},
};

use super::{
    blocks::Block,
    rounding::{Rounding, STRETCH},
};
use crate::{
    LightenError,
    quantize::{
        assign::Chosen,
        decide::{Decision, Mode, activations},
    },
};

/// The whole network and what was chosen for it.
#[derive(Clone, Copy)]
pub(super) struct Network<'a> {
    /// The float network.
    pub graph: &'a Graph,
    /// Which of its nodes compute on integers.
    pub decision: &'a Decision,
    /// The numbers so far.
    pub chosen: &'a Chosen,
}

/// What the numbers of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Those of the float network.
    Float,
    /// Rounded.
    Rounded,
    /// Learned.
    Learned,
}

/// Whose quantization of a value it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Quantizer {
    /// How the value is stored.
    Stored(ValueId),
    /// How a dot reads it.
    Read(NodeId),
}

/// What is learned of a layer.
#[derive(Debug, Clone)]
pub(super) struct Learned {
    /// Its node.
    pub node: NodeId,
    /// Its roundings, and the parameters of roundings and scales; none if its weights have eight bits or one.
    pub rounding: Option<(Rounding, usize, usize)>,
    /// Its bias: what it was, the unit it is learned in, the parameter.
    pub bias: (Vec<f32>, Vec<f32>, usize),
}

/// A block as a graph.
pub(super) struct Built {
    /// With the block's input as first input, then one for each parameter.
    pub graph: Graph,
    /// Its result.
    pub output: ValueId,
    /// What is learned.
    pub parameters: Vec<Parameter>,
    /// Layers with what of them is learned.
    pub layers: Vec<Learned>,
    /// Learned scales of activations, as factors of what they were.
    pub quantizers: Vec<(Quantizer, usize)>,
}

/// Builds a block for inputs of shape `shape`.
///
/// # Errors
/// If an op refuses these shapes.
pub(super) fn build(network: Network<'_>, block: &Block, shape: &[usize], form: Form) -> Result<Built, LightenError> {
    let mut graph = Graph::new(&network.graph.name);
    let name = &network.graph.value(block.input).name;
    let input = graph.add_input(name, Type::new(Element::F32, shape.iter().copied()));
    let built = Built { graph, output: input, parameters: vec![], layers: vec![], quantizers: vec![] };
    let mut builder = Builder { network, form, built, raw: HashMap::new(), rounded: HashMap::new() };
    builder.raw.insert(block.input, input);
    for i in block.nodes.clone() {
        builder.node(i, &network.graph.nodes[i])?;
    }
    builder.built.output = builder.raw(block.output)?;
    let output = builder.built.output;
    builder.built.graph.mark_output(output);
    Ok(builder.built)
}

struct Builder<'a> {
    network: Network<'a>,
    form: Form,
    built: Built,
    /// Values before they are quantized.
    raw: HashMap<ValueId, ValueId>,
    /// Values as they are stored.
    rounded: HashMap<ValueId, ValueId>,
}

impl Builder<'_> {
    fn add(&mut self, op: Arc<dyn Op>, name: &str, inputs: &[ValueId]) -> Result<ValueId, LightenError> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.built.graph.add_node(op, name, &inputs, 1)?[0])
    }

    fn constant(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<ValueId, LightenError> {
        let tensor = Tensor::new(shape, values).map_err(TrainError::from)?;
        Ok(self.built.graph.add_constant(name, tensor))
    }

    fn parameter(&mut self, name: &str, shape: &[usize], value: Vec<f32>, role: Role) -> (ValueId, usize) {
        let input = self.built.graph.add_input(name, Type::new(Element::F32, shape.iter().copied()));
        self.built.parameters.push(Parameter { name: name.into(), input, shape: shape.to_vec(), value, role });
        (input, self.built.parameters.len() - 1)
    }

    fn raw(&mut self, id: ValueId) -> Result<ValueId, LightenError> {
        if let Some(found) = self.raw.get(&id) {
            return Ok(*found);
        }
        let value = self.network.graph.value(id);
        let constant = value
            .constant
            .clone()
            .ok_or_else(|| LightenError::Option(format!("`{}` is read before it is computed", value.name)))?;
        let new = self.built.graph.add_constant(&value.name, constant);
        self.raw.insert(id, new);
        Ok(new)
    }

    /// Quantized and back. Eight bits change too little to be worth their time while numbers are learned.
    fn quantize(&mut self, x: ValueId, which: Quantizer, to: &(Element, Quant)) -> Result<ValueId, LightenError> {
        let (element, quant) = to;
        let Some((lo, hi)) = element.range() else { return Ok(x) };
        let few = element.bits() < 8;
        if self.form == Form::Learned && !few {
            return Ok(x);
        }
        let (scale, zero) = (quant.scale(0), i64::from(quant.zero(0)));
        let name = format!("{}.{}", self.built.graph.value(x).name, element.bits());
        let mut at = self.constant(&format!("{name}.scale"), &[1], vec![scale])?;
        if self.form == Form::Learned {
            let (factor, slot) = self.parameter(&format!("{name}.step"), &[1], vec![1.0], Role::Scale);
            self.built.quantizers.push((which, slot));
            at = self.add(Arc::new(ops::Mul {}), &format!("{name}.scaled"), &[at, factor])?;
        }
        let count = self.built.graph.ty(x).known_shape().map_or(1, |s| s.iter().product::<usize>());
        let (lo, hi) = (lo - zero, hi - zero);
        let factor = 1.0 / (count.max(1) as f32 * hi.max(1) as f32).sqrt();
        let op = ops::LearnedQuantize { lo, hi, real: true, factor, ..ops::LearnedQuantize::default() };
        self.add(Arc::new(op), &name, &[x, at])
    }

    /// The value as it is stored.
    fn stored(&mut self, id: ValueId) -> Result<ValueId, LightenError> {
        if let Some(found) = self.rounded.get(&id) {
            return Ok(*found);
        }
        let x = self.raw(id)?;
        let leader = self.network.decision.leader(id);
        let new = match self.network.chosen.types.get(&leader) {
            Some(to) if self.form != Form::Float => self.quantize(x, Quantizer::Stored(leader), to)?,
            _ => x,
        };
        self.rounded.insert(id, new);
        Ok(new)
    }

    /// What a node in floating point reads.
    fn float(&mut self, id: ValueId) -> Result<ValueId, LightenError> {
        let network = self.network;
        let integer = network
            .graph
            .producers()
            .get(id.0 as usize)
            .copied()
            .flatten()
            .is_some_and(|i| network.decision.modes[i] == Mode::Integer);
        if integer && self.form != Form::Float { self.stored(id) } else { self.raw(id) }
    }

    fn node(&mut self, index: NodeId, node: &Node) -> Result<(), LightenError> {
        let network = self.network;
        let mode = &network.decision.modes[index];
        if self.form == Form::Float || matches!(mode, Mode::Float(_)) {
            let inputs =
                node.inputs.iter().map(|id| id.map(|id| self.float(id)).transpose()).collect::<Result<Vec<_>, _>>()?;
            let made = self.built.graph.add_node(node.op.clone(), &node.name, &inputs, node.outputs.len())?;
            self.raw.extend(node.outputs.iter().copied().zip(made));
            return Ok(());
        }
        if matches!(node.op.quantization(), QuantRule::Dot { .. }) {
            return self.dot(index, node);
        }
        let quantized = activations(network.graph, node);
        let mut inputs = vec![];
        for id in &node.inputs {
            inputs.push(match id {
                // What is fused computes before anything is rounded.
                Some(id) if quantized.contains(id) && !network.decision.fused(index) => Some(self.stored(*id)?),
                Some(id) if quantized.contains(id) => Some(self.raw(*id)?),
                Some(id) => Some(self.float(*id)?),
                None => None,
            });
        }
        let made = self.built.graph.add_node(node.op.clone(), &node.name, &inputs, node.outputs.len())?;
        for (old, new) in node.outputs.iter().zip(made) {
            self.raw.insert(*old, new);
            if node.op.quantization() == QuantRule::Movement {
                self.rounded.insert(*old, new);
            }
        }
        Ok(())
    }

    fn dot(&mut self, index: NodeId, node: &Node) -> Result<(), LightenError> {
        let network = self.network;
        let QuantRule::Dot { weight, bias, axis } = node.op.quantization() else { return Ok(()) };
        let missing = || LightenError::Option(format!("`{}` has no quantized weights", node.name));
        let layer = network.chosen.layers.get(&index).ok_or_else(missing)?;
        let (Some(x), Some(w)) = (node.input(0), node.input(weight)) else { return Err(missing()) };
        let float = network.graph.constant(w).ok_or_else(missing)?;
        let shape = float.shape().to_vec();
        let mut value = self.stored(x)?;
        if let Some(to) = network.chosen.narrow.get(&index) {
            value = self.quantize(value, Quantizer::Read(index), to)?;
        }
        let rounding = Rounding::new(float, layer, axis)?;
        let soft = self.form == Form::Learned && (2..8).contains(&layer.ty.element.bits());
        // Learned from where the float layer is, where roundings begin as its weights; else from what was corrected.
        let first = match soft && layer.means.is_none() {
            true => node.input(bias).and_then(|id| network.graph.constant(id)).map(Tensor::to_f32s),
            false => layer.bias.as_ref().map(|b| b.iter().map(|b| *b as f32).collect()),
        };
        let (weights, slots) = match soft {
            true => self.soft_weights(&node.name, &shape, &rounding)?,
            false => (self.constant(&format!("{}.weight", node.name), &shape, rounding.reals())?, None),
        };
        let (x_scale, levels) = network
            .chosen
            .read(network.graph, network.decision, index)
            .map_or((1.0, 1.0), |(e, q)| (q.scale(0), e.range().map_or(1.0, |(lo, hi)| (hi - lo) as f32)));
        let bias = if self.form == Form::Learned {
            let width = shape.iter().product::<usize>() as f32 / shape[axis].max(1) as f32;
            let unit =
                (0..shape[axis]).map(|c| rounding.scale(c) * x_scale * levels * width.sqrt() * BIAS_STEPS).collect();
            let first = first.unwrap_or_else(|| vec![0.0; shape[axis]]);
            let (mut value, bias) = self.soft_bias(&node.name, first, unit)?;
            if let (true, Some(means)) = (soft, &layer.means) {
                value = self.centred(&node.name, value, weights, &rounding, means, axis)?;
            }
            let rounding = slots.map(|(round, scale)| (rounding, round, scale));
            self.built.layers.push(Learned { node: index, rounding, bias });
            Some(value)
        } else {
            let name = format!("{}.bias", node.name);
            layer
                .bias
                .as_ref()
                .map(|b| self.constant(&name, &[b.len()], rounding.whole_bias(b, x_scale)))
                .transpose()?
        };
        // A plain matrix product takes its bias as a sum.
        let (inside, after) = if node.op.is::<ops::MatMul>() { (None, bias) } else { (bias, None) };
        let inputs: Vec<ValueId> = [value, weights].into_iter().chain(inside).collect();
        let mut y = self.add(node.op.clone(), &node.name, &inputs)?;
        if let Some(bias) = after {
            y = self.add(Arc::new(ops::Add {}), &format!("{}.biased", node.name), &[y, bias])?;
        }
        self.raw.insert(node.outputs[0], y);
        Ok(())
    }

    /// Weights whose roundings and scales are parameters, and which.
    fn soft_weights(
        &mut self,
        name: &str,
        shape: &[usize],
        rounding: &Rounding,
    ) -> Result<(ValueId, Option<(usize, usize)>), LightenError> {
        let logits = rounding.logits.clone();
        let (logits, at) = self.parameter(&format!("{name}.rounding"), shape, logits, Role::Weight);
        let along = rounding.scale_shape(shape);
        let ones = vec![1.0; rounding.scales.len()];
        let (factor, scale_at) = self.parameter(&format!("{name}.scale"), &along, ones, Role::Scale);
        let base = self.constant(&format!("{name}.floor"), shape, rounding.base.clone())?;
        let scale = self.constant(&format!("{name}.scale0"), &along, rounding.scales.clone())?;
        let mut t = Terms::new(&mut self.built.graph, name);
        let (zero, one) = (t.number(0.0), t.number(1.0));
        let h = t.sigmoid(logits)?;
        let h = t.times(h, STRETCH)?;
        let h = t.plus(h, (1.0 - STRETCH) / 2.0)?;
        let h = t.node(ops::Clip {}, &[h, zero, one])?;
        let integers = t.add(base, h)?;
        let scale = t.mul(scale, factor)?;
        let weights = t.mul(integers, scale)?;
        Ok((weights, Some((at, scale_at))))
    }

    /// A bias that makes up for what the weights that are learned give more, on average, than those so far.
    fn centred(
        &mut self,
        name: &str,
        bias: ValueId,
        weights: ValueId,
        rounding: &Rounding,
        means: &Tensor,
        axis: usize,
    ) -> Result<ValueId, LightenError> {
        let shape = self.built.graph.ty(weights).known_shape().unwrap_or_default();
        let first = self.constant(&format!("{name}.first"), &shape, rounding.reals())?;
        let means = self.built.graph.add_constant(&format!("{name}.means"), means.clone());
        let mut t = Terms::new(&mut self.built.graph, name);
        let moved = t.sub(weights, first)?;
        let moved = t.mul(moved, means)?;
        let others: Vec<i64> = (0..shape.len()).filter(|d| *d != axis).map(|d| d as i64).collect();
        let others = t.integers(&others);
        let drift = t.node(ops::ReduceSum { keepdims: false, ..ops::ReduceSum::default() }, &[moved, others])?;
        Ok(t.sub(bias, drift)?)
    }

    /// A bias that is learned in units of its own, and what [`Learned`] keeps of it.
    fn soft_bias(
        &mut self,
        name: &str,
        first: Vec<f32>,
        unit: Vec<f32>,
    ) -> Result<(ValueId, (Vec<f32>, Vec<f32>, usize)), LightenError> {
        let count = [first.len()];
        let start = self.constant(&format!("{name}.bias0"), &count, first.clone())?;
        let steps = self.constant(&format!("{name}.bias.unit"), &count, unit.clone())?;
        let (shift, at) = self.parameter(&format!("{name}.bias"), &count, vec![0.0; first.len()], Role::Bias);
        let mut t = Terms::new(&mut self.built.graph, name);
        let shift = t.mul(shift, steps)?;
        Ok((t.add(start, shift)?, (first, unit, at)))
    }
}

/// A bias is learned in such shares of what rounding the weights by a whole step would do to the largest inputs.
const BIAS_STEPS: f32 = 0.03;

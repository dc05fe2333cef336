//! The training graph that computes what the integer network does, to the bit: normalization is folded, biases are whole
//! sums, every rounding is that of the arithmetic. It serves the last epochs, and as the proof that training sees the numbers
//! of the engine.
//!
//! Values are integers in f32. Trained are the weights, the scale of each channel and its bias; scales of activations stay.

use std::{collections::HashMap, sync::Arc};

use qing_graph::{Element, Graph, Node, NodeId, Op, QuantRule, Tensor, Type, ValueId, arithmetic, ops};

use super::{
    Config,
    build::{TWO_LEVELS, along_channels, learned},
    fold::{Folded, Layer, whole_bias},
    outline::{Dot, Kind, Outline, is_activation},
    scales::weight_range,
};
use crate::{
    TrainError,
    parameters::{Parameter, Role, Values},
};

/// Where the numbers of a dot are among the parameters.
#[derive(Debug, Clone)]
pub(super) struct DotSlots {
    weight: usize,
    /// A scale for each output channel, that of the typed weights.
    pub scale: usize,
    bias: Option<usize>,
    /// What the latent weights are divided by.
    steps: Vec<f32>,
}

/// A settled training graph.
pub(super) struct Settled {
    pub graph: Graph,
    pub parameters: Vec<Parameter>,
    pub slots: HashMap<NodeId, DotSlots>,
}

/// Builds it of folded numbers; `shapes` is the float network at its batch.
///
/// # Errors
/// If an op has no exact form in floating point.
pub(super) fn settle(
    shapes: &Graph,
    outline: &Outline,
    config: &Config,
    folded: &Folded,
) -> Result<Settled, TrainError> {
    let mut graph = Graph::new(&shapes.name);
    graph.metadata.clone_from(&shapes.metadata);
    let one = graph.add_constant("one", Tensor::vector(vec![1f32]));
    let settled = Settled { graph, parameters: vec![], slots: HashMap::new() };
    let mut builder = Builder {
        from: shapes,
        outline,
        config,
        folded,
        settled,
        one,
        real: HashMap::new(),
        codes: HashMap::new(),
        constants: HashMap::new(),
    };
    builder.run()?;
    Ok(builder.settled)
}

/// The numbers of the integer network from trained values.
///
/// # Errors
/// If they do not fit or are not finite.
pub(super) fn refold(
    outline: &Outline,
    slots: &HashMap<NodeId, DotSlots>,
    folded: &Folded,
    shapes: &Graph,
    values: &Values,
) -> Result<Folded, TrainError> {
    let mut layers = HashMap::new();
    for (i, kind) in outline.kinds.iter().enumerate() {
        let (Kind::Dot(dot), Some(slots)) = (kind, slots.get(&i)) else { continue };
        let get = |at: usize| {
            let found = values.parameters.get(at).filter(|v| v.iter().all(|v| v.is_finite()));
            let name = &shapes.nodes[i].name;
            found.ok_or_else(|| TrainError::invalid(format!("`{name}`: values that are missing or not finite")))
        };
        let shape = shapes.ty(dot.weight).known_shape().unwrap_or_default();
        let inner: usize = shape.iter().skip(dot.axis + 1).product();
        let channel = |at: usize| at / inner.max(1) % shape[dot.axis];
        let (lo, hi) = weight_range(dot.bits);
        let code = |(at, w): (usize, &f32)| match dot.bits {
            1 if *w < 0.0 => -1,
            1 => 1,
            _ => (w / slots.steps[channel(at)]).clamp(lo as f32, hi as f32).round_ties_even() as i32,
        };
        let scales = get(slots.scale)?.clone();
        if let Some(bad) = scales.iter().find(|s| **s <= 0.0) {
            return Err(TrainError::invalid(format!("`{}`: a scale became {bad}", shapes.nodes[i].name)));
        }
        let x_scale = folded.scales[dot.x];
        let bias = match slots.bias {
            Some(at) => get(at)?.iter().zip(&scales).map(|(b, s)| whole_bias(b / (x_scale * s))).collect(),
            None => vec![],
        };
        let weights = get(slots.weight)?.iter().enumerate().map(code).collect();
        layers.insert(i, Layer { weights, latent: vec![], scales, bias });
    }
    Ok(Folded { layers, scales: folded.scales.clone() })
}

struct Builder<'a> {
    from: &'a Graph,
    outline: &'a Outline,
    config: &'a Config,
    folded: &'a Folded,
    settled: Settled,
    one: ValueId,
    real: HashMap<ValueId, ValueId>,
    codes: HashMap<(ValueId, usize), ValueId>,
    constants: HashMap<ValueId, ValueId>,
}

impl Builder<'_> {
    fn run(&mut self) -> Result<(), TrainError> {
        for id in &self.from.inputs {
            let value = self.from.value(*id);
            let input = self.settled.graph.add_input(&value.name, value.ty.clone());
            self.real.insert(*id, input);
        }
        for (i, node) in self.from.nodes.iter().enumerate() {
            match &self.outline.kinds[i] {
                Kind::Dot(dot) => self.dot(i, node, dot)?,
                Kind::Stored => self.stored(node)?,
                Kind::Float => self.float(node)?,
                Kind::Fused | Kind::Movement => {}
            }
        }
        for id in &self.from.outputs {
            let output = self.real(*id)?;
            self.settled.graph.mark_output(output);
        }
        Ok(())
    }

    fn parameter(&mut self, name: &str, shape: &[usize], value: Vec<f32>, role: Role) -> usize {
        let input = self.settled.graph.add_input(name, Type::new(Element::F32, shape.iter().copied()));
        self.settled.parameters.push(Parameter { name: name.into(), input, shape: shape.to_vec(), value, role });
        self.settled.parameters.len() - 1
    }

    fn add(&mut self, op: impl Op, name: &str, inputs: &[ValueId]) -> Result<ValueId, TrainError> {
        self.add_any(Arc::new(op), name, inputs)
    }

    fn add_any(&mut self, op: Arc<dyn Op>, name: &str, inputs: &[ValueId]) -> Result<ValueId, TrainError> {
        let inputs: Vec<_> = inputs.iter().map(|id| Some(*id)).collect();
        Ok(self.settled.graph.add_node(op, name, &inputs, 1)?[0])
    }

    fn number(&mut self, name: &str, value: f32) -> ValueId {
        self.settled.graph.add_constant(name, Tensor::vector(vec![value]))
    }

    fn times(&mut self, name: &str, x: ValueId, factor: f32) -> Result<ValueId, TrainError> {
        let factor = self.number(&format!("{name}.factor"), factor);
        self.add(ops::Mul {}, name, &[x, factor])
    }

    fn constant(&mut self, id: ValueId) -> ValueId {
        let value = self.from.value(id);
        let graph = &mut self.settled.graph;
        *self.constants.entry(id).or_insert_with(|| {
            let tensor = value.constant.clone().unwrap_or_else(|| Tensor::scalar(0f32));
            graph.add_typed_constant(&value.name, value.ty.clone(), tensor)
        })
    }

    /// To whole numbers of a quantizer's range, from numbers in its unit.
    fn round(&mut self, name: &str, x: ValueId, index: usize) -> Result<ValueId, TrainError> {
        let quantizer = &self.outline.quantizers[index];
        let op = learned(self.config, quantizer.range(), (false, quantizer.width()), 0, 1, false);
        self.add_any(op, &format!("{name}.q"), &[x, self.one])
    }

    fn movement(&self, id: ValueId) -> Option<Node> {
        let moves = |i: &usize| self.outline.kinds[*i] == Kind::Movement && self.from.nodes[*i].outputs[0] == id;
        (0..self.from.nodes.len()).find(moves).map(|i| self.from.nodes[i].clone())
    }

    fn moved(&mut self, node: &Node, x: ValueId) -> Result<ValueId, TrainError> {
        let mut inputs = vec![Some(x)];
        for id in node.inputs.iter().skip(1) {
            inputs.push(id.map(|id| self.constant(id)));
        }
        Ok(self.settled.graph.add_node(node.op.clone(), &node.name, &inputs, 1)?[0])
    }

    fn unread(&self, id: ValueId) -> TrainError {
        TrainError::invalid(format!("`{}` is read before it is computed", self.from.value(id).name))
    }

    fn real(&mut self, id: ValueId) -> Result<ValueId, TrainError> {
        if let Some(found) = self.real.get(&id) {
            return Ok(*found);
        }
        let made = if self.from.constant(id).is_some() {
            self.constant(id)
        } else if let Some(home) = self.outline.home(id) {
            let x = self.codes(id, home)?;
            self.times(&format!("{}.real", self.from.value(id).name), x, self.folded.scales[home])?
        } else if let Some(node) = self.movement(id) {
            let x = self.real(node.inputs[0].unwrap_or(id))?;
            self.moved(&node, x)?
        } else {
            return Err(self.unread(id));
        };
        self.real.insert(id, made);
        Ok(made)
    }

    fn codes(&mut self, id: ValueId, index: usize) -> Result<ValueId, TrainError> {
        if let Some(found) = self.codes.get(&(id, index)) {
            return Ok(*found);
        }
        let name = format!("{}.{}", self.from.value(id).name, self.outline.quantizers[index].bits);
        let scale = self.folded.scales[index];
        let made = match (self.movement(id), self.outline.home(id)) {
            (Some(node), _) => {
                let x = self.codes(node.inputs[0].unwrap_or(id), index)?;
                self.moved(&node, x)?
            }
            (None, Some(home)) if !self.outline.quantizers[index].home => {
                let x = self.codes(id, home)?;
                let x = self.times(&name, x, arithmetic::rescale_scale(self.folded.scales[home], scale))?;
                self.round(&name, x, index)?
            }
            _ => {
                let x = self.real.get(&id).copied().ok_or_else(|| self.unread(id))?;
                let by = self.number(&format!("{name}.scale"), scale);
                let quantizer = &self.outline.quantizers[index];
                let op = learned(self.config, quantizer.range(), (false, quantizer.width()), 0, 1, false);
                self.add_any(op, &name, &[x, by])?
            }
        };
        self.codes.insert((id, index), made);
        Ok(made)
    }

    fn dot(&mut self, index: NodeId, node: &Node, dot: &Dot) -> Result<(), TrainError> {
        let (Some(layer), Some(like)) = (self.folded.layers.get(&index).cloned(), self.from.constant(dot.weight))
        else {
            return Err(TrainError::invalid(format!("`{}` has no trained values", node.name)));
        };
        let (shape, axis, name) = (like.shape().to_vec(), dot.axis, self.from.value(dot.weight).name.clone());
        let inner: usize = shape[axis + 1..].iter().product();
        let channels = shape[axis];
        let x_scale = self.folded.scales[dot.x];
        // Latent weights in the middle of what rounds to their integers, in units that keep the learning rate meaningful.
        let steps: Vec<f32> = layer.scales.iter().map(|s| step_of(*s * x_scale)).collect();
        let latent = layer.latent.iter().enumerate().map(|(at, w)| w * steps[at / inner.max(1) % channels]).collect();
        let x = self.codes(node.input(0).unwrap_or(dot.weight), dot.x)?;
        let weight = self.parameter(&name, &shape, latent, Role::Weight);
        let scale = self.parameter(&format!("{name}.scale"), &[channels], layer.scales.clone(), Role::Scale);
        let weight_value = self.settled.parameters[weight].input;
        let scale_value = self.settled.parameters[scale].input;

        let by = self.settled.graph.add_constant(&format!("{name}.step"), Tensor::vector(steps.clone()));
        let op = learned(self.config, weight_range(dot.bits), (dot.bits == 1, TWO_LEVELS), axis, 1, false);
        let q = self.add_any(op, &format!("{name}.q"), &[weight_value, by])?;
        let mut sum = self.add_any(node.op.clone(), &node.name, &[x, q])?;
        let x_unit = self.number(&format!("{}.x_scale", node.name), x_scale);
        let unit = self.add(ops::Mul {}, &format!("{}.unit", node.name), &[x_unit, scale_value])?;
        let rank = self.from.ty(node.outputs[0]).rank().unwrap_or(2);
        let mut slots = DotSlots { weight, scale, bias: None, steps };
        if !layer.bias.is_empty() {
            let real = layer.bias.iter().zip(&layer.scales).map(|(b, s)| *b as f32 * (x_scale * s)).collect();
            let bias_name = format!("{}.bias", node.name);
            let slot = self.parameter(&bias_name, &[channels], real, Role::Bias);
            slots.bias = Some(slot);
            let bias = self.settled.parameters[slot].input;
            let bias = self.add(ops::Div {}, &format!("{bias_name}.sums"), &[bias, unit])?;
            let bias = self.add(whole(), &format!("{bias_name}.whole"), &[bias, self.one])?;
            let bias = along_channels(&mut self.settled.graph, node, rank, bias)?;
            sum = self.add(ops::Add {}, &format!("{}.biased", node.name), &[sum, bias])?;
        }
        self.settled.slots.insert(index, slots);
        let y = self.outline.end(node.outputs[0]);
        match self.outline.home(y) {
            Some(home) => {
                let y_scale = self.number(&format!("{}.y_scale", node.name), self.folded.scales[home]);
                let by = self.add(ops::Div {}, &format!("{}.requantize", node.name), &[unit, y_scale])?;
                let by = along_channels(&mut self.settled.graph, node, rank, by)?;
                let scaled = self.add(ops::Mul {}, &format!("{}.scaled", node.name), &[sum, by])?;
                let made = self.round(&node.name, scaled, home)?;
                self.codes.insert((y, home), made);
            }
            None => {
                let by = along_channels(&mut self.settled.graph, node, rank, unit)?;
                let made = self.add(ops::Mul {}, &format!("{}.real", node.name), &[sum, by])?;
                self.real.insert(y, made);
            }
        }
        Ok(())
    }

    fn stored(&mut self, node: &Node) -> Result<(), TrainError> {
        let y = self.outline.end(node.outputs[0]);
        let Some(home) = self.outline.home(y) else { return Err(self.unread(y)) };
        let y_scale = self.folded.scales[home];
        let mut read = vec![];
        for id in node.inputs.iter().flatten().filter(|id| is_activation(self.from, **id)) {
            let Some(from) = self.outline.home(*id) else { return Err(self.unread(*id)) };
            read.push((self.codes(*id, from)?, self.folded.scales[from], *id));
        }
        let name = &node.name;
        let scaled = match (node.op.quantization(), &read[..]) {
            (QuantRule::Add, [(a, a_scale, _), (b, b_scale, _)]) => {
                let scales = arithmetic::add_scales(*a_scale, *b_scale, y_scale);
                let a = self.times(&format!("{name}.a"), *a, scales.a as f32)?;
                let b = self.times(&format!("{name}.b"), *b, scales.b as f32)?;
                let sum = self.add(ops::Add {}, name, &[a, b])?;
                self.times(&format!("{name}.scaled"), sum, scales.scale)?
            }
            (QuantRule::Mean, [(x, x_scale, id)]) if node.op.is::<ops::GlobalAveragePool>() => {
                let shape = self.from.ty(*id).known_shape().unwrap_or_default();
                let axes: Vec<i64> = (2..shape.len() as i64).collect();
                let n = shape.iter().skip(2).product();
                let axes = self.settled.graph.add_constant(&format!("{name}.axes"), Tensor::vector(axes));
                let sum = self.add(ops::ReduceSum::default(), name, &[*x, axes])?;
                self.times(&format!("{name}.scaled"), sum, arithmetic::mean_scale(*x_scale, n, y_scale))?
            }
            (QuantRule::Table, [(x, x_scale, _)]) if node.op.is::<ops::Relu>() => {
                let x = self.add(ops::Relu {}, name, &[*x])?;
                self.times(&format!("{name}.scaled"), x, arithmetic::rescale_scale(*x_scale, y_scale))?
            }
            _ => {
                return Err(TrainError::invalid(format!(
                    "node `{name}`: {} has no exact form in floating point; train to the end without settling",
                    node.op.name()
                )));
            }
        };
        let made = self.round(name, scaled, home)?;
        self.codes.insert((y, home), made);
        Ok(())
    }

    fn float(&mut self, node: &Node) -> Result<(), TrainError> {
        let mut inputs = vec![];
        for id in &node.inputs {
            inputs.push(id.map(|id| self.real(id)).transpose()?);
        }
        let outputs = self.settled.graph.add_node(node.op.clone(), &node.name, &inputs, node.outputs.len())?;
        for (old, new) in node.outputs.iter().zip(outputs) {
            self.real.insert(self.outline.end(*old), new);
        }
        Ok(())
    }
}

/// A power of two near `unit`, so that dividing by it changes no latent weight.
fn step_of(unit: f32) -> f32 {
    unit.log2().round().clamp(-100.0, 100.0).exp2()
}

/// To whole numbers, straight through.
fn whole() -> ops::LearnedQuantize {
    ops::LearnedQuantize { lo: -(1 << 22), hi: 1 << 22, ..ops::LearnedQuantize::default() }
}

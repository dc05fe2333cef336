//! The typed integer network of folded numbers.

use std::{collections::HashMap, sync::Arc};

use qing_graph::{Element, Graph, Node, NodeId, Op, Quant, QuantRule, Tensor, Type, ValueId, ops};

use super::{
    fold::Folded,
    outline::{Dot, Kind, Outline, is_activation},
};
use crate::TrainError;

/// Builds the typed form of a float network.
///
/// # Errors
/// If a scale is illegal or an op refuses its types.
pub(super) fn typed(from: &Graph, outline: &Outline, folded: &Folded) -> Result<Graph, TrainError> {
    let mut graph = Graph::new(&from.name);
    graph.metadata.clone_from(&from.metadata);
    let mut builder = Builder {
        from,
        outline,
        folded,
        graph,
        real: HashMap::new(),
        codes: HashMap::new(),
        constants: HashMap::new(),
    };
    builder.run()?;
    Ok(builder.graph)
}

struct Builder<'a> {
    from: &'a Graph,
    outline: &'a Outline,
    folded: &'a Folded,
    graph: Graph,
    real: HashMap<ValueId, ValueId>,
    codes: HashMap<(ValueId, usize), ValueId>,
    constants: HashMap<ValueId, ValueId>,
}

impl Builder<'_> {
    fn run(&mut self) -> Result<(), TrainError> {
        for id in &self.from.inputs {
            let value = self.from.value(*id);
            let input = self.graph.add_input(&value.name, value.ty.clone());
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
            self.graph.mark_output(output);
            let name = &self.from.value(*id).name;
            if self.graph.value(output).name != *name {
                if let Some(other) = self.graph.find(name) {
                    self.graph.rename(other, &format!("{name}.quantized"));
                }
                self.graph.rename(output, name);
            }
        }
        Ok(())
    }

    /// The type of a value as integers of a quantizer.
    fn ty(&self, id: ValueId, index: usize) -> Result<Type, TrainError> {
        let quantizer = &self.outline.quantizers[index];
        let quant = Quant::per_tensor(self.folded.scales[index], quantizer.zero)?;
        Ok(self.from.ty(id).clone().quantized(quantizer.element, quant))
    }

    fn add(
        &mut self,
        op: Arc<dyn Op>,
        name: &str,
        inputs: &[Option<ValueId>],
        ty: Type,
    ) -> Result<ValueId, TrainError> {
        Ok(self.graph.add_typed_node(op, name, inputs, vec![ty])?[0])
    }

    fn constant(&mut self, id: ValueId) -> ValueId {
        let value = self.from.value(id);
        let graph = &mut self.graph;
        *self.constants.entry(id).or_insert_with(|| {
            let tensor = value.constant.clone().unwrap_or_else(|| Tensor::scalar(0f32));
            graph.add_typed_constant(&value.name, value.ty.clone(), tensor)
        })
    }

    fn movement(&self, id: ValueId) -> Option<Node> {
        let moves = |i: &usize| self.outline.kinds[*i] == Kind::Movement && self.from.nodes[*i].outputs[0] == id;
        (0..self.from.nodes.len()).find(moves).map(|i| self.from.nodes[i].clone())
    }

    fn moved(&mut self, node: &Node, x: ValueId, ty: Type) -> Result<ValueId, TrainError> {
        let mut inputs = vec![Some(x)];
        for id in node.inputs.iter().skip(1) {
            inputs.push(id.map(|id| self.constant(id)));
        }
        self.add(node.op.clone(), &node.name, &inputs, ty)
    }

    /// The value in floating point.
    fn real(&mut self, id: ValueId) -> Result<ValueId, TrainError> {
        if let Some(found) = self.real.get(&id) {
            return Ok(*found);
        }
        let name = &self.from.value(id).name;
        let made = if self.from.constant(id).is_some() {
            self.constant(id)
        } else if let Some(home) = self.outline.home(id) {
            let x = self.codes(id, home)?;
            let ty = Type::maybe(Element::F32, self.from.ty(id).shape.clone());
            self.add(Arc::new(ops::Dequantize {}), &format!("{name}.real"), &[Some(x)], ty)?
        } else if let Some(node) = self.movement(id) {
            let x = self.real(node.inputs[0].unwrap_or(id))?;
            self.moved(&node, x, self.from.ty(id).clone())?
        } else {
            return Err(TrainError::invalid(format!("`{name}` is read before it is computed")));
        };
        self.real.insert(id, made);
        Ok(made)
    }

    /// The value as integers of a quantizer.
    fn codes(&mut self, id: ValueId, index: usize) -> Result<ValueId, TrainError> {
        if let Some(found) = self.codes.get(&(id, index)) {
            return Ok(*found);
        }
        let ty = self.ty(id, index)?;
        let home = self.outline.quantizers[index].home;
        let made = match self.movement(id) {
            Some(node) => {
                let x = self.codes(node.inputs[0].unwrap_or(id), index)?;
                self.moved(&node, x, ty)?
            }
            None => {
                let x = match self.outline.home(id) {
                    Some(from) if !home => self.codes(id, from)?,
                    _ => self.real.get(&id).copied().ok_or_else(|| {
                        TrainError::invalid(format!("`{}` is read before it is computed", self.from.value(id).name))
                    })?,
                };
                let name = format!("{}.q{}", self.from.value(id).name, self.outline.quantizers[index].bits);
                self.add(Arc::new(ops::Quantize {}), &name, &[Some(x)], ty)?
            }
        };
        self.codes.insert((id, index), made);
        Ok(made)
    }

    /// Notes what a node gives for a value of the float network, under its name.
    fn define(&mut self, id: ValueId, made: ValueId) {
        self.graph.rename(made, &self.from.value(id).name);
        match self.outline.home(id) {
            Some(home) if self.graph.ty(made).quant.is_some() => self.codes.insert((id, home), made),
            _ => self.real.insert(id, made),
        };
    }

    fn dot(&mut self, index: NodeId, node: &Node, dot: &Dot) -> Result<(), TrainError> {
        let (Some(layer), Some(like)) = (self.folded.layers.get(&index), self.from.constant(dot.weight)) else {
            return Err(TrainError::invalid(format!("`{}` has no trained values", node.name)));
        };
        let element = match dot.bits {
            1 => Element::Bipolar,
            bits => Element::integer(bits, true).unwrap_or(Element::I8),
        };
        let weights = Tensor::from_ints(element, like.shape(), &layer.weights)?;
        let ty = Type::new(element, like.shape().iter().copied())
            .quantized(element, Quant::per_axis(dot.axis, layer.scales.clone())?);
        let weight_name = &self.from.value(dot.weight).name;
        let x = self.codes(node.input(0).unwrap_or(dot.weight), dot.x)?;
        let w = self.graph.add_typed_constant(weight_name, ty, weights);
        let QuantRule::Dot { weight, bias, .. } = node.op.quantization() else { return Ok(()) };
        let mut inputs = vec![None; weight.max(bias) + 1];
        inputs[0] = Some(x);
        inputs[weight] = Some(w);
        if !layer.bias.is_empty() {
            let name = format!("{}.bias", node.name);
            inputs[bias] = Some(self.graph.add_constant(&name, Tensor::vector(layer.bias.clone())));
        }
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let y = self.outline.end(node.outputs[0]);
        let ty = match self.outline.home(y) {
            Some(home) => self.ty(y, home)?,
            None => self.from.ty(y).clone(),
        };
        let made = self.add(node.op.clone(), &node.name, &inputs, ty)?;
        self.define(y, made);
        Ok(())
    }

    fn stored(&mut self, node: &Node) -> Result<(), TrainError> {
        let mut inputs = vec![];
        for id in &node.inputs {
            inputs.push(match id {
                Some(id) if is_activation(self.from, *id) => {
                    let home = self.outline.home(*id).ok_or_else(|| {
                        TrainError::invalid(format!("node `{}` reads a value that is not stored", node.name))
                    })?;
                    Some(self.codes(*id, home)?)
                }
                Some(id) => Some(self.constant(*id)),
                None => None,
            });
        }
        let y = self.outline.end(node.outputs[0]);
        let home = self
            .outline
            .home(y)
            .ok_or_else(|| TrainError::invalid(format!("node `{}` gives a value that is not stored", node.name)))?;
        let made = self.add(node.op.clone(), &node.name, &inputs, self.ty(y, home)?)?;
        self.define(y, made);
        Ok(())
    }

    fn float(&mut self, node: &Node) -> Result<(), TrainError> {
        let mut inputs = vec![];
        for id in &node.inputs {
            inputs.push(id.map(|id| self.real(id)).transpose()?);
        }
        let types = node.outputs.iter().map(|id| self.from.ty(*id).clone()).collect();
        let outputs = self.graph.add_typed_node(node.op.clone(), &node.name, &inputs, types)?;
        for (old, new) in node.outputs.iter().zip(outputs) {
            let end = self.outline.end(*old);
            self.graph.rename(new, &self.from.value(end).name);
            self.real.insert(end, new);
        }
        Ok(())
    }
}

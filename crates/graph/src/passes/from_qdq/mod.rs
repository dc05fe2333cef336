//! From the QuantizeLinear form of ONNX (also QLinearConv, QLinearMatMul and QONNX's Quant) to typed values.
//!
//! In that form an integer layer is a float layer between a dequantization and a quantization. Here it becomes what it
//! means: a layer on quantized types, in the arithmetic that ONNX Runtime's fused kernels use. What has no integer rule
//! stays in floating point, between an explicit `Dequantize` and `Quantize`.

mod layers;
mod operators;
mod params;

use std::{collections::BTreeMap, sync::Arc};

use qing_tensor::{Element, Tensor};

use self::{
    operators::qlinear_input,
    params::{Params, Role, narrowed, read},
};
use super::{
    fold_constants,
    support::{is, producer},
};
use crate::{Graph, GraphError, Node, OpError, Quant, Type, ValueId, arithmetic, ops, rewrite::View, verify};

/// The graph with typed values in place of quantization nodes. Graphs without any come back as they are, but for folded
/// constants.
///
/// # Errors
/// If a rewrite would not type.
pub fn from_qdq(graph: &Graph) -> Result<Graph, GraphError> {
    let mut folded = graph.clone();
    fold_constants(&mut folded)?;
    let has_any = folded.nodes.iter().any(|n| read(&folded, n).is_some() || n.op.name().starts_with("QLinear"));
    if !has_any {
        return Ok(folded);
    }
    let view = View::new(&folded);
    let mut builder = Builder {
        from: &folded,
        view: &view,
        made: Graph::new(&folded.name),
        typed: BTreeMap::new(),
        plain: BTreeMap::new(),
    };
    builder.made.metadata.clone_from(&folded.metadata);
    builder.build()?;
    let made = builder.made.compacted();
    if cfg!(debug_assertions) {
        verify::verify(&made)?;
    }
    Ok(made)
}

struct Builder<'a> {
    from: &'a Graph,
    view: &'a View<'a>,
    made: Graph,
    /// For values of the old graph, integers or reals, the typed value that stands for them.
    typed: BTreeMap<ValueId, ValueId>,
    /// For values of the old graph, the same value in the new one.
    plain: BTreeMap<ValueId, ValueId>,
}

impl Builder<'_> {
    fn build(&mut self) -> Result<(), GraphError> {
        for id in &self.from.inputs {
            let value = self.from.value(*id);
            let mut ty = value.ty.clone();
            // Integers that enter the network are typed if all that read them agree on what they mean.
            let meaning = self.meaning_of_input(*id);
            if let Some(params) = &meaning {
                ty.quant = Some(params.quant.clone());
            }
            let new = self.made.add_input(&value.name, ty);
            self.plain.insert(*id, new);
            if meaning.is_some() {
                self.typed.insert(*id, new);
            }
        }
        for node in &self.from.nodes {
            // Values known ahead of time are constants to whoever reads them.
            if node.outputs.iter().all(|id| self.from.constant(*id).is_some()) && read(self.from, node).is_none() {
                continue;
            }
            self.node(node)?;
        }
        for id in &self.from.outputs {
            let new = match self.typed.get(id) {
                Some(new) if !self.from.ty(*id).element.is_float() => *new,
                _ => self.plain(*id)?,
            };
            self.made.mark_output(new);
            self.name_output(new, &self.from.value(*id).name);
        }
        Ok(())
    }

    fn name_output(&mut self, id: ValueId, name: &str) {
        if self.made.value(id).name == name {
            return;
        }
        if let Some(other) = self.made.find(name) {
            self.made.rename(other, &format!("{name}.quantized"));
        }
        self.made.rename(id, name);
    }

    /// The quantization that every reader of an integer graph input gives it.
    fn meaning_of_input(&self, id: ValueId) -> Option<Params> {
        if !self.from.ty(id).element.is_quantizable() {
            return None;
        }
        let mut meanings = self.view.consumers(id).map(|n| match read(self.from, n) {
            Some((Role::Dequantize, params)) => Some(params),
            _ => qlinear_input(self.from, n, id),
        });
        let first = meanings.next()??;
        (first.quant.as_per_tensor().is_some() && meanings.all(|m| m.as_ref() == Some(&first))).then_some(first)
    }

    fn node(&mut self, node: &Node) -> Result<(), GraphError> {
        if let Some((role, params)) = read(self.from, node) {
            return match role {
                Role::Quantize | Role::Both => self.quantize(node, &params, role),
                Role::Dequantize => self.dequantize(node, &params),
            };
        }
        if node.op.name().starts_with("QLinear") && (self.qlinear(node)? || self.qoperator(node)?) {
            return Ok(());
        }
        if let Some(x) = node.input(0)
            && let Some(typed) = self.typed.get(&x).copied()
            && let Some(element) = narrowed(self.from, node, self.made.ty(typed).element)
            && !self.from.ty(x).element.is_float()
        {
            return self.narrow(node, typed, element);
        }
        if !self.integer(node)? {
            self.float(node)?;
        }
        Ok(())
    }

    /// The same value in the new graph; a typed one is dequantized.
    fn plain(&mut self, id: ValueId) -> Result<ValueId, GraphError> {
        if let Some(new) = self.plain.get(&id) {
            return Ok(*new);
        }
        let value = self.from.value(id);
        let new = if let Some(constant) = &value.constant {
            self.made.add_typed_constant(&value.name, value.ty.clone(), constant.clone())
        } else {
            let typed = *self
                .typed
                .get(&id)
                .ok_or_else(|| GraphError::Malformed(format!("`{}` is read before it is defined", value.name)))?;
            if !value.ty.element.is_float() {
                return Ok(typed);
            }
            let name = format!("{}.dequantized", value.name);
            match (self.made.constant(typed), self.made.ty(typed).quant.clone()) {
                // Weights that are needed as reals.
                (Some(ints), Some(quant)) => {
                    let reals = reals(ints, &quant)?;
                    self.made.add_constant(&name, reals)
                }
                _ => self.made.add_node(Arc::new(ops::Dequantize {}), &name, &[Some(typed)], 1)?[0],
            }
        };
        self.plain.insert(id, new);
        Ok(new)
    }

    fn type_of(&self, id: ValueId, params: &Params) -> Type {
        Type { element: params.element, shape: self.from.ty(id).shape.clone(), quant: Some(params.quant.clone()) }
    }

    /// Reals to integers.
    fn quantize(&mut self, node: &Node, params: &Params, role: Role) -> Result<(), GraphError> {
        let (Some(x), y) = (node.input(0), node.outputs[0]) else { return self.float(node) };
        if let Some(constant) = self.from.constant(x).filter(|_| !self.typed.contains_key(&x)) {
            let narrow = role == Role::Both && super::support::int(node, "narrow", 0) != 0;
            let ints = quantized_constant(constant, params, narrow);
            let ty = Type::new(params.element, constant.shape().iter().copied());
            let ty = Type { quant: Some(params.quant.clone()), ..ty };
            let ints = Tensor::from_ints(params.element, constant.shape(), &ints).map_err(OpError::from);
            let ints = ints.map_err(|e| self.from.node_error(node, e))?;
            let new = self.made.add_typed_constant(&self.from.value(x).name, ty, ints);
            self.typed.insert(y, new);
            return Ok(());
        }
        // Activations have one scale; a bipolar activation is a sign, which no op here computes.
        if params.quant.as_per_tensor().is_none() || params.element == Element::Bipolar {
            return self.float(node);
        }
        let params = self.narrowed_target(node, params);
        let ty = self.type_of(x, &params);
        let new = match self.typed.get(&x) {
            // The node before gave these integers already, or they are those that were dequantized.
            Some(typed) if same_quantization(self.made.ty(*typed), &ty) => *typed,
            Some(typed) => {
                let typed = *typed;
                self.made.add_typed_node(Arc::new(ops::Quantize {}), &node.name, &[Some(typed)], vec![ty])?[0]
            }
            None => {
                let x = self.plain(x)?;
                self.made.add_typed_node(Arc::new(ops::Quantize {}), &node.name, &[Some(x)], vec![ty])?[0]
            }
        };
        self.typed.insert(y, new);
        Ok(())
    }

    /// A quantization whose only reader clips to fewer bits gives those at once.
    fn narrowed_target(&self, node: &Node, params: &Params) -> Params {
        let clip = self.view.single_consumer(node.outputs[0]);
        match clip.and_then(|c| narrowed(self.from, c, params.element)) {
            Some(element) => Params { element, quant: params.quant.clone() },
            None => params.clone(),
        }
    }

    /// A clip of integers to those of a narrower element.
    fn narrow(&mut self, node: &Node, typed: ValueId, element: Element) -> Result<(), GraphError> {
        let ty = self.made.ty(typed).clone();
        let new = if ty.element == element {
            typed
        } else {
            let ty = Type { element, ..ty };
            self.made.add_typed_node(Arc::new(ops::Quantize {}), &node.name, &[Some(typed)], vec![ty])?[0]
        };
        self.typed.insert(node.outputs[0], new);
        Ok(())
    }

    /// Integers to reals.
    fn dequantize(&mut self, node: &Node, params: &Params) -> Result<(), GraphError> {
        let (Some(x), y) = (node.input(0), node.outputs[0]) else { return self.float(node) };
        if let Some(typed) = self.typed.get(&x) {
            let ty = self.made.ty(*typed);
            let narrow = Params { element: ty.element, quant: params.quant.clone() };
            if ty.quant.as_ref() == Some(&params.quant) && self.type_of(x, &narrow).element == ty.element {
                self.typed.insert(y, *typed);
                return Ok(());
            }
        }
        if let Some(constant) = self.integer_constant(x) {
            let ty = Type::new(constant.element(), constant.shape().iter().copied());
            let ty = Type { quant: Some(params.quant.clone()), ..ty };
            if params.quant.slices(constant.shape()) == Some(params.quant.scales().len()) {
                let new = self.made.add_typed_constant(&self.from.value(x).name, ty, constant);
                self.typed.insert(y, new);
                return Ok(());
            }
        }
        self.float(node)
    }

    /// Constant integers, seen through a cast from a narrower element.
    fn integer_constant(&self, id: ValueId) -> Option<Tensor> {
        if let Some(cast) = producer(self.view, id, "Cast")
            && let Some(narrow) = cast.input(0).and_then(|id| self.from.constant(id))
            && narrow.element().is_quantizable()
        {
            return Some(narrow.clone());
        }
        self.from.constant(id).cloned()
    }

    /// The quantization that everybody who reads the real `id` gives it first; looks through an activation function that
    /// only narrows the range.
    fn target(&self, id: ValueId) -> Option<Params> {
        if self.from.outputs.contains(&id) {
            return None;
        }
        if let Some(next) = self.view.single_consumer(id)
            && (is(next, "Relu") || (is(next, "Clip") && constant_bounds(self.from, next)))
            && next.input(0) == Some(id)
        {
            return self.target(next.outputs[0]);
        }
        let mut targets = self.view.consumers(id).map(|n| match read(self.from, n) {
            Some((Role::Quantize | Role::Both, params)) if n.input(0) == Some(id) => {
                Some(self.narrowed_target(n, &params))
            }
            _ => None,
        });
        let first = targets.next()??;
        let legal = first.quant.as_per_tensor().is_some() && first.element != Element::Bipolar;
        (legal && targets.all(|t| t.as_ref() == Some(&first))).then_some(first)
    }

    /// The node as it is.
    fn float(&mut self, node: &Node) -> Result<(), GraphError> {
        let inputs =
            node.inputs.iter().map(|id| id.map(|id| self.plain(id)).transpose()).collect::<Result<Vec<_>, _>>()?;
        let types = node.outputs.iter().map(|id| self.from.ty(*id).clone()).collect();
        let made = self.made.add_typed_node(node.op.clone(), &node.name, &inputs, types)?;
        for (old, new) in node.outputs.iter().zip(made) {
            self.made.rename(new, &self.from.value(*old).name);
            self.plain.insert(*old, new);
        }
        Ok(())
    }
}

fn same_quantization(a: &Type, b: &Type) -> bool {
    a.element == b.element && a.quant == b.quant
}

fn constant_bounds(graph: &Graph, clip: &Node) -> bool {
    [1, 2].into_iter().all(|i| clip.input(i).is_none_or(|id| graph.constant(id).is_some()))
}

/// The reals that constant integers stand for.
fn reals(ints: &Tensor, quant: &Quant) -> Result<Tensor, GraphError> {
    let values = ops::support::dot::centered(ints, quant)
        .into_iter()
        .enumerate()
        .map(|(i, q)| q as f32 * quant.scale(quant.slice_of(ints.shape(), i)))
        .collect();
    Tensor::new::<f32>(ints.shape(), values).map_err(|e| GraphError::Malformed(e.to_string()))
}

/// The integers of constant reals.
fn quantized_constant(constant: &Tensor, params: &Params, narrow: bool) -> Vec<i32> {
    let range = if narrow { arithmetic::symmetric_range(params.element) } else { None };
    let full = params.element.range().map(|(lo, hi)| (lo as i32, hi as i32)).unwrap_or((0, 0));
    let (lo, hi) = range.unwrap_or(full);
    let shape = constant.shape();
    constant
        .to_f32s()
        .into_iter()
        .enumerate()
        .map(|(i, v)| {
            let slice = params.quant.slice_of(shape, i);
            if params.element == Element::Bipolar {
                return if v < 0.0 { -1 } else { 1 };
            }
            arithmetic::quantize(v, params.quant.scale(slice), params.quant.zero(slice), lo, hi)
        })
        .collect()
}

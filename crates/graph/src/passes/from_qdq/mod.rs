//! From the QuantizeLinear form of ONNX (also QLinearConv, QLinearMatMul and QONNX's Quant) to typed values.
//!
//! In that form an integer layer is a float layer between a dequantization and a quantization. Here it becomes what it
//! means: a layer on quantized types, in the arithmetic that ONNX Runtime's fused kernels use. What has no integer rule
//! stays in floating point, between an explicit `Dequantize` and `Quantize`.

mod params;

use std::{collections::BTreeMap, sync::Arc};

use qing_tensor::{Element, Tensor};

use self::params::{Params, Role, narrowed, read};
use super::{
    fold_constants,
    support::{is, producer},
};
use crate::{
    Dim, Granularity, Graph, GraphError, Node, OpError, Quant, QuantRule, Type, ValueId, arithmetic, infer::eval_node,
    ops, rewrite::View, verify,
};

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

    /// Tries to make the node one on quantized types.
    fn integer(&mut self, node: &Node) -> Result<bool, GraphError> {
        let rule = node.op.quantization();
        let Some(x) = node.input(0).and_then(|x| self.typed.get(&x)).copied() else { return Ok(false) };
        let y = node.outputs[0];
        match rule {
            QuantRule::Movement => self.movement(node, x),
            QuantRule::Dot { weight, bias, axis } => self.dot(node, x, (weight, bias, axis)),
            QuantRule::Add => {
                let Some(b) = node.input(1).and_then(|b| self.typed.get(&b)).copied() else { return Ok(false) };
                let Some(target) = self.target(y) else { return Ok(false) };
                self.emit(node, &[Some(x), Some(b)], Some(&target))
            }
            QuantRule::Mean | QuantRule::Table => {
                let Some(target) = self.target(y) else { return Ok(false) };
                if node.outputs.len() > 1 {
                    return Ok(false);
                }
                let mut inputs = vec![Some(x)];
                for id in node.inputs.iter().skip(1) {
                    inputs.push(id.map(|id| self.plain(id)).transpose()?);
                }
                self.emit(node, &inputs, Some(&target))
            }
            QuantRule::Rescale => {
                let inputs: Option<Vec<ValueId>> =
                    node.inputs.iter().flatten().map(|id| self.typed.get(id).copied()).collect();
                let (Some(inputs), Some(target)) = (inputs, self.target(y)) else { return Ok(false) };
                if inputs.len() != node.inputs.len() {
                    return Ok(false);
                }
                self.emit(node, &inputs.into_iter().map(Some).collect::<Vec<_>>(), Some(&target))
            }
            QuantRule::Float => Ok(false),
        }
    }

    /// Adds the node with one output, quantized as `target` says or real; false if its inputs are not quantized per tensor.
    fn emit(&mut self, node: &Node, inputs: &[Option<ValueId>], target: Option<&Params>) -> Result<bool, GraphError> {
        let y = node.outputs[0];
        let per_tensor = |id: &ValueId| {
            let q = &self.made.ty(*id).quant;
            q.as_ref().is_none_or(|q| q.as_per_tensor().is_some())
        };
        let is_dot = matches!(node.op.quantization(), QuantRule::Dot { .. });
        if !is_dot && !inputs.iter().flatten().all(per_tensor) {
            return Ok(false);
        }
        let ty = match target {
            Some(params) => self.type_of(y, params),
            None => self.from.ty(y).clone(),
        };
        let new = self.made.add_typed_node(node.op.clone(), &node.name, inputs, vec![ty])?[0];
        self.made.rename(new, &self.from.value(y).name);
        if target.is_some() { &mut self.typed } else { &mut self.plain }.insert(y, new);
        Ok(true)
    }

    fn movement(&mut self, node: &Node, x: ValueId) -> Result<bool, GraphError> {
        let ty = self.made.ty(x).clone();
        let per_tensor = ty.quant.as_ref().is_some_and(|q| q.as_per_tensor().is_some());
        // Shapes and the like are not of the input's element.
        let moves = |id: &ValueId| {
            let out = self.from.ty(*id).element;
            out == self.from.ty(node.input(0).unwrap_or(*id)).element
        };
        if self.made.constant(x).is_some() {
            return self.constant_movement(node, x);
        }
        let all_move = node.outputs.iter().all(|id| moves(id) || self.view.consumers(*id).len() == 0);
        if !per_tensor || !all_move || !fills_with_zero(self.from, node) {
            return Ok(false);
        }
        let mut inputs = vec![Some(x)];
        for id in node.inputs.iter().skip(1) {
            inputs.push(match id {
                // The padding value is the zero point, which is the default.
                Some(_) if is(node, "Pad") && inputs.len() == 2 => None,
                Some(id) => Some(self.plain(*id)?),
                None => None,
            });
        }
        let types: Vec<Type> = node
            .outputs
            .iter()
            .map(|id| match moves(id) {
                true => Type { shape: self.from.ty(*id).shape.clone(), ..ty.clone() },
                false => self.from.ty(*id).clone(),
            })
            .collect();
        let made = self.made.add_typed_node(node.op.clone(), &node.name, &inputs, types)?;
        for (old, new) in node.outputs.iter().zip(made) {
            self.made.rename(new, &self.from.value(*old).name);
            self.typed.insert(*old, new);
        }
        Ok(true)
    }

    /// Weights that are transposed or reshaped before use.
    fn constant_movement(&mut self, node: &Node, x: ValueId) -> Result<bool, GraphError> {
        let ty = self.made.ty(x).clone();
        let (Some(quant), Some(ints)) = (ty.quant.clone(), self.made.constant(x).cloned()) else { return Ok(false) };
        let quant = match quant.granularity() {
            Granularity::Tensor => quant,
            Granularity::Axis(axis) if is(node, "Transpose") => {
                let perm = super::support::ints(node, "perm");
                let at = if perm.is_empty() {
                    Some(ints.rank() - 1 - axis)
                } else {
                    perm.iter().position(|p| *p == axis as i64)
                };
                let Some(at) = at else { return Ok(false) };
                let moved = Quant::new(Granularity::Axis(at), quant.scales().to_vec(), quant.zeros().to_vec());
                Arc::new(moved.map_err(|e| self.from.node_error(node, e))?)
            }
            _ => return Ok(false),
        };
        let inputs: Vec<Option<&Tensor>> = node
            .inputs
            .iter()
            .enumerate()
            .map(|(i, id)| match i {
                0 => Some(&ints),
                _ => id.and_then(|id| self.from.constant(id)),
            })
            .collect();
        let raw = Type::new(ints.element(), ints.shape().iter().copied());
        let types: Vec<Option<&Type>> = node
            .inputs
            .iter()
            .enumerate()
            .map(|(i, id)| if i == 0 { Some(&raw) } else { id.map(|id| self.from.ty(id)) })
            .collect();
        let out = [Type::maybe(ints.element(), None)];
        let cx = crate::Eval { inputs: &inputs, types: &types, outputs: &out };
        let Ok(mut moved) = node.op.eval(&cx) else { return Ok(false) };
        if moved.len() != 1 || node.outputs.len() != 1 {
            return Ok(false);
        }
        let moved = moved.remove(0);
        let ty = Type {
            element: moved.element(),
            shape: Some(moved.shape().iter().map(|d| Dim::Known(*d)).collect()),
            quant: Some(quant),
        };
        let new = self.made.add_typed_constant(&self.from.value(node.outputs[0]).name, ty, moved);
        self.typed.insert(node.outputs[0], new);
        Ok(true)
    }

    fn dot(
        &mut self,
        node: &Node,
        x: ValueId,
        (weight, bias, axis): (usize, usize, usize),
    ) -> Result<bool, GraphError> {
        let Some(w) = node.input(weight).and_then(|w| self.typed.get(&w)).copied() else { return Ok(false) };
        let (x_ty, w_ty) = (self.made.ty(x).clone(), self.made.ty(w).clone());
        let (Some(xq), Some(wq)) = (x_ty.quant.clone(), w_ty.quant.clone()) else { return Ok(false) };
        let Some((x_scale, _)) = xq.as_per_tensor() else { return Ok(false) };
        let fits = match wq.granularity() {
            Granularity::Tensor => true,
            Granularity::Axis(at) => at == axis,
            Granularity::Block { .. } => is(node, "MatMul"),
        };
        let constant = self.made.constant(w).is_some();
        if !fits || !plain_product(node) || (!constant && !is(node, "MatMul")) {
            return Ok(false);
        }
        let channels = w_ty.known_shape().and_then(|s| s.get(axis).copied());
        let mut inputs = vec![Some(x), Some(w)];
        if let Some(b) = node.input(bias) {
            let Some(mut ints) = channels.and_then(|n| self.bias(b, n, x_scale, &wq)) else { return Ok(false) };
            if let Some(weights) = self.made.constant(w) {
                limit_bias(&mut ints, weights, &wq, axis);
            }
            let name = self.from.value(b).name.clone();
            inputs.resize(bias, None);
            inputs.push(Some(self.made.add_constant(&name, Tensor::vector(ints))));
        }
        let target = self.target(node.outputs[0]);
        self.emit(node, &inputs, target.as_ref())
    }

    /// A bias in units of `x_scale·w_scale[c]`: the integers that were dequantized with about that scale, else rounded.
    fn bias(&self, id: ValueId, channels: usize, x_scale: f32, weights: &Quant) -> Option<Vec<i32>> {
        let unit = |i: usize| f64::from(x_scale) * f64::from(weights.scale(i));
        if matches!(weights.granularity(), Granularity::Block { .. }) {
            return None;
        }
        if let Some(node) = producer(self.view, id, "DequantizeLinear") {
            let ints = self.from.constant(node.input(0)?)?;
            let scales = self.from.constant(node.input(1)?)?.to_f32s();
            let zero = node
                .input(2)
                .is_none_or(|z| self.from.constant(z).is_some_and(|z| z.to_ints().iter().all(|z| *z == 0)));
            let scale = |i: usize| f64::from(if scales.len() == 1 { scales[0] } else { scales[i] });
            let same = (scales.len() == 1 || scales.len() == channels)
                && (0..channels).all(|i| (scale(i) - unit(i)).abs() <= 1e-3 * unit(i));
            if ints.element() == Element::I32 && ints.len() == channels && zero && same {
                return Some(ints.to_ints());
            }
        }
        let reals = match self.from.constant(id) {
            Some(reals) => reals.to_f64s(),
            None => self.dequantized_bias(id)?,
        };
        let at = |i: usize| if reals.len() == 1 { reals[0] } else { reals[i] };
        (reals.len() == channels || reals.len() == 1)
            .then(|| (0..channels).map(|i| (at(i) / unit(i)).round_ties_even() as i32).collect())
    }

    /// A dequantized constant too large to have been computed during inference.
    fn dequantized_bias(&self, id: ValueId) -> Option<Vec<f64>> {
        let values = eval_node(self.from, self.view.producer(id)?).ok()?;
        Some(values.first()?.to_f64s())
    }

    /// Quantized ops of ONNX Runtime whose parameters are inputs: the same ops on quantized types.
    fn qoperator(&mut self, node: &Node) -> Result<bool, GraphError> {
        let Some(form) = qoperator(self.from, node) else { return Ok(false) };
        let mut inputs = vec![];
        for (at, params) in &form.operands {
            let Some(typed) = node.input(*at).and_then(|x| self.typed.get(&x)).copied() else { return Ok(false) };
            if self.made.ty(typed).quant.as_ref() != Some(&params.quant) {
                return Ok(false);
            }
            inputs.push(Some(typed));
        }
        let y = node.outputs[0];
        let ty = self.type_of(y, &form.y);
        let new = self.made.add_typed_node(form.op, &node.name, &inputs, vec![ty])?[0];
        self.made.rename(new, &self.from.value(y).name);
        self.typed.insert(y, new);
        Ok(true)
    }

    /// QLinearConv and QLinearMatMul: the same layers with their parameters as inputs.
    fn qlinear(&mut self, node: &Node) -> Result<bool, GraphError> {
        let Some(layer) = qlinear_layer(self.from, node) else { return Ok(false) };
        let Some(x) = node.input(0).and_then(|x| self.typed.get(&x)).copied() else { return Ok(false) };
        if self.made.ty(x).quant.as_ref() != Some(&layer.x.quant) {
            return Ok(false);
        }
        let w = match node.input(3).map(|w| (w, self.from.constant(w).cloned())) {
            Some((w, Some(ints))) => {
                let ty = Type::new(ints.element(), ints.shape().iter().copied());
                let ty = Type { quant: Some(layer.w.quant.clone()), ..ty };
                self.made.add_typed_constant(&self.from.value(w).name, ty, ints)
            }
            Some((w, None)) if is(node, "QLinearMatMul") => match self.typed.get(&w) {
                Some(w) if self.made.ty(*w).quant.as_ref() == Some(&layer.w.quant) => *w,
                _ => return Ok(false),
            },
            _ => return Ok(false),
        };
        let mut inputs = vec![Some(x), Some(w)];
        if let Some(bias) = node.input(8) {
            inputs.push(Some(self.plain(bias)?));
        }
        let y = node.outputs[0];
        let ty = self.type_of(y, &layer.y);
        let new = self.made.add_typed_node(layer.op, &node.name, &inputs, vec![ty])?[0];
        self.made.rename(new, &self.from.value(y).name);
        self.typed.insert(y, new);
        Ok(true)
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

/// A layer whose quantization parameters were inputs.
struct QLinear {
    op: Arc<dyn crate::Op>,
    x: Params,
    w: Params,
    y: Params,
}

fn qlinear_layer(graph: &Graph, node: &Node) -> Option<QLinear> {
    let (op, axis): (Arc<dyn crate::Op>, usize) = if let Some(conv) = node.op.downcast::<ops::QLinearConv>() {
        (Arc::new(conv.conv()), 0)
    } else if is(node, "QLinearMatMul") {
        let rank = graph.ty(node.input(3)?).rank()?;
        (Arc::new(ops::MatMul {}), rank.checked_sub(1)?)
    } else {
        return None;
    };
    let params = |value: usize, scale: usize, zero: usize| {
        let scales = graph.constant(node.input(scale)?)?.to_f32s();
        let zero_tensor = graph.constant(node.input(zero)?)?;
        let zeros = zero_tensor.to_ints();
        let element = if value == usize::MAX { zero_tensor.element() } else { graph.ty(node.input(value)?).element };
        let quant = match scales.len() {
            1 if zeros.len() == 1 => Quant::per_tensor(scales[0], zeros[0]).ok()?,
            n if scale == 4 => {
                // Scales and zero points may each be one for all.
                let count = n.max(zeros.len());
                let scales = if n == 1 { vec![scales[0]; count] } else { scales };
                Quant::new(Granularity::Axis(axis), scales, zeros).ok()?
            }
            _ => return None,
        };
        element.is_quantizable().then(|| Params { element, quant: Arc::new(quant) })
    };
    let layer = QLinear { op, x: params(0, 1, 2)?, w: params(3, 4, 5)?, y: params(usize::MAX, 6, 7)? };
    (axis < 2 || layer.w.quant.as_per_tensor().is_some()).then_some(layer)
}

/// What a QLinear node says of its input `id`.
fn qlinear_input(graph: &Graph, node: &Node, id: ValueId) -> Option<Params> {
    if let Some(layer) = qlinear_layer(graph, node) {
        return (node.input(0) == Some(id)).then_some(layer.x);
    }
    let form = qoperator(graph, node)?;
    let mut meanings =
        form.operands.into_iter().filter(|(at, _)| node.input(*at) == Some(id)).map(|(_, params)| params);
    let first = meanings.next()?;
    meanings.all(|m| m == first).then_some(first)
}

/// An op with quantized operands whose parameters were inputs.
struct QOperator {
    op: Arc<dyn crate::Op>,
    /// Position and quantization of each operand.
    operands: Vec<(usize, Params)>,
    y: Params,
}

fn qoperator(graph: &Graph, node: &Node) -> Option<QOperator> {
    let channels_first = |last: bool| (!last).then_some(());
    let op = &node.op;
    let (op, tensors, y): (Arc<dyn crate::Op>, Vec<usize>, usize) = if op.is::<ops::QLinearAdd>() {
        (Arc::new(ops::Add {}), vec![0, 3], 6)
    } else if let Some(pool) = op.downcast::<ops::QLinearGlobalAveragePool>() {
        channels_first(pool.channels_last)?;
        (Arc::new(ops::GlobalAveragePool {}), vec![0], 3)
    } else if let Some(pool) = op.downcast::<ops::QLinearAveragePool>() {
        channels_first(pool.channels_last)?;
        (Arc::new(pool.pool()), vec![0], 3)
    } else if op.is::<ops::QLinearSigmoid>() {
        (Arc::new(ops::Sigmoid {}), vec![0], 3)
    } else if let Some(concat) = op.downcast::<ops::QLinearConcat>() {
        (Arc::new(ops::Concat { axis: concat.axis }), (2..node.inputs.len()).step_by(3).collect(), 0)
    } else {
        return None;
    };
    let params = |element: Element, scale: usize| {
        let scales = graph.constant(node.input(scale)?)?.to_f32s();
        let zeros = match node.input(scale + 1) {
            Some(zero) => graph.constant(zero)?.to_ints(),
            None => vec![0],
        };
        let ([scale], [zero]) = (&scales[..], &zeros[..]) else { return None };
        let quant = Arc::new(Quant::per_tensor(*scale, *zero).ok()?);
        element.is_quantizable().then_some(Params { element, quant })
    };
    let operands: Option<Vec<(usize, Params)>> =
        tensors.iter().map(|at| Some((*at, params(graph.ty(node.input(*at)?).element, at + 1)?))).collect();
    Some(QOperator { op, operands: operands?, y: params(graph.ty(node.outputs[0]).element, y)? })
}

fn same_quantization(a: &Type, b: &Type) -> bool {
    a.element == b.element && a.quant == b.quant
}

fn constant_bounds(graph: &Graph, clip: &Node) -> bool {
    [1, 2].into_iter().all(|i| clip.input(i).is_none_or(|id| graph.constant(id).is_some()))
}

/// A product without factors.
fn plain_product(node: &Node) -> bool {
    let one = |name| super::support::float(node, name, 1.0) == 1.0;
    !is(node, "Gemm") || (one("alpha") && one("beta") && super::support::int(node, "transA", 0) == 0)
}

/// True unless the node pads with something that is not real zero.
fn fills_with_zero(graph: &Graph, node: &Node) -> bool {
    if !is(node, "Pad") {
        return true;
    }
    let mode: String = node.op.attrs().read("mode", "constant".into()).unwrap_or_default();
    mode != "constant" || node.input(2).is_none_or(|v| graph.constant(v).is_some_and(|v| v.to_f64s() == [0.0]))
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

/// Cuts biases so large that 32-bit sums could overflow to what is proven not to. Quantizers make them for channels whose
/// weights are next to nothing, by choosing the scale that lets the bias just fit; such channels saturate either way.
fn limit_bias(bias: &mut [i32], weights: &Tensor, quant: &Quant, axis: usize) {
    let inner: usize = weights.shape()[axis + 1..].iter().product();
    let mut magnitude = vec![0i64; bias.len()];
    for (i, w) in weights.to_ints().into_iter().enumerate() {
        let channel = i / inner % bias.len();
        magnitude[channel] += i64::from(w - quant.zero(quant.slice_of(weights.shape(), i))).abs();
    }
    for (bias, magnitude) in bias.iter_mut().zip(magnitude) {
        // 255: the farthest an activation can be from its zero point.
        let limit = (i64::from(i32::MAX) - 255 * magnitude).max(0);
        *bias = i64::from(*bias).clamp(-limit, limit) as i32;
    }
}

//! Nodes on quantized types, from the nodes on reals between quantization nodes.

use std::sync::Arc;

use qing_tensor::{Element, Tensor};

use super::{
    Builder,
    operators::{qlinear_layer, qoperator},
    params::Params,
};
use crate::{
    Dim, Eval, Granularity, Graph, GraphError, Node, Quant, QuantRule, Type, ValueId,
    infer::eval_node,
    passes::support::{self, is, producer},
};

impl Builder<'_> {
    /// Tries to make the node one on quantized types.
    pub(super) fn integer(&mut self, node: &Node) -> Result<bool, GraphError> {
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
                let perm = support::ints(node, "perm");
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
        let cx = Eval { inputs: &inputs, types: &types, outputs: &out };
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
    pub(super) fn qoperator(&mut self, node: &Node) -> Result<bool, GraphError> {
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
    pub(super) fn qlinear(&mut self, node: &Node) -> Result<bool, GraphError> {
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
}

/// A product without factors.
fn plain_product(node: &Node) -> bool {
    let one = |name| support::float(node, name, 1.0) == 1.0;
    !is(node, "Gemm") || (one("alpha") && one("beta") && support::int(node, "transA", 0) == 0)
}

/// True unless the node pads with something that is not real zero.
fn fills_with_zero(graph: &Graph, node: &Node) -> bool {
    if !is(node, "Pad") {
        return true;
    }
    let mode: String = node.op.attrs().read("mode", "constant".into()).unwrap_or_default();
    mode != "constant" || node.input(2).is_none_or(|v| graph.constant(v).is_some_and(|v| v.to_f64s() == [0.0]))
}

/// Cuts biases so large that 32-bit sums could overflow to what is proven not to. Quantizers make them for channels whose
/// weights are next to nothing, by choosing the scale that lets the bias just fit; such channels saturate either way.
fn limit_bias(bias: &mut [i32], weights: &Tensor, quant: &Quant, axis: usize) {
    let inner: usize = weights.shape()[axis + 1..].iter().product();
    let per_channel = quant.granularity() == Granularity::Axis(axis);
    let magnitude = match weights.to_i8s() {
        Some(codes) if quant.zeros() == [0] => magnitudes(&codes, inner, bias.len(), |_, w| w),
        _ if quant.zeros().len() == 1 || per_channel => {
            magnitudes(&weights.to_ints(), inner, bias.len(), |channel, w| w.saturating_sub(quant.zero(channel)))
        }
        _ => {
            let mut ints = weights.to_ints();
            for (i, w) in ints.iter_mut().enumerate() {
                *w = w.saturating_sub(quant.zero(quant.slice_of(weights.shape(), i)));
            }
            magnitudes(&ints, inner, bias.len(), |_, w| w)
        }
    };
    for (bias, magnitude) in bias.iter_mut().zip(magnitude) {
        // 255: the farthest an activation can be from its zero point.
        let limit = (i64::from(i32::MAX) - 255 * magnitude).max(0);
        *bias = i64::from(*bias).clamp(-limit, limit) as i32;
    }
}

/// The sum of magnitudes of each channel, `inner` neighbours of which lie together; `value` says what a weight stands for.
fn magnitudes<T: Copy + Into<i32>>(
    weights: &[T],
    inner: usize,
    channels: usize,
    value: impl Fn(usize, i32) -> i32,
) -> Vec<i64> {
    let mut sums = vec![0i64; channels];
    for (i, piece) in weights.chunks_exact(inner.max(1)).enumerate() {
        let channel = i % channels.max(1);
        // Pieces short enough for sums in 32 bits, of which more fit a register; a zero point that is no 16-bit number makes no
        // legal layer.
        for piece in piece.chunks(1 << 15) {
            let magnitudes = piece.iter().map(|w| value(channel, (*w).into()).saturating_abs().min(1 << 15));
            sums[channel] += i64::from(magnitudes.sum::<i32>());
        }
    }
    sums
}

//! From typed values to the QuantizeLinear form of ONNX, as ONNX Runtime's own quantizer writes it, so that it fuses the
//! layers into its integer kernels and computes the same numbers.
//!
//! Widths that ONNX has no type for, or that ONNX Runtime does not fuse, are written so that values stay equal: an
//! activation of fewer than eight bits is quantized to eight and clipped to its range; weights of up to four bits are
//! stored as INT4 and widened by a `Cast`, which runtimes fold when they load the model.

use std::{collections::BTreeMap, sync::Arc};

use qing_tensor::{Element, Tensor};

use super::support::make;
use crate::{
    AttrValue, Granularity, Graph, GraphError, Node, OpError, Quant, QuantRule, Type, ValueId, arithmetic, ops, verify,
};

/// Codes of ONNX's element types.
const ONNX_U8: i64 = 2;
const ONNX_I8: i64 = 3;

/// The graph in ONNX's own ops: no value of it has a quantized type. Graphs without quantized values come back as they are.
///
/// # Errors
/// If a rewrite would not type.
pub fn to_qdq(graph: &Graph) -> Result<Graph, GraphError> {
    if graph.values().all(|(_, v)| v.ty.quant.is_none()) {
        return Ok(graph.clone());
    }
    let mut builder = Builder {
        from: graph,
        made: Graph::new(&graph.name),
        integers: BTreeMap::new(),
        reals: BTreeMap::new(),
        parameters: BTreeMap::new(),
    };
    builder.made.metadata.clone_from(&graph.metadata);
    builder.build()?;
    let made = builder.made.compacted();
    if cfg!(debug_assertions) {
        verify::verify(&made)?;
    }
    Ok(made)
}

struct Builder<'a> {
    from: &'a Graph,
    made: Graph,
    /// For quantized values, their integers.
    integers: BTreeMap<ValueId, ValueId>,
    /// For all values, their reals; for unquantized ones, the values themselves.
    reals: BTreeMap<ValueId, ValueId>,
    /// Scale and zero point of quantized values.
    parameters: BTreeMap<ValueId, (ValueId, ValueId)>,
}

impl Builder<'_> {
    fn build(&mut self) -> Result<(), GraphError> {
        for id in &self.from.inputs {
            let value = self.from.value(*id);
            let element = if value.ty.quant.is_some() { container(value.ty.element) } else { value.ty.element };
            let new = self.made.add_input(&value.name, Type::maybe(element, value.ty.shape.clone()));
            if value.ty.quant.is_some() { &mut self.integers } else { &mut self.reals }.insert(*id, new);
        }
        for node in &self.from.nodes {
            if node.outputs.iter().all(|id| self.from.constant(*id).is_some()) {
                continue;
            }
            self.node(node).map_err(|e| match e {
                GraphError::Node { .. } => e,
                e => self.from.node_error(node, OpError::invalid(e.to_string())),
            })?;
        }
        for id in &self.from.outputs {
            let quantized = self.from.ty(*id).quant.is_some();
            let new = if quantized { self.integers(*id)? } else { self.real(*id)? };
            self.made.mark_output(new);
            let name = &self.from.value(*id).name;
            if self.made.value(new).name != *name {
                if let Some(other) = self.made.find(name) {
                    self.made.rename(other, &format!("{name}.real"));
                }
                self.made.rename(new, name);
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<(), GraphError> {
        let (x, y) = (node.input(0), node.outputs[0]);
        match (node.op.is::<ops::Quantize>(), node.op.is::<ops::Dequantize>(), x) {
            (true, _, Some(x)) => {
                let real = self.real(x)?;
                return self.quantize(y, real);
            }
            (_, true, Some(x)) => {
                let real = self.real(x)?;
                self.reals.insert(y, real);
                return Ok(());
            }
            _ => {}
        }
        if let Some(x) = x
            && self.changes_nothing(node, x, y)
        {
            let integers = self.integers(x)?;
            self.integers.insert(y, integers);
            return Ok(());
        }
        let mut inputs = vec![];
        for (i, id) in node.inputs.iter().enumerate() {
            inputs.push(match id {
                Some(id) if self.is_bias(node, i, *id) => Some(self.bias(node, *id)?),
                Some(id) => Some(self.real(*id)?),
                None => None,
            });
        }
        let made = self.made.add_node(node.op.clone(), &node.name, &inputs, node.outputs.len())?;
        for (old, new) in node.outputs.iter().zip(made) {
            let value = self.from.value(*old);
            let shape = value.ty.shape.clone();
            let element = if value.ty.quant.is_some() { Element::F32 } else { value.ty.element };
            self.made.value_mut(new).ty = Type::maybe(element, shape);
            self.made.rename(new, &value.name);
            match value.ty.quant {
                Some(_) => self.quantize(*old, new)?,
                None => {
                    self.reals.insert(*old, new);
                }
            }
        }
        Ok(())
    }

    /// An activation function between equal quantizations that no integer of its range feels: the quantization before it
    /// saturates where it would.
    fn changes_nothing(&self, node: &Node, x: ValueId, y: ValueId) -> bool {
        let (from, to) = (self.from.ty(x), self.from.ty(y));
        if from.quant.is_none() || from.quant != to.quant || from.element != to.element {
            return false;
        }
        let table = match node.op.name() {
            "Relu" => arithmetic::rescale_table(from, to, 0.0, f32::INFINITY),
            "Clip" => {
                let bound = |i| node.input(i).map(|id| self.from.constant(id));
                let (min, max) = (bound(1), bound(2));
                if min == Some(None) || max == Some(None) {
                    return false;
                }
                match ops::Clip::bounds(min.flatten(), max.flatten()) {
                    Ok((min, max)) => arithmetic::rescale_table(from, to, min, max),
                    Err(_) => return false,
                }
            }
            _ => return false,
        };
        let lo = from.range().map_or(0, |(lo, _)| lo);
        table.is_ok_and(|t| t.iter().zip(lo..).all(|(v, q)| *v == q))
    }

    /// The integers of a quantized value.
    fn integers(&mut self, id: ValueId) -> Result<ValueId, GraphError> {
        if let Some(new) = self.integers.get(&id) {
            return Ok(*new);
        }
        let value = self.from.value(id);
        let Some(constant) = &value.constant else {
            return Err(GraphError::Malformed(format!("`{}` is read before it is defined", value.name)));
        };
        let new = self.stored(&value.name, constant)?;
        self.integers.insert(id, new);
        Ok(new)
    }

    /// Constant integers in an element that ONNX has and every runtime computes with.
    fn stored(&mut self, name: &str, constant: &Tensor) -> Result<ValueId, GraphError> {
        let signed = constant.element().range().is_some_and(|(lo, _)| lo < 0);
        let wide = container(constant.element());
        if constant.element().bits() > 4 {
            return Ok(self.made.add_constant(name, constant.cast(wide)));
        }
        let four = Element::Bits { width: 4, signed };
        let packed = Tensor::from_ints(four, constant.shape(), &constant.to_ints())
            .map_err(|e| GraphError::Malformed(e.to_string()))?;
        let packed = self.made.add_constant(name, packed);
        let to = AttrValue::Int(if signed { ONNX_I8 } else { ONNX_U8 });
        let cast = make("Cast", &[("to", to)]).map_err(|e| GraphError::Malformed(e.to_string()))?;
        Ok(self.made.add_node(cast, &format!("{name}.widened"), &[Some(packed)], 1)?[0])
    }

    /// Scale and zero point of a quantized value, as constants.
    fn parameters(&mut self, id: ValueId) -> (ValueId, ValueId) {
        if let Some(known) = self.parameters.get(&id) {
            return *known;
        }
        let value = self.from.value(id);
        let (name, element) = (&value.name, container(value.ty.element));
        let (scale, zero) = match value.ty.quant.as_deref() {
            Some(quant) => parameter_tensors(quant, &value.ty, element),
            None => (Tensor::scalar(1.0f32), Tensor::scalar(0i32).cast(element)),
        };
        let scale = self.made.add_constant(&format!("{name}.scale"), scale);
        let zero = self.made.add_constant(&format!("{name}.zero"), zero);
        self.parameters.insert(id, (scale, zero));
        (scale, zero)
    }

    /// A value as reals: dequantized if it is quantized.
    fn real(&mut self, id: ValueId) -> Result<ValueId, GraphError> {
        if let Some(new) = self.reals.get(&id) {
            return Ok(*new);
        }
        let value = self.from.value(id);
        let new = match (&value.ty.quant, &value.constant) {
            (Some(quant), _) => {
                let integers = self.integers(id)?;
                let (scale, zero) = self.parameters(id);
                let op = linear("DequantizeLinear", quant)?;
                let name = format!("{}.real", value.name);
                self.made.add_node(op, &name, &[Some(integers), Some(scale), Some(zero)], 1)?[0]
            }
            (None, Some(constant)) => self.made.add_typed_constant(&value.name, value.ty.clone(), constant.clone()),
            (None, None) => {
                return Err(GraphError::Malformed(format!("`{}` is read before it is defined", value.name)));
            }
        };
        self.reals.insert(id, new);
        Ok(new)
    }

    /// Quantizes `real` to the type of the old value `id`.
    fn quantize(&mut self, id: ValueId, real: ValueId) -> Result<(), GraphError> {
        let value = self.from.value(id);
        let Some(quant) = &value.ty.quant else {
            return Err(GraphError::Malformed(format!("`{}` is not quantized", value.name)));
        };
        let (scale, zero) = self.parameters(id);
        let name = format!("{}.integers", value.name);
        let op = linear("QuantizeLinear", quant)?;
        let mut new = self.made.add_node(op, &name, &[Some(real), Some(scale), Some(zero)], 1)?[0];
        if let (Element::Bits { .. } | Element::Bipolar, Some((lo, hi))) = (value.ty.element, value.ty.range()) {
            let wide = container(value.ty.element);
            let mut bound = |which: &str, v: i32| {
                self.made.add_constant(&format!("{}.{which}", value.name), Tensor::scalar(v).cast(wide))
            };
            let (lo, hi) = (bound("lowest", lo), bound("highest", hi));
            let name = format!("{}.narrowed", value.name);
            new = self.made.add_node(Arc::new(ops::Clip {}), &name, &[Some(new), Some(lo), Some(hi)], 1)?[0];
        }
        self.integers.insert(id, new);
        Ok(())
    }

    fn is_bias(&self, node: &Node, i: usize, id: ValueId) -> bool {
        let QuantRule::Dot { bias, .. } = node.op.quantization() else { return false };
        i == bias
            && self.from.ty(id).element == Element::I32
            && node.input(0).is_some_and(|x| self.from.ty(x).quant.is_some())
    }

    /// The bias of a dot: its integers, dequantized with `x_scale·w_scale[c]`.
    fn bias(&mut self, node: &Node, id: ValueId) -> Result<ValueId, GraphError> {
        let QuantRule::Dot { weight, .. } = node.op.quantization() else { return self.real(id) };
        let quant = |i: usize| node.input(i).and_then(|id| self.from.ty(id).quant.clone());
        let (Some(x), Some(w)) = (quant(0), quant(weight)) else { return self.real(id) };
        let scales: Vec<f32> = w.scales().iter().map(|s| x.scale(0) * s).collect();
        let name = self.from.value(id).name.clone();
        let per_axis = scales.len() > 1;
        let scale = if per_axis { Tensor::vector(scales) } else { Tensor::scalar(scales[0]) };
        let zero = if per_axis { Tensor::vector(vec![0i32; scale.len()]) } else { Tensor::scalar(0i32) };
        let integers = self.real(id)?;
        let scale = self.made.add_constant(&format!("{name}.scale"), scale);
        let zero = self.made.add_constant(&format!("{name}.zero"), zero);
        let attrs: &[(&str, AttrValue)] = if per_axis { &[("axis", AttrValue::Int(0))] } else { &[] };
        let op = make("DequantizeLinear", attrs).map_err(|e| GraphError::Malformed(e.to_string()))?;
        Ok(self.made.add_node(op, &format!("{name}.real"), &[Some(integers), Some(scale), Some(zero)], 1)?[0])
    }
}

/// The 8-bit element that holds an element's integers.
fn container(element: Element) -> Element {
    match element.range() {
        Some((0, _)) => Element::U8,
        _ => Element::I8,
    }
}

/// Scale and zero point as ONNX wants them.
fn parameter_tensors(quant: &Quant, ty: &Type, element: Element) -> (Tensor, Tensor) {
    let n = quant.scales().len();
    let zeros: Vec<i32> = (0..n).map(|i| quant.zero(i)).collect();
    let shape = match quant.granularity() {
        Granularity::Tensor => vec![],
        Granularity::Axis(_) => vec![n],
        Granularity::Block { axis, size } => {
            let mut shape = ty.known_shape().unwrap_or_default();
            if let Some(d) = shape.get_mut(axis) {
                *d = d.div_ceil(size);
            }
            shape
        }
    };
    let scale = Tensor::vector(quant.scales().to_vec());
    let zero = Tensor::vector(zeros).cast(element);
    (scale.reshaped(&shape).unwrap_or(scale), zero.reshaped(&shape).unwrap_or(zero))
}

/// `QuantizeLinear` or `DequantizeLinear` for a quantization.
fn linear(name: &str, quant: &Quant) -> Result<Arc<dyn crate::Op>, GraphError> {
    let attrs = match quant.granularity() {
        Granularity::Tensor => vec![],
        Granularity::Axis(axis) => vec![("axis", AttrValue::Int(axis as i64))],
        Granularity::Block { axis, size } => {
            vec![("axis", AttrValue::Int(axis as i64)), ("block_size", AttrValue::Int(size as i64))]
        }
    };
    make(name, &attrs).map_err(|e| GraphError::Malformed(e.to_string()))
}

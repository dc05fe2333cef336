//! TFLite models, float and int8, to graphs. Reading only.
//!
//! TFLite keeps images channels-last, a graph keeps them channels-first. A tensor is therefore known under up to two values:
//! as the file has it, and transposed for the ops that slide windows; a `Transpose` joins them where both are needed. Weights
//! are transposed once, here. Quantization goes straight into the types, and what follows obeys qing's arithmetic, whose
//! requantization differs from TFLite's fixed-point multipliers by at most one step.

mod flatbuffer;
mod layers;
mod schema;

use std::{collections::HashMap, path::Path, sync::Arc};

use bytes::Bytes;
use qing_graph::{AttrValue, Attrs, Element, Granularity, Graph, Op, Quant, Tensor, Type, ValueId, ops, verify};

use self::{flatbuffer::Table, schema::Operator};
use crate::{FormatError, UnsupportedNode};

/// File identifier, at byte 4.
pub const IDENTIFIER: [u8; 4] = *b"TFL3";

/// Reads a `.tflite` file.
///
/// # Errors
/// [`FormatError`] with the path and what is wrong where; operators that are not supported are listed all at once.
pub fn read(path: &Path) -> Result<Graph, FormatError> {
    let bytes = qing_tensor::map_file(path).map_err(|e| FormatError::from(e).in_file(path))?;
    read_bytes(&bytes).map_err(|e| e.in_file(path))
}

/// Reads the bytes of a model; constants share them, except weights that must be transposed. Allocates a small multiple of
/// what the file holds.
///
/// # Errors
/// [`FormatError`] with what is wrong where.
pub fn read_bytes(bytes: &Bytes) -> Result<Graph, FormatError> {
    if bytes.get(4..8) != Some(&IDENTIFIER) {
        return Err(FormatError::malformed("byte 4", "not a TFLite model (the identifier TFL3 is missing)"));
    }
    let model = Table::root(bytes)?;
    let subgraphs = model.tables(2)?;
    let [subgraph] = subgraphs.as_slice() else {
        return Err(FormatError::unsupported("subgraphs", format!("{} subgraphs; expected one", subgraphs.len())));
    };
    let codes = model.tables(1)?.iter().map(operator_code).collect::<Result<Vec<_>, _>>()?;
    let operators =
        subgraph.tables(3)?.into_iter().map(|t| Operator::read(t, &codes)).collect::<Result<Vec<_>, _>>()?;
    refuse_unsupported(&operators)?;
    let tensors = read_tensors(bytes, &model, subgraph)?;
    let mut reader =
        Reader { graph: Graph::new(&subgraph.string(4)?), tensors, native: HashMap::new(), nchw: HashMap::new() };
    for i in subgraph.i32s(1)? {
        let t = reader.tensor(i)?;
        let (name, ty) = (t.name.clone(), t.ty.clone());
        let id = reader.graph.add_input(&name, ty);
        reader.native.insert(i, id);
    }
    for (index, operator) in operators.iter().enumerate() {
        layers::add(&mut reader, operator).map_err(|e| reader.explain(index, operator, e))?;
    }
    for i in subgraph.i32s(2)? {
        let id = reader.native(i)?;
        let name = reader.tensor(i)?.name.clone();
        reader.graph.mark_output(id);
        reader.graph.rename(id, &name);
    }
    let graph = reader.graph.compacted();
    verify::verify(&graph)?;
    Ok(graph)
}

/// Builtin code and custom name. Old files keep the code in a byte.
fn operator_code(table: &Table<'_>) -> Result<(i32, String), FormatError> {
    let old = table.i8(0, 0)?;
    Ok((table.i32(3, 0)?.max(old.into()), table.string(1)?))
}

fn refuse_unsupported(operators: &[Operator<'_>]) -> Result<(), FormatError> {
    let unsupported: Vec<UnsupportedNode> = operators
        .iter()
        .enumerate()
        .filter(|(_, o)| !layers::is_supported(o.code))
        .map(|(i, o)| UnsupportedNode {
            node: format!("operator {i}"),
            op: if o.custom.is_empty() { schema::operator::name(o.code) } else { o.custom.clone() },
            opset: None,
            reason: "qing does not read this TFLite operator".into(),
        })
        .collect();
    if unsupported.is_empty() { Ok(()) } else { Err(FormatError::Ops(unsupported)) }
}

/// A tensor of the file.
struct TensorInfo {
    name: String,
    /// Shape as in the file, with quantization.
    ty: Type,
    /// Its value, if it is constant.
    value: Option<Tensor>,
}

fn read_tensors(bytes: &Bytes, model: &Table<'_>, subgraph: &Table<'_>) -> Result<Vec<TensorInfo>, FormatError> {
    let buffers = model.tables(4)?;
    subgraph
        .tables(0)?
        .iter()
        .map(|table| {
            let name = short_name(&table.string(3)?);
            read_tensor(bytes, table, &buffers, name.clone())
                .map_err(|e| if matches!(e, FormatError::Malformed { .. }) { e } else { e.at(&name) })
        })
        .collect()
}

/// Converters join the names of everything they fused with semicolons; the last is the layer's own.
fn short_name(name: &str) -> String {
    name.rsplit(';').find(|part| !part.is_empty()).unwrap_or(name).to_string()
}

fn read_tensor(
    bytes: &Bytes,
    table: &Table<'_>,
    buffers: &[Table<'_>],
    name: String,
) -> Result<TensorInfo, FormatError> {
    let place = format!("tensor `{name}`");
    let code = table.i8(1, 0)?;
    let element =
        schema::element(code).ok_or_else(|| FormatError::unsupported(&place, format!("element type {code}")))?;
    let shape: Vec<usize> = table
        .i32s(0)?
        .into_iter()
        .map(|d| usize::try_from(d).map_err(|_| FormatError::malformed(&place, format!("dimension {d}"))))
        .collect::<Result<_, _>>()?;
    // A signature of −1 is a dimension that the file leaves open; the shape has 1 there.
    let signature = table.i32s(7)?;
    let open = signature.len() == shape.len() && signature.iter().any(|d| *d < 0);
    let buffer = table.u32(2, 0)? as usize;
    let data = match buffers.get(buffer) {
        None => return Err(FormatError::malformed(place, format!("buffer {buffer} of {}", buffers.len()))),
        Some(b) => b.bytes(0)?,
    };
    let mut ty = Type::new(element, shape.iter().copied());
    if open && data.is_empty() {
        ty.shape = Some(
            shape
                .iter()
                .zip(&signature)
                .enumerate()
                .map(|(i, (n, s))| if *s < 0 { open_dim(i) } else { (*n).into() })
                .collect(),
        );
    }
    if let Some(q) = table.table(4)? {
        ty.quant = quantization(&q, element).map_err(|e| FormatError::malformed(&place, e.to_string()))?.map(Arc::new);
        if let Some(q) = &ty.quant
            && q.slices(&shape) != Some(q.scales().len())
        {
            return Err(FormatError::malformed(place, format!("{} scales for shape {shape:?}", q.scales().len())));
        }
    }
    let value = if data.is_empty() {
        None
    } else {
        let tensor = Tensor::from_bytes(element, &shape, bytes.slice(data));
        Some(tensor.map_err(|e| FormatError::tensor(&name, e))?)
    };
    Ok(TensorInfo { name, ty, value })
}

fn open_dim(axis: usize) -> qing_graph::Dim {
    if axis == 0 { qing_graph::Dim::Symbol("batch".into()) } else { qing_graph::Dim::Unknown }
}

/// Scale and zero point, for integers of at most 8 bits; the i32 of biases and wider integers carry none.
fn quantization(q: &Table<'_>, element: Element) -> Result<Option<Quant>, FormatError> {
    let scale = q.f32s(2)?;
    if scale.is_empty() || !element.is_quantizable() {
        return Ok(None);
    }
    let zero: Vec<i32> = q.i64s(3)?.into_iter().map(|z| z.clamp(-256, 256) as i32).collect();
    let zero = if zero.is_empty() { vec![0] } else { zero };
    let axis = usize::try_from(q.i32(6, 0)?).map_err(|_| FormatError::malformed("quantized_dimension", "negative"))?;
    let granularity = if scale.len() == 1 { Granularity::Tensor } else { Granularity::Axis(axis) };
    Quant::new(granularity, scale, zero).map(Some).map_err(|e| FormatError::op("quantization", e))
}

/// The graph as it grows.
struct Reader {
    graph: Graph,
    tensors: Vec<TensorInfo>,
    /// Values laid out as in the file.
    native: HashMap<i32, ValueId>,
    /// Values of rank 4, channels first.
    nchw: HashMap<i32, ValueId>,
}

/// From channels-last to channels-first, and back.
const TO_NCHW: [usize; 4] = [0, 3, 1, 2];
const TO_NHWC: [usize; 4] = [0, 2, 3, 1];

impl Reader {
    fn tensor(&self, i: i32) -> Result<&TensorInfo, FormatError> {
        usize::try_from(i)
            .ok()
            .and_then(|i| self.tensors.get(i))
            .ok_or_else(|| FormatError::malformed("operators", format!("tensor {i} of {}", self.tensors.len())))
    }

    /// The constant behind tensor `i`.
    fn constant(&self, i: i32) -> Result<&Tensor, FormatError> {
        let t = self.tensor(i)?;
        let place = format!("tensor `{}`", t.name);
        t.value.as_ref().ok_or_else(|| FormatError::unsupported(place, "computed weights; expected a constant"))
    }

    /// Tensor `i` as the file lays it out.
    fn native(&mut self, i: i32) -> Result<ValueId, FormatError> {
        if let Some(id) = self.native.get(&i) {
            return Ok(*id);
        }
        let (name, ty) = (self.tensor(i)?.name.clone(), self.tensor(i)?.ty.clone());
        let id = if let Some(value) = self.tensor(i)?.value.clone() {
            self.graph.add_typed_constant(&name, ty, value)
        } else if let Some(first) = self.nchw.get(&i).copied() {
            self.transpose(first, &TO_NHWC, &name)?
        } else {
            return Err(FormatError::malformed(format!("tensor `{name}`"), "read before it is computed"));
        };
        self.native.insert(i, id);
        Ok(id)
    }

    /// Tensor `i` of rank 4 with its channels first.
    fn nchw(&mut self, i: i32) -> Result<ValueId, FormatError> {
        if let Some(id) = self.nchw.get(&i) {
            return Ok(*id);
        }
        let name = self.tensor(i)?.name.clone();
        if self.tensor(i)?.ty.rank() != Some(4) {
            let ty = &self.tensor(i)?.ty;
            return Err(FormatError::unsupported(format!("tensor `{name}`"), format!("{ty}; expected rank 4")));
        }
        let native = self.native(i)?;
        let id = self.transpose(native, &TO_NCHW, &format!("{name}.nchw"))?;
        self.nchw.insert(i, id);
        Ok(id)
    }

    fn transpose(&mut self, value: ValueId, perm: &[usize; 4], name: &str) -> Result<ValueId, FormatError> {
        let ty = self.graph.ty(value).clone();
        let shape = ty.shape.as_ref().map(|dims| perm.iter().map(|p| dims[*p].clone()).collect());
        let perm = AttrValue::Ints(perm.iter().map(|p| *p as i64).collect());
        self.node("Transpose", vec![("perm", perm)], name, &[Some(value)], ty.with_shape(shape))
    }

    /// Adds a node with one output of a given type.
    fn node(
        &mut self,
        op: &str,
        attrs: Vec<(&str, AttrValue)>,
        name: &str,
        inputs: &[Option<ValueId>],
        ty: Type,
    ) -> Result<ValueId, FormatError> {
        let op = build(op, attrs).map_err(|e| e.at(name))?;
        Ok(self.graph.add_typed_node(op, name, inputs, vec![ty])?[0])
    }

    /// The error of an operator, with its number where the graph could not name it.
    fn explain(&self, index: usize, operator: &Operator<'_>, error: FormatError) -> FormatError {
        match error {
            FormatError::Graph(_) | FormatError::Ops(_) => error,
            other => other.at(&format!("operator {index} ({})", layers::name(operator.code))),
        }
    }
}

/// An op by its name, standard or qing's own.
fn build(name: &str, attrs: Vec<(&str, AttrValue)>) -> Result<Arc<dyn Op>, FormatError> {
    let spec = ops::find("", name)
        .or_else(|| ops::find("qing", name))
        .ok_or_else(|| FormatError::unsupported(name, "this op is not in the list of ops"))?;
    let attrs = Attrs(attrs.into_iter().map(|(n, v)| (n.to_string(), v)).collect());
    (spec.build)(&attrs).map_err(|e| FormatError::op(name, e))
}

#[cfg(test)]
mod tests;

//! [`Graph`] to `ModelProto`.

use std::collections::HashMap;

use bytes::Bytes;
use qing_graph::{AttrValue, Dim, Element, Graph, Node, Type, Value, passes};

use super::{
    functions::domain,
    proto::{
        AttributeProto, Dimension, DimensionValue, EXTERNAL, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
        StringStringEntryProto, TensorShapeProto, TensorTypeProto, TypeProto, TypeValue, ValueInfoProto,
        attribute_type as kind,
    },
    tensor::{data_type, write_tensor},
};
use crate::FormatError;

/// How a model is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Version of the standard operator set; the oldest that has all of the graph's ops and elements, but at least 21, if
    /// `None`.
    pub opset: Option<i64>,
    /// Whether constants of a kilobyte or more go to a file beside the model, named after it with `.data` appended.
    /// Protocol Buffers cannot hold more than 2 GB.
    pub external_data: bool,
}

/// The form in which ops are kept here; what older runtimes read with the least trouble.
const OLDEST_OPSET: i64 = 21;

/// Ops and attributes that came after [`OLDEST_OPSET`], with the opset that brought them.
const LATER: &[(&str, &str, i64)] = &[
    ("Attention", "", 23),
    ("RMSNormalization", "", 23),
    ("RotaryEmbedding", "", 23),
    ("Swish", "", 24),
    ("TensorScatter", "", 24),
    ("BitCast", "", 26),
    ("CumProd", "", 26),
    ("QuantizeLinear", "precision", 23),
    ("DequantizeLinear", "output_dtype", 23),
    ("Cast", "round_mode", 24),
    ("CastLike", "round_mode", 24),
];

/// Attributes that ONNX wants written even if they have the value that is qing's default.
const REQUIRED: &[(&str, &str)] = &[
    ("AveragePool", "kernel_shape"),
    ("BitCast", "to"),
    ("BitShift", "direction"),
    ("Cast", "to"),
    ("Concat", "axis"),
    ("DepthToSpace", "blocksize"),
    ("Einsum", "equation"),
    ("GroupNormalization", "num_groups"),
    ("LRN", "size"),
    ("LpPool", "kernel_shape"),
    ("MaxPool", "kernel_shape"),
    ("MaxUnpool", "kernel_shape"),
    ("RandomNormal", "shape"),
    ("RandomUniform", "shape"),
    ("SpaceToDepth", "blocksize"),
];

/// The IR version that came with an opset.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=20 => 9,
        21 | 22 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    }
}

/// The model that describes a graph; quantized values are written in the QuantizeLinear form.
///
/// # Errors
/// If an op, an element or a quantized value has no form in ONNX.
pub(super) fn write_model(graph: &Graph, options: &WriteOptions) -> Result<ModelProto, FormatError> {
    let graph = passes::to_qdq(graph)?.compacted();
    let opset = options.opset.unwrap_or_else(|| opset(&graph));
    let mut imports = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
    for name in graph.nodes.iter().map(|n| n.op.spec().domain).filter(|d| !d.is_empty()) {
        if !imports.iter().any(|i| i.domain == name) {
            imports.push(OperatorSetIdProto { domain: name.into(), version: 1 });
        }
    }
    Ok(ModelProto {
        ir_version: ir_version(opset),
        producer_name: "qing".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(write_graph(&graph)?),
        opset_import: imports,
        metadata_props: graph
            .metadata
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: key.clone(), value: value.clone() })
            .collect(),
        functions: vec![],
    })
}

/// The oldest opset that has all the graph needs.
fn opset(graph: &Graph) -> i64 {
    let ops = graph.nodes.iter().filter(|n| domain(n.op.spec().domain).is_empty()).flat_map(|node| {
        let attrs = node.op.attrs();
        LATER.iter().filter_map(move |(op, attr, since)| {
            (node.op.name() == *op && (attr.is_empty() || attrs.get(attr).is_some())).then_some(*since)
        })
    });
    let elements = graph.values().map(|(_, v)| match v.ty.element {
        Element::Bits { width: 2, .. } => 25,
        _ => OLDEST_OPSET,
    });
    ops.chain(elements).fold(OLDEST_OPSET, i64::max)
}

fn write_graph(graph: &Graph) -> Result<GraphProto, FormatError> {
    let producers = graph.producers();
    let mut proto = GraphProto {
        name: if graph.name.is_empty() { "graph".into() } else { graph.name.clone() },
        ..GraphProto::default()
    };
    for (id, value) in graph.values() {
        if let Some(quant) = &value.ty.quant {
            let message = format!("the quantized type {} ({quant:?}); expected a graph in QDQ form", value.ty);
            return Err(FormatError::unsupported(format!("value `{}`", value.name), message));
        }
        // What inference computed ahead of time is still defined by its node.
        if let Some(tensor) = &value.constant
            && producers[id.0 as usize].is_none()
        {
            proto.initializer.push(write_tensor(&value.name, tensor)?);
        }
    }
    let info = |id| write_value(graph.value(id));
    proto.input = graph.inputs.iter().map(|id| info(*id)).collect::<Result<_, _>>()?;
    proto.output = graph.outputs.iter().map(|id| info(*id)).collect::<Result<_, _>>()?;
    let mut names: HashMap<&str, usize> = HashMap::new();
    for node in &graph.nodes {
        let uses = names.entry(&node.name).or_default();
        // Node names must differ, or be absent.
        let name = if *uses == 0 { node.name.clone() } else { format!("{}.{uses}", node.name) };
        *uses += 1;
        proto.node.push(write_node(graph, node, name)?);
    }
    Ok(proto)
}

fn write_node(graph: &Graph, node: &Node, name: String) -> Result<NodeProto, FormatError> {
    let spec = node.op.spec();
    let at = || format!("node `{}` ({})", node.name, spec.name);
    if spec.domain == "qing" {
        return Err(FormatError::unsupported(at(), "an op of qing's own; expected a graph in QDQ form"));
    }
    let mut attrs = node.op.attrs();
    for (_, attr) in REQUIRED.iter().filter(|(op, _)| *op == spec.name) {
        if attrs.get(attr).is_none()
            && let Some(value) = node.op.attr(attr)
        {
            attrs.set(attr, value);
        }
    }
    let value_name = |id| graph.value(id).name.clone();
    Ok(NodeProto {
        input: node.inputs.iter().map(|id| id.map_or(String::new(), value_name)).collect(),
        output: node.outputs.iter().map(|id| value_name(*id)).collect(),
        name,
        op_type: spec.name.into(),
        attribute: attrs.0.iter().map(|(n, v)| write_attribute(n, v)).collect::<Result<_, _>>()?,
        domain: spec.domain.into(),
        overload: String::new(),
    })
}

fn write_attribute(name: &str, value: &AttrValue) -> Result<AttributeProto, FormatError> {
    let bytes = |s: &String| Bytes::copy_from_slice(s.as_bytes());
    let mut proto = AttributeProto { name: name.into(), ..AttributeProto::default() };
    proto.r#type = match value {
        AttrValue::Int(v) => {
            proto.i = Some(*v);
            kind::INT
        }
        AttrValue::Float(v) => {
            proto.f = Some(*v);
            kind::FLOAT
        }
        AttrValue::String(v) => {
            proto.s = Some(bytes(v));
            kind::STRING
        }
        AttrValue::Tensor(v) => {
            proto.t = Some(Box::new(write_tensor(name, v)?));
            kind::TENSOR
        }
        AttrValue::Ints(v) => {
            proto.ints.clone_from(v);
            kind::INTS
        }
        AttrValue::Floats(v) => {
            proto.floats.clone_from(v);
            kind::FLOATS
        }
        AttrValue::Strings(v) => {
            proto.strings = v.iter().map(bytes).collect();
            kind::STRINGS
        }
    };
    Ok(proto)
}

fn write_value(value: &Value) -> Result<ValueInfoProto, FormatError> {
    let Type { element, shape, .. } = &value.ty;
    let elem_type = data_type(*element).ok_or_else(|| {
        FormatError::unsupported(format!("value `{}`", value.name), format!("ONNX has no element {element}"))
    })?;
    let dim = |d: &Dim| Dimension {
        value: match d {
            Dim::Known(n) => Some(DimensionValue::Size(*n as i64)),
            Dim::Symbol(s) => Some(DimensionValue::Name(s.to_string())),
            Dim::Unknown => None,
        },
    };
    let shape = shape.as_ref().map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = TensorTypeProto { elem_type, shape };
    Ok(ValueInfoProto { name: value.name.clone(), r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)) }) })
}

/// Constants smaller than this stay in the model, so that shapes can be seen without the data file.
const SMALLEST_MOVED: usize = 1024;

/// Where a tensor begins in the data file, so that it can be mapped and read where it lies.
const ALIGN: usize = 64;

/// Moves the large constants of a model into the data that are returned, to be found at `location`.
pub(super) fn move_out(model: &mut ModelProto, location: &str) -> Vec<u8> {
    let mut data: Vec<u8> = vec![];
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
    for tensor in model.graph.iter_mut().flat_map(|g| &mut g.initializer) {
        let Some(bytes) = tensor.raw_data.take_if(|b| b.len() >= SMALLEST_MOVED) else { continue };
        data.resize(data.len().next_multiple_of(ALIGN), 0);
        tensor.data_location = EXTERNAL;
        tensor.external_data = vec![
            entry("location", location.into()),
            entry("offset", data.len().to_string()),
            entry("length", bytes.len().to_string()),
        ];
        data.extend_from_slice(&bytes);
    }
    data
}

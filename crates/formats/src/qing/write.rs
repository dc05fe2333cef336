use std::path::Path;

use prost::Message as _;
use qing_graph::{AttrValue, Dim, Granularity, Graph, Quant, Tensor};

use super::{ALIGN, MAGIC, PLAIN, PREFIX, PREPACKED, schema};
use crate::{FormatError, atomic};

/// Writes a graph to `path`: into a temporary file beside it, synced, then renamed, so that a reader never sees half.
///
/// # Errors
/// [`FormatError`] with the path, if the disk refuses.
pub fn write(graph: &Graph, path: &Path) -> Result<(), FormatError> {
    atomic::write(path, &to_bytes(graph))
}

/// [`write()`], compressed: smaller, but decoded into memory when it is read.
///
/// # Errors
/// As [`write()`].
#[cfg(feature = "compress")]
pub fn write_compressed(graph: &Graph, path: &Path) -> Result<(), FormatError> {
    atomic::write(path, &to_compressed_bytes(graph))
}

/// The bytes of a `.qing` file. Values that nothing reads are left out.
pub fn to_bytes(graph: &Graph) -> Vec<u8> {
    let mut data = Data::default();
    let header = header(graph, &mut data).encode_to_vec();
    assemble(PLAIN, &header, &data.bytes)
}

/// [`write()`] with packed weights: bytes of the engine under the name of what they are packed for.
///
/// # Errors
/// As [`write()`].
pub fn write_prepacked(graph: &Graph, packed: &[(String, Vec<u8>)], path: &Path) -> Result<(), FormatError> {
    atomic::write(path, &to_prepacked_bytes(graph, packed))
}

/// The bytes of a `.qing` file with packed weights.
pub fn to_prepacked_bytes(graph: &Graph, packed: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut data = Data::default();
    let mut header = header(graph, &mut data);
    let mut offset = 0;
    for (packing, bytes) in packed {
        let length = bytes.len() as u64;
        header.packed.push(schema::Section { packing: packing.clone(), offset, length, crc: crc32fast::hash(bytes) });
        offset = (offset + length).next_multiple_of(ALIGN as u64);
    }
    let mut out = assemble(PREPACKED, &header.encode_to_vec(), &data.bytes);
    for (_, bytes) in packed {
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        out.extend(bytes);
    }
    out
}

/// The bytes of a compressed `.qing` file.
#[cfg(feature = "compress")]
pub fn to_compressed_bytes(graph: &Graph) -> Vec<u8> {
    let mut data = Data { compress: true, ..Data::default() };
    let header = header(graph, &mut data).encode_to_vec();
    let mut coded = (header.len() as u32).to_le_bytes().to_vec();
    coded.extend(super::code::adaptive::encode(&header, 1, super::code::adaptive::ORDERS));
    assemble(super::COMPRESSED, &coded, &data.bytes)
}

fn header(graph: &Graph, data: &mut Data) -> schema::Header {
    let graph = graph.clone().compacted();
    let values = graph
        .values()
        .map(|(_, v)| schema::Value {
            name: v.name.clone(),
            element: v.ty.element.name(),
            shape: v.ty.shape.as_ref().map(|dims| schema::Shape { dims: dims.iter().map(dim).collect() }),
            quant: v.ty.quant.as_deref().map(quant),
            constant: v.constant.as_ref().map(|t| data.add(t)),
        })
        .collect();
    let nodes = graph
        .nodes
        .iter()
        .map(|node| schema::Node {
            name: node.name.clone(),
            domain: node.op.spec().domain.into(),
            op: node.op.name().into(),
            inputs: node.inputs.iter().map(|i| i.map_or(0, |id| id.0 + 1)).collect(),
            outputs: node.outputs.iter().map(|id| id.0).collect(),
            attributes: node.op.attrs().0.into_iter().map(|(name, v)| attribute(name, v, data)).collect(),
        })
        .collect();
    schema::Header {
        name: graph.name.clone(),
        values,
        nodes,
        inputs: graph.inputs.iter().map(|id| id.0).collect(),
        outputs: graph.outputs.iter().map(|id| id.0).collect(),
        metadata: graph
            .metadata
            .iter()
            .map(|(key, value)| schema::Entry { key: key.clone(), value: value.clone() })
            .collect(),
        packed: vec![],
    }
}

fn assemble(version: u32, header: &[u8], data: &[u8]) -> Vec<u8> {
    let data_offset = (PREFIX + header.len()).next_multiple_of(ALIGN);
    let mut out = Vec::with_capacity(data_offset + data.len());
    out.extend(MAGIC);
    out.extend(version.to_le_bytes());
    out.extend(crc32fast::hash(header).to_le_bytes());
    out.extend((header.len() as u64).to_le_bytes());
    out.extend((data_offset as u64).to_le_bytes());
    out.extend((data.len() as u64).to_le_bytes());
    out.extend(crc32fast::hash(data).to_le_bytes());
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out.extend(header);
    out.resize(data_offset, 0);
    out.extend(data);
    out
}

/// The data section as it grows.
#[derive(Default)]
struct Data {
    bytes: Vec<u8>,
    compress: bool,
}

impl Data {
    fn add(&mut self, tensor: &Tensor) -> schema::Blob {
        let coded = if self.compress { shorter(tensor) } else { None };
        // The section starts at a multiple of the alignment, so offsets within it may be aligned instead.
        if coded.is_none() {
            let align = if self.compress { NEAR } else { ALIGN };
            self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
        }
        let (coding, bytes) = coded.as_ref().map_or((0, tensor.bytes().as_ref()), |(c, b)| (*c, b.as_slice()));
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        schema::Blob {
            offset,
            length: bytes.len() as u64,
            shape: tensor.shape().iter().map(|d| *d as u64).collect(),
            element: tensor.element().name(),
            coding,
        }
    }
}

/// The coded bytes of a tensor and how they are coded, if they are fewer than its own.
#[cfg(feature = "compress")]
fn shorter(tensor: &Tensor) -> Option<(u32, Vec<u8>)> {
    use super::code::{Coding, encode};
    let (coding, bytes) = encode(tensor);
    (coding != Coding::Plain).then_some((coding as u32, bytes))
}

#[cfg(not(feature = "compress"))]
fn shorter(_: &Tensor) -> Option<(u32, Vec<u8>)> {
    None
}

/// Alignment of plain tensors in a compressed file: that of their elements.
const NEAR: usize = 8;

fn dim(dim: &Dim) -> schema::Dim {
    schema::Dim {
        size: dim.known().map(|n| n as u64),
        symbol: match dim {
            Dim::Symbol(s) => Some(s.to_string()),
            _ => None,
        },
    }
}

fn quant(quant: &Quant) -> schema::Quant {
    let (axis, block) = match quant.granularity() {
        Granularity::Tensor => (None, None),
        Granularity::Axis(axis) => (Some(axis as u32), None),
        Granularity::Block { axis, size } => (Some(axis as u32), Some(size as u64)),
    };
    schema::Quant { scale: quant.scales().to_vec(), zero: quant.zeros().to_vec(), axis, block }
}

fn attribute(name: String, value: AttrValue, data: &mut Data) -> schema::Attribute {
    use schema::AttributeValue as V;
    let value = match value {
        AttrValue::Int(v) => V::Int(v),
        AttrValue::Float(v) => V::Float(v),
        AttrValue::String(v) => V::String(v),
        AttrValue::Tensor(v) => V::Tensor(data.add(&v)),
        AttrValue::Ints(values) => V::Ints(schema::Ints { values }),
        AttrValue::Floats(values) => V::Floats(schema::Floats { values }),
        AttrValue::Strings(values) => V::Strings(schema::Strings { values }),
    };
    schema::Attribute { name, value: Some(value) }
}

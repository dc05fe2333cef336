use std::{cell::Cell, io::Read as _, path::Path};

use bytes::Bytes;
use prost::Message as _;
use qing_graph::{AttrValue, Attrs, Dim, Element, Granularity, Graph, Node, Quant, Tensor, Type, ValueId, ops, verify};

use qing_tensor::element_count;

use super::{ALIGN, COMPRESSED, DENSEST, MAGIC, PREFIX, PREPACKED, VERSION, schema};
use crate::FormatError;

/// Reads a `.qing` file; its tensors point into the mapped file.
///
/// # Errors
/// [`FormatError`] with the path and what is wrong where.
pub fn read(path: &Path) -> Result<Graph, FormatError> {
    let bytes = qing_tensor::map_file(path).map_err(|e| FormatError::from(e).in_file(path))?;
    read_bytes(&bytes).map_err(|e| e.in_file(path))
}

/// Reads the bytes of a `.qing` file; tensors share them. Allocates a small multiple of the header's size, never of a
/// size the file merely claims; of a compressed file, at most 1024 times its size.
///
/// # Errors
/// [`FormatError::Malformed`] with what is wrong where.
pub fn read_bytes(bytes: &Bytes) -> Result<Graph, FormatError> {
    Ok(open_bytes(bytes, "")?.graph)
}

/// A network, and its weights as they were packed before, if the file has them.
#[derive(Debug)]
pub struct Opened {
    /// The network.
    pub graph: Graph,
    /// What was written under the name that was asked for.
    pub packed: Option<Bytes>,
}

/// Opens a `.qing` file for an engine that packs weights as `packing` says: where the file has them packed like that, its own are
/// neither read nor checked.
///
/// # Errors
/// As [`read`].
pub fn open(path: &Path, packing: &str) -> Result<Opened, FormatError> {
    let bytes = qing_tensor::map_file(path).map_err(|e| FormatError::from(e).in_file(path))?;
    open_bytes(&bytes, packing).map_err(|e| e.in_file(path))
}

/// Whether a file begins as a `.qing` file does.
pub fn is(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == MAGIC
}

/// [`open`] for bytes in memory.
///
/// # Errors
/// As [`read_bytes`].
pub fn open_bytes(bytes: &Bytes, packing: &str) -> Result<Opened, FormatError> {
    let sections = sections(bytes)?;
    let plain = sections.version != COMPRESSED;
    let header = if plain { sections.header } else { plain_header(&sections.header)?.into() };
    let mut header = schema::Header::decode(header).map_err(|e| malformed("header", e))?;
    let packed = packed(bytes, sections.end, sections.version, &header.packed, packing)?;
    if packed.is_none() {
        check("data section", &sections.data, sections.data_crc)?;
    }
    header.packed.clear();
    let data = Data { bytes: sections.data, coded: !plain, left: Cell::new(bytes.len().saturating_mul(DENSEST)) };
    Ok(Opened { graph: graph(header, &data)?, packed })
}

/// The packed weights of that name, checked; and that the file ends where it should.
fn packed(
    bytes: &Bytes,
    end: usize,
    version: u32,
    sections: &[schema::Section],
    packing: &str,
) -> Result<Option<Bytes>, FormatError> {
    let (mut found, mut ends) = (None, end as u64);
    // Version 1 ends with its data.
    let sections = if version == PREPACKED { sections } else { &[] };
    for section in sections {
        let place = || format!("packed weights `{}`", section.packing);
        let past = || malformed(place(), "they pass the end of the file");
        let start = (end.next_multiple_of(ALIGN) as u64).checked_add(section.offset).ok_or_else(past)?;
        let last = start.checked_add(section.length).filter(|last| *last <= bytes.len() as u64).ok_or_else(past)?;
        if !section.offset.is_multiple_of(ALIGN as u64) {
            return Err(malformed(place(), format!("they cannot start at byte {start}")));
        }
        ends = ends.max(last);
        if section.packing == packing {
            found = Some((bytes.slice(start as usize..last as usize), section.crc, place()));
        }
    }
    if ends != bytes.len() as u64 {
        return Err(malformed("byte 32", format!("{} bytes, but the sections end elsewhere", bytes.len())));
    }
    found
        .map(|(section, crc, place)| {
            // They stay in memory: they are what will run.
            if crc32fast::hash(&section) == crc { Ok(section) } else { Err(damaged(&place)) }
        })
        .transpose()
}

fn damaged(place: &str) -> FormatError {
    malformed(place, "the checksum does not match: the file is damaged")
}

/// Checks a section against its checksum.
fn check(place: &str, section: &Bytes, expected: u32) -> Result<(), FormatError> {
    if checksum(section) == expected { Ok(()) } else { Err(damaged(place)) }
}

/// The graph that a header describes.
fn graph(header: schema::Header, data: &Data) -> Result<Graph, FormatError> {
    let mut graph = Graph::new(&header.name);
    for (i, value) in header.values.iter().enumerate() {
        add_value(&mut graph, i, value, data)?;
    }
    let count = header.values.len();
    let id = |i: u32, what: &dyn Fn() -> String| {
        if (i as usize) < count { Ok(ValueId(i)) } else { Err(malformed(what(), format!("value {i} of {count}"))) }
    };
    for i in header.inputs {
        graph.inputs.push(id(i, &|| "inputs".into())?);
    }
    for i in header.outputs {
        graph.outputs.push(id(i, &|| "outputs".into())?);
    }
    for node in &header.nodes {
        let place = || format!("node `{}`", node.name);
        let spec = ops::find(&node.domain, &node.op).ok_or_else(|| {
            let op = if node.domain.is_empty() { node.op.clone() } else { format!("{}.{}", node.domain, node.op) };
            let rest =
                if ops::COMPLETE { "" } else { ", or was left out of this build (features `all-ops` and `train`)" };
            malformed(place(), format!("op {op} is not known to this version of qing{rest}"))
        })?;
        let mut attrs = Attrs::default();
        for attribute in &node.attributes {
            attrs.set(&attribute.name, attribute_value(attribute, data).map_err(|e| malformed(place(), e))?);
        }
        let inputs = node
            .inputs
            .iter()
            .map(|i| i.checked_sub(1).map(|i| id(i, &place)).transpose())
            .collect::<Result<_, _>>()?;
        let outputs = node.outputs.iter().map(|i| id(*i, &place)).collect::<Result<_, _>>()?;
        let op = (spec.build)(&attrs).map_err(|e| malformed(place(), e))?;
        graph.nodes.push(Node { name: node.name.clone(), op, inputs, outputs });
    }
    for entry in header.metadata {
        graph.metadata.insert(entry.key, entry.value);
    }
    verify::verify(&graph).map_err(|e| malformed("graph", e))?;
    Ok(graph)
}

#[allow(clippy::needless_pass_by_value, reason = "errors are handed over as `map_err` gives them")]
fn malformed(place: impl Into<String>, what: impl ToString) -> FormatError {
    FormatError::malformed(place, what.to_string())
}

/// The data section.
struct Data {
    bytes: Bytes,
    /// Whether tensors in it may be coded.
    coded: bool,
    /// Bytes that may still be decoded: many tensors may claim the same coded ones.
    left: Cell<usize>,
}

/// The header of a compressed file.
#[cfg(feature = "compress")]
fn plain_header(coded: &[u8]) -> Result<Vec<u8>, FormatError> {
    use super::code::{adaptive, fits};
    let short = || malformed("header", "it is too short to be a compressed one");
    let (length, coded) = coded.split_first_chunk::<4>().ok_or_else(short)?;
    let length = u32::from_le_bytes(*length) as usize;
    if !fits(coded.len(), length) {
        return Err(malformed("header", format!("{} coded bytes are too few for {length}", coded.len())));
    }
    adaptive::decode(coded, length, 1, adaptive::ORDERS).map_err(|e| malformed("header", e))
}

#[cfg(not(feature = "compress"))]
fn plain_header(_: &[u8]) -> Result<Vec<u8>, FormatError> {
    Err(malformed("byte 8", "the file is compressed, which this build does not read (feature `compress`)"))
}

/// A tensor whose bytes are coded in the way of that number.
#[cfg(feature = "compress")]
fn decoded(coding: u32, bytes: &[u8], element: Element, shape: &[usize]) -> Result<Tensor, String> {
    use super::code::{Coding, decode};
    let coding = Coding::of(coding).ok_or_else(|| unknown(coding))?;
    decode(coding, bytes, element, shape)
}

#[cfg(not(feature = "compress"))]
fn decoded(coding: u32, _: &[u8], _: Element, _: &[usize]) -> Result<Tensor, String> {
    Err(unknown(coding))
}

fn unknown(coding: u32) -> String {
    format!("coding {coding} is not known to this version of qing")
}

/// The parts of a file.
struct Sections {
    version: u32,
    header: Bytes,
    data: Bytes,
    data_crc: u32,
    /// Where the data ends.
    end: usize,
}

/// The parts of a file, with every length checked, and the checksums of prefix and header.
fn sections(bytes: &Bytes) -> Result<Sections, FormatError> {
    let prefix: &[u8; PREFIX] = bytes
        .get(..PREFIX)
        .and_then(|p| p.try_into().ok())
        .ok_or_else(|| malformed("byte 0", format!("{} bytes are too few for a .qing file", bytes.len())))?;
    let u32_at = |i: usize| u32::from_le_bytes([prefix[i], prefix[i + 1], prefix[i + 2], prefix[i + 3]]);
    let u64_at = |i: usize| u64::from(u32_at(i)) | u64::from(u32_at(i + 4)) << 32;
    if prefix[..8] != MAGIC {
        return Err(malformed("byte 0", "not a .qing file (the magic differs)"));
    }
    let version = u32_at(8);
    if version == 0 || version > VERSION {
        let text = format!("version {version}; this qing reads up to version {VERSION}, a newer one is needed");
        return Err(malformed("byte 8", text));
    }
    if crc32fast::hash(&prefix[..44]) != u32_at(44) {
        return Err(malformed("byte 44", "the checksum of the prefix does not match"));
    }
    let window = |offset: u64, length: u64, what: &str| {
        let end = offset.checked_add(length).filter(|end| *end <= bytes.len() as u64);
        let end = end.ok_or_else(|| {
            malformed(format!("byte {offset}"), format!("the {what} of {length} bytes passes the end of the file"))
        })?;
        Ok::<_, FormatError>(bytes.slice(offset as usize..end as usize))
    };
    let (header, data_offset) = (window(PREFIX as u64, u64_at(16), "header")?, u64_at(24));
    if !data_offset.is_multiple_of(ALIGN as u64) || data_offset < (PREFIX + header.len()) as u64 {
        return Err(malformed("byte 24", format!("the data section cannot start at byte {data_offset}")));
    }
    let data = window(data_offset, u64_at(32), "data section")?;
    check("header", &header, u32_at(12))?;
    let end = data_offset as usize + data.len();
    Ok(Sections { version, header, data, data_crc: u32_at(40), end })
}

/// The checksum of a section. Pages are given back as soon as they have been looked at: else a whole mapped file would be in memory
/// before its first weight is packed.
fn checksum(section: &Bytes) -> u32 {
    const PIECE: usize = 1 << 18;
    let mut hasher = crc32fast::Hasher::new();
    for piece in section.chunks(PIECE) {
        hasher.update(piece);
        qing_tensor::release(piece);
    }
    hasher.finalize()
}

fn add_value(graph: &mut Graph, i: usize, value: &schema::Value, data: &Data) -> Result<(), FormatError> {
    let place = || format!("value `{}`", value.name);
    let fail = |what: String| malformed(place(), what);
    let element = Element::from_name(&value.element).ok_or_else(|| fail(format!("element {:?}", value.element)))?;
    let shape = match &value.shape {
        None => None,
        Some(shape) => Some(shape.dims.iter().map(dim).collect::<Result<Vec<_>, _>>().map_err(fail)?),
    };
    let mut ty = Type::maybe(element, shape);
    if let Some(q) = &value.quant {
        ty.quant = Some(quant(q).map_err(|e| fail(e.to_string()))?.into());
    }
    let constant = value.constant.as_ref().map(|blob| tensor(blob, data)).transpose().map_err(fail)?;
    let id = match constant {
        Some(tensor) => graph.add_typed_constant(&value.name, ty, tensor),
        None => graph.add_undefined(&value.name, ty),
    };
    if id.0 as usize != i || graph.value(id).name != value.name {
        return Err(malformed(place(), "the name is empty or used twice"));
    }
    Ok(())
}

fn dim(dim: &schema::Dim) -> Result<Dim, String> {
    Ok(match (dim.size, &dim.symbol) {
        (Some(n), _) => Dim::Known(usize::try_from(n).map_err(|_| format!("dimension {n}"))?),
        (None, Some(s)) => Dim::Symbol(s.as_str().into()),
        (None, None) => Dim::Unknown,
    })
}

fn quant(q: &schema::Quant) -> Result<Quant, String> {
    let granularity = match (q.axis, q.block) {
        (None, None) => Granularity::Tensor,
        (Some(axis), None) => Granularity::Axis(axis as usize),
        (Some(axis), Some(block)) => Granularity::Block {
            axis: axis as usize,
            size: usize::try_from(block).map_err(|_| format!("blocks of {block}"))?,
        },
        (None, Some(_)) => return Err("quantization blocks without an axis".into()),
    };
    Quant::new(granularity, q.scale.clone(), q.zero.clone()).map_err(|e| e.to_string())
}

fn tensor(blob: &schema::Blob, data: &Data) -> Result<Tensor, String> {
    let element = Element::from_name(&blob.element).ok_or_else(|| format!("element {:?}", blob.element))?;
    let shape: Vec<usize> = blob
        .shape
        .iter()
        .map(|d| usize::try_from(*d).map_err(|_| format!("dimension {d}")))
        .collect::<Result<_, _>>()?;
    let size = data.bytes.len();
    let end = blob.offset.checked_add(blob.length).filter(|end| *end <= size as u64);
    let end = end.ok_or_else(|| format!("bytes {}+{} of a data section of {size}", blob.offset, blob.length))?;
    let bytes = data.bytes.slice(blob.offset as usize..end as usize);
    if blob.coding != 0 {
        if !data.coded {
            return Err(unknown(blob.coding));
        }
        let count = element_count(&shape).map_err(|e| e.to_string())?;
        let takes = count.checked_mul(element.bits().div_ceil(8)).and_then(|n| data.left.get().checked_sub(n));
        data.left.set(takes.ok_or("the coded tensors are too many for a file of this size")?);
        return decoded(blob.coding, &bytes, element, &shape);
    }
    Tensor::from_bytes(element, &shape, bytes).map_err(|e| e.to_string())
}

fn attribute_value(attribute: &schema::Attribute, data: &Data) -> Result<AttrValue, String> {
    use schema::AttributeValue as V;
    Ok(match attribute.value.as_ref().ok_or_else(|| format!("attribute `{}` has no value", attribute.name))? {
        V::Int(v) => AttrValue::Int(*v),
        V::Float(v) => AttrValue::Float(*v),
        V::String(v) => AttrValue::String(v.clone()),
        V::Tensor(blob) => AttrValue::Tensor(tensor(blob, data)?),
        V::Ints(v) => AttrValue::Ints(v.values.clone()),
        V::Floats(v) => AttrValue::Floats(v.values.clone()),
        V::Strings(v) => AttrValue::Strings(v.values.clone()),
    })
}

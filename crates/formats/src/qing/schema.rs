//! The header of a `.qing` file, as Protocol Buffers messages derived by hand.
//!
//! Ops are written by name with their attributes in one generic form, so a new op needs nothing here. Field numbers are
//! never reused; a field that a reader does not know is skipped, and what a reader must not skip raises the version.

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Header {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) values: Vec<Value>,
    #[prost(message, repeated, tag = "3")]
    pub(super) nodes: Vec<Node>,
    /// Indices into `values`.
    #[prost(uint32, repeated, tag = "4")]
    pub(super) inputs: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    pub(super) outputs: Vec<u32>,
    #[prost(message, repeated, tag = "6")]
    pub(super) metadata: Vec<Entry>,
    /// What lies behind the data section, in files of version 3.
    #[prost(message, repeated, tag = "7")]
    pub(super) packed: Vec<Section>,
}

/// Weights in the order of one instruction set's kernels.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Section {
    /// What the order depends on beside the graph.
    #[prost(string, tag = "1")]
    pub(super) packing: String,
    /// From the end of the data section, rounded up to 64 bytes.
    #[prost(uint64, tag = "2")]
    pub(super) offset: u64,
    #[prost(uint64, tag = "3")]
    pub(super) length: u64,
    #[prost(uint32, tag = "4")]
    pub(super) crc: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) element: String,
    /// Absent while the rank is unknown.
    #[prost(message, optional, tag = "3")]
    pub(super) shape: Option<Shape>,
    #[prost(message, optional, tag = "4")]
    pub(super) quant: Option<Quant>,
    /// Present for constants.
    #[prost(message, optional, tag = "5")]
    pub(super) constant: Option<Blob>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(super) dims: Vec<Dim>,
}

/// Neither field: unknown.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Dim {
    #[prost(uint64, optional, tag = "1")]
    pub(super) size: Option<u64>,
    #[prost(string, optional, tag = "2")]
    pub(super) symbol: Option<String>,
}

/// No axis: per tensor; an axis: per slice; an axis and a block: per block.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Quant {
    #[prost(float, repeated, tag = "1")]
    pub(super) scale: Vec<f32>,
    #[prost(sint32, repeated, tag = "2")]
    pub(super) zero: Vec<i32>,
    #[prost(uint32, optional, tag = "3")]
    pub(super) axis: Option<u32>,
    #[prost(uint64, optional, tag = "4")]
    pub(super) block: Option<u64>,
}

/// Bytes of a tensor: a window of the data section.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Blob {
    #[prost(uint64, tag = "1")]
    pub(super) offset: u64,
    #[prost(uint64, tag = "2")]
    pub(super) length: u64,
    #[prost(uint64, repeated, tag = "3")]
    pub(super) shape: Vec<u64>,
    #[prost(string, tag = "4")]
    pub(super) element: String,
    /// How the bytes are coded (`code::Coding`); only files of version 2 have others than 0, plain.
    #[prost(uint32, tag = "5")]
    pub(super) coding: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Node {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) domain: String,
    #[prost(string, tag = "3")]
    pub(super) op: String,
    /// Index into `values` plus one; 0 for an absent optional input.
    #[prost(uint32, repeated, tag = "4")]
    pub(super) inputs: Vec<u32>,
    /// Indices into `values`.
    #[prost(uint32, repeated, tag = "5")]
    pub(super) outputs: Vec<u32>,
    #[prost(message, repeated, tag = "6")]
    pub(super) attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(oneof = "AttributeValue", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub(super) value: Option<AttributeValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum AttributeValue {
    #[prost(sint64, tag = "2")]
    Int(i64),
    #[prost(float, tag = "3")]
    Float(f32),
    #[prost(string, tag = "4")]
    String(String),
    #[prost(message, tag = "5")]
    Tensor(Blob),
    #[prost(message, tag = "6")]
    Ints(Ints),
    #[prost(message, tag = "7")]
    Floats(Floats),
    #[prost(message, tag = "8")]
    Strings(Strings),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ints {
    #[prost(sint64, repeated, tag = "1")]
    pub(super) values: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Floats {
    #[prost(float, repeated, tag = "1")]
    pub(super) values: Vec<f32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Strings {
    #[prost(string, repeated, tag = "1")]
    pub(super) values: Vec<String>,
}

//! Bytes to [`Graph`](qing_graph::Graph) and back: ONNX, TFLite and qing's own device file.
//!
//! A reader refuses malformed bytes with a [`FormatError`] that says where, never panics, and allocates no more than a
//! stated multiple of what it is given. Tensors share the memory-mapped file; nothing is copied unless the format stores
//! values in another form. No reader knows more of an op than its name and its attributes' names.

pub mod atomic;
mod error;

pub mod npy;
pub mod onnx;
pub mod qing;
pub mod tflite;

use std::path::Path;

use qing_graph::{Graph, passes};

pub use error::{FormatError, UnsupportedNode};

/// Reads a model file of any format; the content tells which it is, the name does not matter. Quantization that an ONNX
/// model spells out in nodes (QuantizeLinear, QLinearConv, QONNX's Quant, …) goes into the types, so that integer layers
/// run as such; [`onnx::read`] gives the nodes as written.
///
/// # Errors
/// If the file cannot be read, is malformed, or is of no format that qing reads.
pub fn read(path: &Path) -> Result<Graph, FormatError> {
    let bytes = qing_tensor::map_file(path).map_err(|e| FormatError::from(e).in_file(path))?;
    let graph = if bytes.starts_with(&qing::MAGIC) {
        qing::read_bytes(&bytes)
    } else if bytes.get(4..8) == Some(&tflite::IDENTIFIER) {
        tflite::read_bytes(&bytes)
    } else if looks_like_onnx(&bytes) {
        onnx::read_bytes(&bytes, path.parent()).and_then(|graph| Ok(passes::from_qdq(&graph)?))
    } else {
        Err(FormatError::UnknownFormat)
    };
    graph.map_err(|e| e.in_file(path))
}

/// ONNX has no magic number, but its first byte is the tag of one of the fields of a model.
fn looks_like_onnx(bytes: &[u8]) -> bool {
    const VARINT: u8 = 0;
    const LENGTH: u8 = 2;
    bytes.first().is_some_and(|tag| match tag >> 3 {
        1 | 5 => tag & 7 == VARINT,
        2..=4 | 6..=8 | 14 => tag & 7 == LENGTH,
        _ => false,
    })
}

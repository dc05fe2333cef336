//! Bytes to [`Graph`] and back: ONNX, TFLite and qing's own device file.
//!
//! A reader refuses malformed bytes with a [`FormatError`] that says where, never panics, and allocates no more than a
//! stated multiple of what it is given. Tensors share the memory-mapped file; nothing is copied unless the format stores
//! values in another form. No reader knows more of an op than its name and its attributes' names.

pub mod atomic;
mod error;

pub mod npy;
#[cfg(feature = "onnx")]
pub mod onnx;
pub mod qing;
#[cfg(feature = "tflite")]
pub mod tflite;

use std::path::Path;

use qing_graph::Graph;

pub use error::{FormatError, UnsupportedNode};

/// Reads a model file of any format; the content tells which it is, the name does not matter. Quantization that an ONNX
/// model spells out in nodes (QuantizeLinear, QLinearConv, QONNX's Quant, …) goes into the types, so that integer layers
/// run as such; `onnx::read` gives the nodes as written.
///
/// # Errors
/// If the file cannot be read, is malformed, or is of no format that qing reads.
pub fn read(path: &Path) -> Result<Graph, FormatError> {
    let bytes = qing_tensor::map_file(path).map_err(|e| FormatError::from(e).in_file(path))?;
    let graph = match Format::of(&bytes) {
        Some(Format::Qing) => qing::read_bytes(&bytes),
        #[cfg(feature = "tflite")]
        Some(Format::Tflite) => tflite::read_bytes(&bytes),
        #[cfg(feature = "onnx")]
        Some(Format::Onnx) => {
            onnx::read_bytes(&bytes, path.parent()).and_then(|graph| Ok(qing_graph::passes::from_qdq(&graph)?))
        }
        #[cfg(not(all(feature = "onnx", feature = "tflite")))]
        Some(format) => Err(FormatError::unsupported("file", format!("{format:?}: its reader is not in this build"))),
        None => Err(FormatError::UnknownFormat),
    };
    graph.map_err(|e| e.in_file(path))
}

/// The formats models come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Qing,
    Tflite,
    Onnx,
}

impl Format {
    fn of(bytes: &[u8]) -> Option<Format> {
        match bytes {
            _ if bytes.starts_with(&qing::MAGIC) => Some(Format::Qing),
            _ if bytes.get(4..8) == Some(b"TFL3") => Some(Format::Tflite),
            _ => looks_like_onnx(bytes).then_some(Format::Onnx),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let cases: &[(&[u8], Option<Format>)] = &[
            (&[0x08, 0x08], Some(Format::Onnx)),
            (b"\x1c\0\0\0TFL3", Some(Format::Tflite)),
            (&qing::MAGIC, Some(Format::Qing)),
            (b"", None),
            (b"\x00\x00", None),
            (b"\x89PNG", None),
        ];
        for (bytes, want) in cases {
            assert_eq!(Format::of(bytes), *want, "{bytes:?}");
        }
    }
}

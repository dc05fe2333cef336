//! ONNX models to graphs and back: opset 7 to 26, external data, memory-mapped without copying weights.

mod attribute;
mod functions;
mod order;
mod proto;
mod read;
mod tensor;
mod types;
mod write;

#[cfg(test)]
mod tests;

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use qing_graph::{Graph, Tensor};

use crate::{FormatError, atomic};

pub use write::WriteOptions;

/// The newest version of the standard operator set that is read.
pub const NEWEST_OPSET: i64 = 26;

/// Reads a model file. The file is memory-mapped and the graph's constants share it.
///
/// # Errors
/// If the file cannot be read, its bytes are malformed, or the model has ops or types that qing does not have.
pub fn read(path: &Path) -> Result<Graph, FormatError> {
    let bytes = qing_tensor::map_file(path).map_err(|e| FormatError::from(e).in_file(path))?;
    read_bytes(&bytes, path.parent()).map_err(|e| e.in_file(path))
}

/// Reads a model. Constants share `bytes`; those stored in other files are looked for in `folder`, and nowhere else.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(bytes: &Bytes, folder: Option<&Path>) -> Result<Graph, FormatError> {
    let model: proto::ModelProto = decode(bytes)?;
    read::read_model(model, folder)
}

/// Reads a tensor that is a message of its own, as the ONNX conformance cases store inputs and outputs.
///
/// # Errors
/// If the bytes are malformed, or of an element that qing does not have.
pub fn read_tensor(bytes: &Bytes) -> Result<Tensor, FormatError> {
    tensor::read_tensor(&decode(bytes)?, &tensor::External::new(None))
}

/// Writes a graph as a model file. The file is there whole or not at all; with external data, the data file is written
/// first.
///
/// # Errors
/// If the graph has what ONNX cannot express, or the file cannot be written.
pub fn write(graph: &Graph, path: &Path, options: &WriteOptions) -> Result<(), FormatError> {
    let mut model = write::write_model(graph, options)?;
    if options.external_data {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let location = format!("{name}.data");
        let data = write::move_out(&mut model, &location);
        atomic::write(&path.with_file_name(&location), &data)?;
    }
    atomic::write(path, &model.encode_to_vec())
}

/// The bytes of a model file, weights included.
///
/// # Errors
/// If the graph has what ONNX cannot express.
pub fn to_bytes(graph: &Graph, options: &WriteOptions) -> Result<Vec<u8>, FormatError> {
    Ok(write::write_model(graph, options)?.encode_to_vec())
}

/// Decodes a message; an error says at which byte it came to light.
fn decode<M: Message + Default>(bytes: &Bytes) -> Result<M, FormatError> {
    let size = bytes.len();
    let mut bytes = bytes.clone();
    let mut message = M::default();
    match message.merge(&mut bytes) {
        Ok(()) => Ok(message),
        Err(e) => Err(FormatError::malformed(format!("byte {} of {size}", size - bytes.len()), e.to_string())),
    }
}

//! What the conformance tests share: comparison of tensors, parallel running of cases, and lists of what passes.
//!
//! The cases themselves are those of ONNX, found through the environment, and those that ONNX Runtime computed with the
//! generators beside this crate. Every executor of qing must give the same results on them.

mod compare;
mod execute;
mod lists;
mod parallel;
mod python;

pub use compare::{difference, exactly, within};
pub use execute::Executor;
pub use lists::{CaseList, Outcome};
pub use parallel::run_all;
pub use python::python;

use std::path::Path;

use qing_formats::FormatError;
use qing_graph::Graph;

/// Reads an ONNX model as it was written, or any model with its quantization in the types (`typed`). The reason of a failure
/// does not say which file, so that it can be listed.
///
/// # Errors
/// What the reader says.
pub fn read_model(path: &Path, typed: bool) -> Result<Graph, String> {
    let read = if typed { qing_formats::read } else { qing_formats::onnx::read };
    read(path).map_err(|e| match e {
        FormatError::File { source, .. } => source.to_string(),
        other => other.to_string(),
    })
}

use std::{io, path::Path};

/// What can be wrong with data; every message names the file and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than its layout promises.
    #[error("{path}: {message}")]
    Format {
        /// The file, or the name of the data.
        path: String,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// A flag, a metadata entry or a selection that cannot be understood.
    #[error("{0}")]
    Invalid(String),
    /// An array file that cannot be read or written.
    #[error(transparent)]
    Array(#[from] qing_formats::FormatError),
    /// Tensors that do not fit together.
    #[error(transparent)]
    Tensor(#[from] qing_graph::TensorError),
}

impl DataError {
    pub(crate) fn io(path: &Path, source: io::Error) -> DataError {
        DataError::Io { path: path.display().to_string(), source }
    }

    pub(crate) fn format(path: &Path, message: impl Into<String>) -> DataError {
        DataError::Format { path: path.display().to_string(), message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> DataError {
        DataError::Invalid(message.into())
    }
}

/// The bytes of a file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|e| DataError::io(path, e))
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String, DataError> {
    std::fs::read_to_string(path).map_err(|e| DataError::io(path, e))
}

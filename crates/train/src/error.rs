use std::{io, path::Path};

use qing_data::DataError;
use qing_engine::EngineError;
use qing_formats::FormatError;
use qing_graph::{GraphError, OpError, TensorError};

/// What can go wrong in training; every message says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A value to differentiate that is not one number of floats.
    #[error("`{name}` of type {ty} cannot be a loss; it must be one float, for example a ReduceMean over all axes")]
    Loss {
        /// Name of the value.
        name: String,
        /// Its type.
        ty: String,
    },
    /// A value whose gradient was asked for, though the loss does not depend on it.
    #[error("the loss `{loss}` does not depend on `{name}` in a way that can be differentiated{why}")]
    Unused {
        /// Name of the loss.
        loss: String,
        /// Name of the value.
        name: String,
        /// Where the way ends, if it begins.
        why: String,
    },
    /// A graph that cannot be differentiated, or a rewrite that would not type.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A plan that cannot be made, or a run that failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An op's objection.
    #[error(transparent)]
    Op(#[from] OpError),
    /// Data that cannot be read or does not fit.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A model file or checkpoint that cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Tensors that do not fit together.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Settings that contradict each other, or the network or the data.
    #[error("{0}")]
    Invalid(String),
}

impl TrainError {
    /// A [`TrainError::Invalid`] from anything printable.
    pub fn invalid(message: impl Into<String>) -> TrainError {
        TrainError::Invalid(message.into())
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> TrainError {
        TrainError::Io { path: path.display().to_string(), source }
    }
}

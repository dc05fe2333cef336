use std::{fmt, io, path::PathBuf};

use qing_graph::{GraphError, OpError, TensorError};

/// What can be wrong with a file that is read or written. The text says where, and what was expected there.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// An error in a file: which one, and what.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<FormatError>,
    },
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The content is of no format that qing reads.
    #[error("unknown format: expected an ONNX or TFLite model or a .qing file")]
    UnknownFormat,
    /// The bytes break the rules of their format.
    #[error("{at}: {message}")]
    Malformed {
        /// Where: a byte offset, or the name of a node, tensor or table.
        at: String,
        /// What was found, and what was expected.
        message: String,
    },
    /// Legal, but not something qing reads or writes.
    #[error("{at}: not supported: {message}")]
    Unsupported {
        /// Where: a byte offset, or the name of a node, tensor or table.
        at: String,
        /// What was found, and what was expected.
        message: String,
    },
    /// Ops of the model that qing does not have, all of them.
    #[error("{}", list(.0))]
    Ops(Vec<UnsupportedNode>),
    /// A node was read, but its op refuses its inputs or attributes, or the graph breaks an invariant.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Bytes, shape and element of a tensor do not fit each other.
    #[error("tensor `{name}`: {source}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What does not fit.
        source: TensorError,
    },
}

/// A node whose op qing does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// Name of the node, or of its first output if it has none.
    pub node: String,
    /// Name of the op, with its domain if that is not the standard one.
    pub op: String,
    /// Version of the operator set, if the format has one.
    pub opset: Option<i64>,
    /// Why it cannot be read.
    pub reason: String,
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node `{}` ({}", self.node, self.op)?;
        if let Some(opset) = self.opset {
            write!(f, ", opset {opset}")?;
        }
        write!(f, "): {}", self.reason)
    }
}

fn list(nodes: &[UnsupportedNode]) -> String {
    /// Longer lists are cut; the error itself holds all.
    const SHOWN: usize = 50;
    if let [one] = nodes {
        return one.to_string();
    }
    let mut text = format!("{} of the model's nodes cannot be read:", nodes.len());
    for node in nodes.iter().take(SHOWN) {
        text += &format!("\n  {node}");
    }
    if nodes.len() > SHOWN {
        text += &format!("\n  … and {} more", nodes.len() - SHOWN);
    }
    text
}

impl FormatError {
    /// A [`FormatError::Malformed`].
    pub fn malformed(at: impl Into<String>, message: impl Into<String>) -> FormatError {
        FormatError::Malformed { at: at.into(), message: message.into() }
    }

    /// A [`FormatError::Unsupported`].
    pub fn unsupported(at: impl Into<String>, message: impl Into<String>) -> FormatError {
        FormatError::Unsupported { at: at.into(), message: message.into() }
    }

    /// What an op said of the node or tensor called `at`.
    pub fn op(at: impl Into<String>, error: OpError) -> FormatError {
        match error {
            OpError::Unsupported(message) => FormatError::unsupported(at, message),
            other => FormatError::malformed(at, other.to_string()),
        }
    }

    /// A tensor's error, with its name.
    pub fn tensor(name: impl Into<String>, source: TensorError) -> FormatError {
        FormatError::Tensor { name: name.into(), source }
    }

    /// The same error, with a wider place before its own.
    #[must_use]
    pub fn at(self, place: &str) -> FormatError {
        match self {
            FormatError::Malformed { at, message } => FormatError::malformed(format!("{place}: {at}"), message),
            FormatError::Unsupported { at, message } => FormatError::unsupported(format!("{place}: {at}"), message),
            other => other,
        }
    }

    /// The same error, in `path`.
    #[must_use]
    pub fn in_file(self, path: impl Into<PathBuf>) -> FormatError {
        match self {
            FormatError::File { .. } => self,
            source => FormatError::File { path: path.into(), source: Box::new(source) },
        }
    }
}

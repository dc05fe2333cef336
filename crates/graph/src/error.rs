use qing_tensor::TensorError;

/// What an op can object to; the graph adds which node it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpError {
    /// Inputs, attributes or shapes that the op's specification forbids.
    #[error("{0}")]
    Invalid(String),
    /// Legal, but not something qing computes; the text says what was expected.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A required input is absent.
    #[error("input {0} is required")]
    MissingInput(usize),
    /// A tensor did not fit.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl OpError {
    /// An [`OpError::Invalid`] from anything printable.
    pub fn invalid(message: impl Into<String>) -> OpError {
        OpError::Invalid(message.into())
    }

    /// An [`OpError::Unsupported`] from anything printable.
    pub fn unsupported(message: impl Into<String>) -> OpError {
        OpError::Unsupported(message.into())
    }
}

/// What can be wrong with a graph or with running it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// A node's op objected.
    #[error("node `{node}` ({op} of {inputs}): {source}")]
    Node {
        /// Name of the node.
        node: String,
        /// Name of its op.
        op: String,
        /// Types of its inputs, as a dump shows them.
        inputs: String,
        /// What the op said.
        source: OpError,
    },
    /// A graph input was given a tensor that does not fit its type.
    #[error("input `{name}` is {expected}, got {actual}")]
    Input {
        /// Name of the input.
        name: String,
        /// Its declared type.
        expected: String,
        /// What was given.
        actual: String,
    },
    /// The graph breaks an invariant.
    #[error("the graph is malformed: {0}")]
    Malformed(String),
}

//! What can be wrong with planning or running a graph.

use qing_graph::{Graph, GraphError, Node, OpError, TensorError};
use qing_kernels::KernelError;

/// Why a graph cannot be planned or run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The graph, an op or an input tensor objected.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A kernel refused a node.
    #[error("node `{node}` ({op} of {inputs}): {source}")]
    Kernel {
        /// Name of the node.
        node: String,
        /// Name of its op.
        op: String,
        /// Types of its inputs.
        inputs: String,
        /// What the kernel said.
        source: KernelError,
    },
    /// A dimension of an input is not known, so no memory can be planned.
    #[error("input `{name}` is {ty}: its shape must be given to make a plan")]
    OpenShape {
        /// Name of the input.
        name: String,
        /// Its declared type.
        ty: String,
    },
    /// The plan needs more memory than it may.
    #[error("{what} takes {bytes} bytes of memory, more than the limit of {limit}")]
    Memory {
        /// The value that is too large alone, or all of them.
        what: String,
        /// What it takes; the largest number if that cannot be counted.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// There is no input or output of that number.
    #[error("there is no {what} {index}: the model has {count}")]
    NoSuchPort {
        /// `input` or `output`.
        what: &'static str,
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The run was cancelled.
    #[error("the run was cancelled after {done} of {steps} steps; the session may be run again")]
    Cancelled {
        /// Steps that were completed.
        done: usize,
        /// Steps of a whole run.
        steps: usize,
    },
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl EngineError {
    /// A kernel's objection to a node, with what a reader needs to find it.
    pub(crate) fn kernel(graph: &Graph, node: &Node, source: KernelError) -> EngineError {
        let place = graph.node_error(node, OpError::invalid(""));
        match place {
            GraphError::Node { node, op, inputs, .. } => EngineError::Kernel { node, op, inputs, source },
            other => EngineError::Graph(other),
        }
    }
}

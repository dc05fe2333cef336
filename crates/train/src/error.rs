use qing_graph::{GraphError, OpError};

/// What can go wrong while training a network.
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
    /// The graph cannot be rewritten or run.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// An op refuses what was asked of it.
    #[error(transparent)]
    Op(#[from] OpError),
}

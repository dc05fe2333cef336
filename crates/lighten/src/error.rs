use qing_graph::{GraphError, OpError};

/// What can go wrong while making a network lighter.
#[derive(Debug, thiserror::Error)]
pub enum LightenError {
    /// An option that makes no sense, and what would.
    #[error("{0}")]
    Option(String),
    /// A budget that cannot be kept, and what can.
    #[error("{0}")]
    OutOfReach(String),
    /// Calibration data that does not fit the network.
    #[error("calibration data: {0}")]
    Calibration(String),
    /// Accuracy cannot be measured.
    #[error("measuring accuracy: {0}")]
    Judge(String),
    /// A checkpoint that cannot be read or written.
    #[error("{0}")]
    Checkpoint(String),
    /// The graph cannot be rewritten or run.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The graph cannot be planned or run by the engine.
    #[error(transparent)]
    Engine(#[from] qing_engine::EngineError),
    /// Training says no.
    #[error(transparent)]
    Train(#[from] qing_train::TrainError),
}

impl From<OpError> for LightenError {
    fn from(error: OpError) -> LightenError {
        LightenError::Option(error.to_string())
    }
}

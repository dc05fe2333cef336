//! Trains networks. A training graph is an ordinary [`Graph`](qing_graph::Graph): data, targets and parameters are its inputs,
//! the loss, its gradients and new running statistics its outputs, and the engine plans and runs it like any other. There is no
//! second definition of a model, and no tape: [`differentiate`] rewrites the graph once, before anything runs.
//!
//! The parameters change outside of the graph, between two runs.

mod backward;
mod error;

pub use backward::{Differentiated, differentiate};
pub use error::TrainError;

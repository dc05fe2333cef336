//! Training: the same graph, extended by its gradients, run by the same engine.
//!
//! A network becomes a [`parameters::Model`]: trainable constants are graph inputs, batch normalization is in training form.
//! A [`loss`] adds nodes that end in one number. Differentiation adds the backward pass, and the engine plans and runs all of
//! it at once. [`optimize`] updates the parameters in the memory the session reads them from; [`Export`](parameters::Export)
//! puts them back into the network.
#![forbid(unsafe_code)]

mod backward;
mod error;
mod evaluate;
mod random;
mod schedule;

pub mod architectures;
pub mod checkpoint;
pub mod curves;
pub mod data;
pub mod finetune;
pub mod loss;
pub mod optimize;
pub mod parameters;
pub mod quantize;
pub mod recipe;
pub mod run;
pub mod trainer;

pub use backward::{BackwardOptions, Differentiated, differentiate, differentiate_with};
pub use error::TrainError;
pub use evaluate::{Measured, measure};
pub use random::{Purpose, Random};
pub use schedule::{Curve, Schedule};

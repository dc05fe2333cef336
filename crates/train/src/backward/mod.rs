//! The backward pass: a graph that computes a loss becomes one that also computes the gradients of the loss.
//!
//! What no wanted gradient needs is not added (a frozen layer costs neither time nor memory), and a layer's weight gradient
//! stands right behind the gradient of its output, so that the plan can give the memory of both away early.

mod differentiate;
mod recompute;

pub use differentiate::{BackwardOptions, Differentiated, differentiate, differentiate_with};

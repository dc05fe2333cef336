//! The one representation of a network in qing: a [`Graph`] of [`ops`] over typed values.
//!
//! To lighten a network is to give its values lighter types, so a value's [`Type`] says its shape, its element and, when
//! it is quantized, how ([`Quant`]). Every op carries its reference semantics; [`interpret`](interpret::interpret) runs
//! them. This crate knows no CPU, no file format and no kernel.

mod attributes;
mod error;
mod graph;
mod op;
mod types;

pub mod arithmetic;
pub mod dump;
pub mod gradient;
pub mod infer;
pub mod interpret;
pub mod ops;
pub mod passes;
pub mod rewrite;
pub mod verify;

pub use attributes::{AttrValue, Attribute, Attrs};
pub use error::{GraphError, OpError};
pub use gradient::{Backward, Gradients};
pub use graph::{Graph, Node, NodeId, Value, ValueId};
pub use op::{Arity, AttrSpec, Case, Eval, Gradient, Infer, Legacy, Op, OpInfo, OpSpec, QuantRule};
pub use qing_tensor::{Element, Scalar, Tensor, TensorError};
pub use types::{Dim, Granularity, Quant, Type};

//! Bytes to [`Graph`](qing_graph::Graph) and back: ONNX, TFLite and qing's own device file.
//!
//! A reader refuses malformed bytes with a [`FormatError`] that says where, never panics, and allocates no more than a
//! stated multiple of what it is given. Tensors share the memory-mapped file; nothing is copied unless the format stores
//! values in another form. No reader knows more of an op than its name and its attributes' names.

pub mod atomic;
mod error;

pub mod npy;
pub mod onnx;
pub mod qing;

pub use error::{FormatError, UnsupportedNode};

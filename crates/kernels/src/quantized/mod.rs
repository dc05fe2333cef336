//! Kernels on integers of at most eight bits.
//!
//! Every activation is stored as one unsigned byte per value; a signed type is stored with 128 added to the
//! value and to its zero point, so that a kernel sees only `u8` and a zero in `0..=255`. Weights are `i8` with
//! their zero point already taken away. Products are summed exactly in `i32` and brought back to eight bits
//! by one float multiplication, one rounding to nearest even and one clamp: the requantization every executor
//! of qing shares.
//!
//! Activations are laid out with the channel last: `[batch, height, width, channel]`.

pub mod attention;
pub mod bitplane;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
mod epilogue;
pub mod lookup;
pub mod matmul;
pub mod movement;
pub mod narrow;
mod panelled;
pub mod peak;
pub mod pooling;
pub mod sparse;
#[cfg(test)]
mod testing;
mod versions;

use std::ops::Deref;

pub use attention::QAttention;
pub use bitplane::{BitConv, BitInput, BitOutput, Codes};
pub use conv::QConv;
pub use depthwise::QDepthwise;
pub use elementwise::{QAdd, QPRelu};
pub use epilogue::{Clip, Epilogue, Output, Requantize, Residual, requantize};
pub use matmul::QMatMul;
pub use narrow::{GroupedMatMul, NarrowConv, Width};
pub use pooling::{AveragePool, MaxPool};
pub use sparse::SparseConv;

/// Weights to pack, which may be made when they are first read: those that were packed before ([`crate::prepacked`]) never are.
pub type IntegerSource<'a> = &'a dyn Deref<Target = [i8]>;

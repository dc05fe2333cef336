//! Elements, shapes and tensors: the data every other crate speaks of.
//!
//! A [`Tensor`] is an element type, a shape and bytes. The bytes may be owned, shared or a window of a memory-mapped
//! file; a tensor never knows an operator, a device or a file format.

mod bits;
mod element;
mod error;
mod factors;
mod shape;
mod storage;
mod tensor;

pub use bits::{pack_bits, packed_len, unpack_bits};
pub use element::{Element, Scalar};
pub use error::TensorError;
pub use factors::TernaryFactors;
pub use half::{bf16, f16};
pub use shape::{broadcast, broadcast_strides, element_count, strides};
pub use storage::{map_file, release};
pub use tensor::Tensor;

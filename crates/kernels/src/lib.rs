//! The loops of qing: convolution, matrix product, pooling and elementwise work over plain slices.
//!
//! One folder holds a family of kernels, one file in it an instruction set; every family has a scalar
//! member that is written to be obviously right and that the others must equal. The instruction set is a
//! value ([`cpu::Isa`]) handed in when weights are packed, so that every variant a machine can run can be
//! tested on it.
//!
//! Nothing here knows what a graph is, and running a packed kernel allocates nothing.
#![allow(unsafe_code)]
// What only kernels of other sets call is dead.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128")),
    allow(unreachable_code, unused_imports, unused_unsafe, unused_variables)
)]

mod aligned;
pub mod bandwidth;
pub mod cpu;
mod error;
pub mod float;
pub mod geometry;
pub mod heads;
pub mod pool;
pub mod prepacked;
pub mod quantized;

pub use cpu::Isa;
pub use error::{KernelError, expect_len};
pub use geometry::ConvGeometry;
pub use pool::Pool;

//! Runs a graph at the speed of the CPU.
//!
//! A [`Plan`] is made once from a graph and concrete input shapes: constants folded, layouts and fusions chosen, a kernel
//! selected for every node, weights packed, memory assigned. It is immutable and can be printed. A [`Session`] owns the
//! memory a plan needs and runs it; after the first run nothing is allocated.
//!
//! The engine changes how a graph is computed, never what it means: integers equal the reference evaluator to the bit, on
//! every instruction set and any number of threads. A node without a kernel is run by its op's reference semantics, and
//! the dump and the profile say so.
#![forbid(unsafe_code)]

mod error;
mod lower;
mod memory;
mod options;
mod plan;
mod profile;
mod roofline;
mod session;
mod step;
mod storage;

pub use error::EngineError;
pub use options::Options;
pub use plan::Plan;
pub use profile::{Arithmetic, LayerTime};
pub use qing_kernels::{Isa, Pool, pool::Span, prepacked::Prepacked};
pub use roofline::{Bound, Memory, Roof, Roofline};
pub use session::Session;

//! Functions of one or two values, applied to whole arrays.

mod binary;
pub(crate) mod functions;
mod unary;

pub use binary::{Binary, Operand, binary};
pub use unary::{Unary, unary, unary_in_place};

/// Values that one task handles: enough to be worth handing out, few enough to stay in a first-level cache.
const BLOCK: usize = 4096;

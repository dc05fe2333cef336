//! What can be wrong with a request to a kernel.

use thiserror::Error;

/// Why a kernel refused its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KernelError {
    /// A slice does not have the length the geometry asks for.
    #[error("{what}: expected {expected} values, got {found}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// The length the geometry implies.
        expected: usize,
        /// The length given.
        found: usize,
    },
    /// The numbers that describe the work contradict each other.
    #[error("geometry: {0}")]
    Geometry(String),
    /// A sum of products could leave the range of `i32`.
    #[error("output channel {channel}: partial sums may reach {bound}, beyond the range of a 32-bit accumulator")]
    Overflow {
        /// The output channel whose weights are too large.
        channel: usize,
        /// The largest magnitude a partial sum could take.
        bound: i64,
    },
    /// An attribute has a value the kernel cannot work with.
    #[error("{0}")]
    Unsupported(String),
}

/// Compares the length of an argument with what the geometry implies.
///
/// # Errors
/// [`KernelError::Length`] when they differ.
pub fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), KernelError> {
    if found == expected { Ok(()) } else { Err(KernelError::Length { what, expected, found }) }
}

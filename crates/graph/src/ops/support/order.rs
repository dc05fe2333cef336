//! Sorting of indices.

use std::cmp::Ordering;

/// Sorts indices by what they lead to; equal ones keep their order. Compiled once, and not once for each order.
pub fn sort_indices(indices: &mut [usize], compare: &dyn Fn(usize, usize) -> Ordering) {
    indices.sort_by(|a, b| compare(*a, *b));
}

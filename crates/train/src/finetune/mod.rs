//! Training where memory is scarce: on the device itself.
//!
//! Most of what training takes is not the network: it is what the backward pass has to remember, gradients, and what the
//! optimizer keeps. All of it depends on what is updated, so what is updated is chosen to fit a budget (Lin et al., "On-device
//! training under 256 KB memory", 2022): biases, weights, or blocks of output channels of weights. Each candidate is probed by
//! itself, within the budget, on a batch of the device's own data: its contribution is the squared length of its gradient, the
//! first-order gain of a step, and its price is the memory that the plan says. Frozen layers before the first updated one
//! remember nothing, and normalization is folded into the layers before it, so that small batches do no harm.

mod choose;
mod split;

pub use choose::{Candidate, Choice, Request, choose};
pub use split::Part;

use crate::TrainError;

/// A number of bytes as people write it: `64MB`, `256kB`, `1.5 MB`, `4096`.
///
/// # Errors
/// If it is none.
pub fn parse_bytes(text: &str) -> Result<usize, TrainError> {
    let trimmed = text.trim();
    let at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let unit = match trimmed[at..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => f64::NAN,
    };
    let bytes = trimmed[..at].parse::<f64>().unwrap_or(f64::NAN) * unit;
    if !(1.0..1e15).contains(&bytes) {
        return Err(TrainError::invalid(format!("`{text}` is no amount of memory; write 64MB, 256kB or 1MiB")));
    }
    Ok(bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory() {
        let cases =
            [("64MB", 64_000_000), ("256kB", 256_000), ("1.5 MB", 1_500_000), ("4096", 4096), ("1MiB", 1 << 20)];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "MB", "-1MB", "12 apples", "0", "1e3"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}

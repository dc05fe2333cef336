//! What several ops share: elementwise evaluation, windows, quantized dots.

pub mod dot;
pub mod elementwise;
pub mod window;

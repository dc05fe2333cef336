//! What several ops share: axes, elementwise evaluation, reductions, windows, quantized dots.

pub mod axes;
pub mod data_type;
pub mod dot;
pub mod elementwise;
pub mod math;
pub mod matmul;
pub mod normalization;
pub mod reduce;
pub mod softmax;
pub mod unary;
pub mod window;

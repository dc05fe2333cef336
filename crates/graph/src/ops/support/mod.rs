//! What several ops share: axes, sizes, data movement, elementwise evaluation, reductions, windows, quantized dots.

pub mod activation;
pub mod arg;
pub mod axes;
pub mod data_type;
pub mod dot;
pub mod elementwise;
pub mod fourier;
pub mod heads;
pub mod integers;
pub mod learned;
pub mod loss;
pub mod math;
pub mod matmul;
pub mod mean;
pub mod movement;
pub mod normalization;
pub mod order;
pub mod qoperator;
pub mod recurrent;
pub mod reduce;
pub mod resample;
pub mod rounding;
pub mod scan;
pub mod scatter;
pub mod sizes;
pub mod softmax;
pub mod spectral;
pub mod unary;
pub mod unrolled;
pub mod window;

/// Default of an integer attribute that has none in ONNX: no legal value equals it, so writers never leave it out.
pub const REQUIRED: i64 = i64::MIN;

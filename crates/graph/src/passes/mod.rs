//! Rewrites that more than one crate needs: folding constants, between ONNX's QuantizeLinear form and typed values.

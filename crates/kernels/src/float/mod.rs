//! Kernels on 32-bit floats.

//! qing-kernels

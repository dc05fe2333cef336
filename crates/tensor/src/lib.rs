//! qing-tensor

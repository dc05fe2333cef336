//! qing

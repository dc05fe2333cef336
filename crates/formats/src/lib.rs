//! qing-formats

//! qing-engine

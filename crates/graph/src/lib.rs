//! qing-graph

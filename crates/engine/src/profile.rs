//! Where the time of a run goes.

/// What one step of a plan did in a profiled run.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTime {
    /// Name of the node it computes.
    pub node: String,
    /// Name of the node's op; with `+` the ops fused into it.
    pub op: String,
    /// The kernel, `reference` if there is none.
    pub kernel: String,
    /// Time in nanoseconds.
    pub nanos: u64,
    /// Multiply–accumulates.
    pub macs: u64,
    /// Bytes read and written: operands, weights and results.
    pub bytes: u64,
}

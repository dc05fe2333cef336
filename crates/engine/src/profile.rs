//! Where the time of a run goes.

/// What the multiply–accumulates of a step are done in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// 32-bit floats.
    Float,
    /// Bytes, summed in 32-bit integers.
    Integer,
}

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
    /// Multiply–accumulates, those of fused nodes included.
    pub macs: u64,
    /// What they are done in.
    pub arithmetic: Arithmetic,
    /// Bytes read and written: operands, weights and results.
    pub bytes: u64,
    /// Bytes of weights among them.
    pub weights: u64,
    /// Bytes of the memory they lie in: less than moved where results take the place of operands.
    pub held: u64,
}

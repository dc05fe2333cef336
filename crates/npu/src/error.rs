/// What can go wrong between a graph and a result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NpuError {
    /// A configuration that no chip can have.
    #[error("configuration: {0}")]
    Config(String),
    /// Assembly text or a program image that says nothing valid.
    #[error("line {line}: {what}")]
    Assembly {
        /// Counted from 1.
        line: usize,
        /// What is wrong and what was expected.
        what: String,
    },
    /// A value that does not fit its field of an instruction.
    #[error("{opcode}: {field} = {value} does not fit {low} … {high}")]
    Field {
        /// The instruction.
        opcode: &'static str,
        /// The field.
        field: String,
        /// What it was to hold.
        value: i64,
        /// Least it can hold.
        low: i64,
        /// Most it can hold.
        high: i64,
    },
    /// A network, or a part of it, that the chip cannot compute.
    #[error("node `{node}` ({op}): {what}")]
    Unmappable {
        /// Name of the node.
        node: String,
        /// Its op.
        op: String,
        /// The limit, and the way out.
        what: String,
    },
    /// A limit of the chip that concerns the whole program.
    #[error("{0}")]
    Limit(String),
    /// Input that does not fit the program.
    #[error("input: {0}")]
    Input(String),
    /// The chip stopped with an error.
    #[error("the chip stopped: {0}")]
    Chip(String),
    /// A program of others that failed, or is not there.
    #[error("{tool}: {what}")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// What it said, or how to install it.
        what: String,
    },
    /// A cell library, or a report of a tool, that cannot be read.
    #[error("{0}")]
    Library(String),
    /// The graph itself is wrong.
    #[error(transparent)]
    Graph(#[from] qing_graph::GraphError),
    /// A rule of arithmetic does not apply.
    #[error(transparent)]
    Op(#[from] qing_graph::OpError),
}

use std::{fmt, sync::Arc};

use qing_engine::{Isa, Options, Plan, Session};
use qing_graph::{Graph, interpret};
use qing_tensor::Tensor;

/// Something that runs graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// The reference evaluator.
    Reference,
    /// The engine, restricted to an instruction set.
    Engine(Isa),
}

impl fmt::Display for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Executor::Reference => f.write_str("reference"),
            Executor::Engine(isa) => write!(f, "engine on {}", isa.name()),
        }
    }
}

impl Executor {
    /// The reference, and the engine on every instruction set that this machine has.
    pub fn all() -> Vec<Executor> {
        let engine = Isa::available().into_iter().map(Executor::Engine);
        std::iter::once(Executor::Reference).chain(engine).collect()
    }

    /// The outputs of the graph.
    ///
    /// # Errors
    /// What the executor says, with its name.
    pub fn run(self, graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        match self {
            Executor::Reference => interpret::interpret(graph, inputs).map_err(|e| e.to_string()),
            Executor::Engine(isa) => {
                let shapes = inputs.iter().map(|t| t.shape().to_vec()).collect();
                let options = Options { isa: Some(isa), input_shapes: Some(shapes), ..Options::default() };
                let plan = Plan::new(graph, &options).map_err(|e| format!("{self}: {e}"))?;
                Session::new(Arc::new(plan)).run(inputs).map_err(|e| format!("{self}: {e}"))
            }
        }
    }
}

//! What a caller may decide about a plan.

use qing_graph::{Dim, Graph};
use qing_kernels::{Isa, cpu, prepacked::Prepacked};

use crate::EngineError;

/// How to plan a graph. The default is one thread, the best instruction set of this machine, and a batch of one.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that work on one run, the caller among them; 0 means 1.
    pub threads: usize,
    /// Instruction set; the best one this machine has if `None`. One it lacks is lowered to the best it has.
    pub isa: Option<Isa>,
    /// A shape for every graph input. If `None`, the declared ones, with a leading symbolic dimension (the batch) taken
    /// as 1.
    pub input_shapes: Option<Vec<Vec<usize>>>,
    /// Runs every node by its op's reference semantics: slow, for finding out whether a kernel is to blame.
    pub reference: bool,
    /// Computes convolutions of floats as plain sums of products alone, without transforms that take fewer products but round
    /// differently: sums of integers are exact while they stay below 2^24, as quantization-aware training needs. What flows back, which
    /// are no integers, is not held to it.
    pub exact: bool,
    /// Multiplies floats as bfloat16 where the processor can and gains by it: inputs and weights of convolutions and products with constant weights
    /// are rounded to eight significant bits, sums stay 32-bit floats. Results are about 0.4 % off for each layer, so nobody gets this
    /// without asking. In training, convolutions by weights that come with every run and gradients of weights, too; with `exact`,
    /// these alone: integers of up to eight bits are not changed, their sums are as exact as others.
    pub bf16: bool,
    /// Keeps memory small where that costs speed: no weights are packed into more bytes than they have, as some transforms do.
    pub compact: bool,
    /// Weights that [`Plan::prepack`](crate::Plan::prepack) packed before, of the very graph that is planned: what fits is used where it lies,
    /// and what does not is packed as ever.
    pub prepacked: Option<Prepacked>,
    /// The most bytes a session may need for activations and scratch; a model that needs more is refused. A shape costs a
    /// file nothing, so a limit there must be.
    pub memory_limit: usize,
}

impl Default for Options {
    fn default() -> Options {
        // 16 GiB, or half of what can be addressed.
        let memory_limit = 1usize.checked_shl(34).unwrap_or(usize::MAX / 2);
        Options {
            threads: 1,
            isa: None,
            input_shapes: None,
            reference: false,
            exact: false,
            bf16: false,
            compact: false,
            prepacked: None,
            memory_limit,
        }
    }
}

impl Options {
    /// The default with a number of threads.
    pub fn threads(threads: usize) -> Options {
        Options { threads, ..Options::default() }
    }

    /// What packed weights depend on beside the graph, as a word: those of another packing are not worth offering.
    pub fn packing(&self) -> String {
        cpu::packing(self.isa())
    }

    /// The instruction set that is used.
    pub(crate) fn isa(&self) -> Isa {
        self.isa.unwrap_or_else(Isa::detect).or_supported()
    }

    /// A shape for every input of the graph.
    pub(crate) fn shapes(&self, graph: &Graph) -> Result<Vec<Vec<usize>>, EngineError> {
        if let Some(shapes) = &self.input_shapes {
            return Ok(shapes.clone());
        }
        // A symbol that leads one input is the batch wherever else it stands.
        let leading: Vec<&Dim> = graph
            .inputs
            .iter()
            .filter_map(|id| graph.ty(*id).shape.as_ref()?.first())
            .filter(|d| matches!(d, Dim::Symbol(_)))
            .collect();
        graph
            .inputs
            .iter()
            .map(|id| {
                let value = graph.value(*id);
                let open = || EngineError::OpenShape { name: value.name.clone(), ty: value.ty.to_string() };
                let dims = value.ty.shape.as_ref().ok_or_else(open)?;
                dims.iter()
                    .enumerate()
                    .map(|(axis, dim)| match dim {
                        Dim::Known(n) => Ok(*n),
                        _ if axis == 0 || leading.contains(&dim) => Ok(1),
                        _ => Err(open()),
                    })
                    .collect()
            })
            .collect()
    }
}

//! Plans: everything decided before the first run.

mod composed;
mod dump;
mod grain;
pub(crate) mod layout;
mod prepare;
mod recognize;
mod shuffled;
mod transposed;

use std::fmt;

use qing_graph::{Element, Graph, Tensor};
use qing_kernels::{Isa, prepacked};
use qing_tensor::element_count;

use crate::{
    Arithmetic, EngineError, LayerTime, Options, lower,
    memory::{Aligned, Lifetime, Region, assign},
    step::{Slot, Step},
};

/// How a graph is computed on this machine for given input shapes. Immutable; sessions share it.
pub struct Plan {
    /// The graph with concrete shapes; the values of constants are in the steps.
    pub(crate) graph: Graph,
    pub(crate) isa: Isa,
    pub(crate) threads: usize,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) steps: Vec<Planned>,
    pub(crate) constants: Vec<Aligned>,
    /// Values of unknown shape; those that are constant have their tensor.
    pub(crate) dynamics: Vec<Option<Tensor>>,
    /// Bytes of activations and scratch.
    pub(crate) arena: usize,
}

/// An input or output of a plan.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) element: Element,
    /// Empty if the shape is not known before the run.
    pub(crate) shape: Vec<usize>,
    pub(crate) slot: Slot,
}

/// A step in its place.
pub(crate) struct Planned {
    pub(crate) node: String,
    pub(crate) op: String,
    pub(crate) kernel: String,
    pub(crate) inputs: Vec<Slot>,
    pub(crate) outputs: Vec<Slot>,
    pub(crate) scratch: Region,
    pub(crate) macs: u64,
    pub(crate) arithmetic: Arithmetic,
    pub(crate) bytes: u64,
    pub(crate) weights: u64,
    pub(crate) held: u64,
    /// Whether it is too short for several threads.
    pub(crate) alone: bool,
    pub(crate) step: Box<dyn Step>,
}

impl Plan {
    /// Plans a graph.
    ///
    /// # Errors
    /// If an input shape is missing or does not fit, an op refuses its inputs, or a quantized layer could overflow its
    /// 32-bit accumulators. The error names the node.
    pub fn new(graph: &Graph, options: &Options) -> Result<Plan, EngineError> {
        let graph = prepare::prepare(graph, &options.shapes(graph)?)?;
        check_sizes(&graph, options.memory_limit)?;
        let lower = || lower::lower(&graph, options);
        let lowered = match &options.prepacked {
            Some(from) => prepacked::take(from.clone(), lower),
            None => lower(),
        }?;
        let plan = place(graph, lowered, options);
        let (bytes, limit) = (plan.arena, options.memory_limit);
        if bytes > limit {
            return Err(EngineError::Memory { what: "the plan".into(), bytes, limit });
        }
        Ok(plan)
    }

    /// Plans a graph and gives, beside the plan, all the weights as it packed them: later plans of the same graph need not read its
    /// constants if they get this as [`Options::prepacked`]. To be kept under the name [`Options::packing`].
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn prepack(graph: &Graph, options: &Options) -> Result<(Plan, Vec<u8>), EngineError> {
        let options = Options { prepacked: None, ..options.clone() };
        let (plan, section) = prepacked::keep(|| Plan::new(graph, &options));
        Ok((plan?, section))
    }

    /// The graph that is run: concrete shapes, constants folded. The values of constants are not kept.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Threads it was made for.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Instruction set it was made for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of memory a session needs for activations and scratch.
    pub fn peak_memory(&self) -> usize {
        self.arena
    }

    /// What each step is, with no time yet; in the order in which they run.
    pub fn layers(&self) -> Vec<LayerTime> {
        let layer = |step: &Planned| LayerTime {
            node: step.node.clone(),
            op: step.op.clone(),
            kernel: step.kernel.clone(),
            nanos: 0,
            macs: step.macs,
            arithmetic: step.arithmetic,
            bytes: step.bytes,
            weights: step.weights,
            held: step.held,
        };
        self.steps.iter().map(layer).collect()
    }

    /// Names of the nodes that run by their op's reference semantics for want of a kernel, with their ops.
    pub fn reference_nodes(&self) -> Vec<(&str, &str)> {
        self.steps.iter().filter(|s| s.kernel == lower::REFERENCE).map(|s| (s.node.as_str(), s.op.as_str())).collect()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.dump())
    }
}

/// Refuses a graph with a value that is too large by itself, before anything is computed from its size.
fn check_sizes(graph: &Graph, limit: usize) -> Result<(), EngineError> {
    for node in &graph.nodes {
        for id in node.inputs.iter().flatten().chain(&node.outputs) {
            let Some(shape) = graph.ty(*id).known_shape() else { continue };
            let bytes =
                element_count(&shape).map_or(usize::MAX, |n| n.saturating_mul(graph.ty(*id).element.bits()) / 8);
            if bytes > limit {
                let what = format!("value `{}` of type {}", graph.value(*id).name, graph.ty(*id));
                return Err(EngineError::Memory { what, bytes, limit });
            }
        }
    }
    Ok(())
}

/// Bytes of memory that a step touches; an output in the place of an input counts once.
fn held(step: &lower::StepSpec, slot: &impl Fn(&lower::Place) -> Slot) -> u64 {
    let mut bytes = step.bytes();
    for (i, out) in step.outputs.iter().map(slot).enumerate() {
        if step.inputs.iter().any(|input| slot(input) == out) {
            bytes = bytes.saturating_sub(step.outputs[i].bytes as u64);
        }
    }
    bytes
}

/// Assigns memory to the buffers of a lowered graph.
fn place(mut graph: Graph, lowered: lower::Lowered, options: &Options) -> Plan {
    let lower::Lowered { steps, buffers, constants, dynamics, inputs, outputs } = lowered;
    // A buffer lives from its first mention to its last. Steps are numbered from 1: inputs exist at 0, outputs until the
    // end.
    let end = steps.len() + 1;
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; buffers.len()];
    let mut touch = |place: &lower::Place, at: usize| {
        if let lower::Source::Buffer(id) = place.source {
            let life = lives[id].get_or_insert((at, at));
            *life = (life.0.min(at), life.1.max(at));
        }
    };
    for (place, _) in &inputs {
        touch(place, 0);
        touch(place, end);
    }
    for (i, step) in steps.iter().enumerate() {
        step.inputs.iter().chain(&step.outputs).for_each(|place| touch(place, i + 1));
    }
    outputs.iter().for_each(|(place, _)| touch(place, end));

    // An output may take the place of an input that dies with the step: both become one block.
    let mut block_of: Vec<usize> = (0..buffers.len()).collect();
    for (i, step) in steps.iter().enumerate() {
        let (Some(reuse), Some(out)) = (step.in_place, step.outputs.first()) else { continue };
        let (lower::Source::Buffer(from), lower::Source::Buffer(to)) = (step.inputs[reuse].source, out.source) else {
            continue;
        };
        let root = block_of[from];
        let whole = step.inputs[reuse].offset == 0 && out.offset == 0;
        let others =
            step.inputs.iter().enumerate().any(|(j, p)| {
                j != reuse && matches!(p.source, lower::Source::Buffer(other) if block_of[other] == root)
            });
        let dies = lives[from].is_some_and(|(_, last)| last == i + 1);
        let born = lives[to].is_some_and(|(first, _)| first == i + 1);
        if whole && !others && dies && born && buffers[from] == buffers[to] && block_of[to] == to {
            block_of[to] = root;
        }
    }
    let mut blocks: Vec<Lifetime> = buffers
        .iter()
        .zip(&lives)
        .map(|(bytes, life)| match life {
            Some((first, last)) => Lifetime { bytes: *bytes, first: *first, last: *last },
            None => Lifetime { bytes: 0, first: 0, last: 0 },
        })
        .collect();
    for (buffer, root) in block_of.iter().enumerate() {
        if *root != buffer {
            blocks[*root].last = blocks[*root].last.max(blocks[buffer].last);
            blocks[buffer].bytes = 0;
        }
    }
    let scratch_at = blocks.len();
    blocks.extend(steps.iter().enumerate().map(|(i, s)| Lifetime { bytes: s.scratch, first: i + 1, last: i + 1 }));
    let (offsets, arena) = assign(&blocks);

    let slot = |place: &lower::Place| {
        let region = |base: usize| Region { offset: base + place.offset, len: place.bytes };
        match place.source {
            lower::Source::Buffer(id) => Slot::Arena(region(offsets[block_of[id]])),
            lower::Source::Constant(id) => Slot::Constant(id, region(0)),
            lower::Source::Dynamic(id) => Slot::Dynamic(id),
        }
    };
    let port = |(place, id): &(lower::Place, qing_graph::ValueId)| {
        let value = graph.value(*id);
        let shape = value.ty.known_shape().unwrap_or_default();
        Port { name: value.name.clone(), element: value.ty.element, shape, slot: slot(place) }
    };
    let inputs = inputs.iter().map(port).collect();
    let outputs = outputs.iter().map(port).collect();
    let steps = steps
        .into_iter()
        .enumerate()
        .map(|(i, step)| Planned {
            held: held(&step, &slot),
            alone: grain::alone(options.isa(), &step),
            inputs: step.inputs.iter().map(slot).collect(),
            outputs: step.outputs.iter().map(slot).collect(),
            scratch: Region {
                offset: if step.scratch > 0 { offsets[scratch_at + i] } else { arena },
                len: step.scratch,
            },
            bytes: step.bytes(),
            node: step.node,
            op: step.op,
            kernel: step.kernel,
            macs: step.macs,
            arithmetic: step.arithmetic,
            weights: step.weights,
            step: step.step,
        })
        .collect();
    // Steps hold what they need of the constants.
    let constants_of_graph: Vec<_> = graph.values().filter(|(_, v)| v.constant.is_some()).map(|(id, _)| id).collect();
    for id in constants_of_graph {
        graph.value_mut(id).constant = None;
    }
    Plan {
        isa: options.isa(),
        threads: options.threads.max(1),
        graph,
        inputs,
        outputs,
        steps,
        constants,
        dynamics,
        arena,
    }
}

//! From nodes to steps: the table of what computes which op, and the memory of values on the way.

mod convert;
mod fallback;

use qing_graph::{Graph, Node, Tensor, ValueId, infer};
use qing_kernels::{Isa, KernelError};

use crate::{
    EngineError, Options,
    memory::Aligned,
    plan::layout::{Layout, layouts_agree},
    step::Step,
    storage::{self, Form},
};

/// The kernel name of nodes that run by their op's reference semantics.
pub(crate) const REFERENCE: &str = "reference";

/// How a node is lowered: `Ok(false)` if there is no kernel for these types and attributes. A function that gives `false`
/// must not have pushed a step.
type LowerFn = fn(&mut Lower<'_>, &Node) -> Result<bool, EngineError>;

/// The lowering table: ONNX domain, name, function.
static TABLE: &[(&str, &str, LowerFn)] = &[];

/// Where the bytes of a place are before memory is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// In a buffer of the arena.
    Buffer(usize),
    /// In a constant of the plan.
    Constant(usize),
    /// In a tensor made while running.
    Dynamic(usize),
}

/// A run of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) source: Source,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// A value as it lies in memory.
#[derive(Debug, Clone, Copy)]
struct Held {
    layout: Layout,
    place: Place,
}

/// A step before memory is assigned.
pub(crate) struct StepSpec {
    pub(crate) node: String,
    pub(crate) op: String,
    pub(crate) kernel: String,
    pub(crate) inputs: Vec<Place>,
    pub(crate) outputs: Vec<Place>,
    /// Bytes of scratch.
    pub(crate) scratch: usize,
    /// The input whose place the output may take.
    pub(crate) in_place: Option<usize>,
    pub(crate) macs: u64,
    /// Bytes of packed weights that the step reads.
    pub(crate) weights: u64,
    pub(crate) step: Box<dyn Step>,
}

impl StepSpec {
    /// A step of a node, without scratch.
    pub(crate) fn new(
        node: &Node,
        kernel: impl Into<String>,
        inputs: Vec<Place>,
        outputs: Vec<Place>,
        step: impl Step + 'static,
    ) -> StepSpec {
        StepSpec {
            node: node.name.clone(),
            op: node.op.name().into(),
            kernel: kernel.into(),
            inputs,
            outputs,
            scratch: 0,
            in_place: None,
            macs: 0,
            weights: 0,
            step: Box::new(step),
        }
    }

    /// Bytes it moves.
    pub(crate) fn bytes(&self) -> u64 {
        self.weights + self.inputs.iter().chain(&self.outputs).map(|p| p.bytes as u64).sum::<u64>()
    }
}

/// A graph turned into steps.
pub(crate) struct Lowered {
    pub(crate) steps: Vec<StepSpec>,
    /// Bytes of each buffer.
    pub(crate) buffers: Vec<usize>,
    pub(crate) constants: Vec<Aligned>,
    pub(crate) dynamics: Vec<Option<Tensor>>,
    pub(crate) inputs: Vec<(Place, ValueId)>,
    pub(crate) outputs: Vec<(Place, ValueId)>,
}

/// The state of lowering.
pub(crate) struct Lower<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) isa: Isa,
    pub(crate) threads: usize,
    steps: Vec<StepSpec>,
    buffers: Vec<usize>,
    constants: Vec<Aligned>,
    dynamics: Vec<Option<Tensor>>,
    held: Vec<Vec<Held>>,
    /// Name of the node being lowered, for conversions on its behalf.
    current: String,
}

/// Lowers a graph of known input shapes.
pub(crate) fn lower(graph: &Graph, options: &Options) -> Result<Lowered, EngineError> {
    let mut cx = Lower {
        graph,
        isa: options.isa(),
        threads: options.threads.max(1),
        steps: vec![],
        buffers: vec![],
        constants: vec![],
        dynamics: vec![],
        held: vec![vec![]; graph.values().len()],
        current: String::new(),
    };
    let mut inputs = vec![];
    for id in &graph.inputs {
        cx.current.clone_from(&graph.value(*id).name);
        inputs.push((convert::input(&mut cx, *id), *id));
    }
    for node in &graph.nodes {
        cx.current.clone_from(&node.name);
        let first = cx.steps.len();
        let spec = node.op.spec();
        let lowering = TABLE.iter().find(|(domain, name, _)| (*domain, *name) == (spec.domain, spec.name));
        let done = match lowering {
            Some((_, _, f)) if !options.reference && cx.is_static(node) => f(&mut cx, node)?,
            _ => false,
        };
        if !done {
            fallback::lower(&mut cx, node)?;
        }
        let macs = infer::with_context(graph, node, |infer| node.op.macs(infer));
        if let Some(step) = cx.steps[first..].iter_mut().rev().find(|s| s.node == node.name) {
            step.macs = macs;
        }
    }
    let mut outputs = vec![];
    for id in &graph.outputs {
        cx.current.clone_from(&graph.value(*id).name);
        outputs.push((convert::output(&mut cx, *id)?, *id));
    }
    let Lower { steps, buffers, constants, dynamics, .. } = cx;
    Ok(Lowered { steps, buffers, constants, dynamics, inputs, outputs })
}

impl Lower<'_> {
    /// Whether all shapes of a node are known and no value is empty.
    fn is_static(&self, node: &Node) -> bool {
        node.inputs
            .iter()
            .flatten()
            .chain(&node.outputs)
            .all(|id| self.graph.ty(*id).known_shape().is_some_and(|s| !s.contains(&0)))
    }

    /// Shape of a value of a node that [`is_static`](Self::is_static).
    pub(crate) fn shape(&self, id: ValueId) -> Vec<usize> {
        self.graph.ty(id).known_shape().unwrap_or_default()
    }

    /// How a value's elements are stored.
    pub(crate) fn form(&self, id: ValueId) -> Form {
        Form::of(self.graph.ty(id))
    }

    /// The layouts a value has been computed in; none for constants that nobody has read yet.
    pub(crate) fn has(&self, id: ValueId, layout: Layout) -> bool {
        layouts_agree(&self.shape(id)) && !self.held[id.0 as usize].is_empty()
            || self.held[id.0 as usize].iter().any(|h| h.layout == layout)
    }

    /// The layout a value was computed in.
    pub(crate) fn layout(&self, id: ValueId) -> Layout {
        self.held[id.0 as usize].first().map_or(Layout::Plain, |h| h.layout)
    }

    /// Reads a value in a layout, converting it if it is not there yet.
    pub(crate) fn read(&mut self, id: ValueId, layout: Layout) -> Result<Place, EngineError> {
        let index = id.0 as usize;
        if self.held[index].is_empty() {
            self.hold_constant(id, layout)?;
        }
        if let Some(held) = self.held[index].iter().find(|h| h.layout == layout) {
            return Ok(held.place);
        }
        let Some(from) = self.held[index].first().copied() else {
            let name = &self.graph.value(id).name;
            return Err(qing_graph::GraphError::Malformed(format!("`{name}` is read before it is defined")).into());
        };
        let shape = self.shape(id);
        let place = if matches!(from.place.source, Source::Dynamic(_)) || layouts_agree(&shape) {
            from.place
        } else {
            let to = self.buffer(from.place.bytes);
            convert::relayout(self, id, from.layout, layout, from.place, to);
            to
        };
        self.held[index].push(Held { layout, place });
        Ok(place)
    }

    /// Puts a constant into the plan.
    fn hold_constant(&mut self, id: ValueId, layout: Layout) -> Result<(), EngineError> {
        let Some(tensor) = self.graph.constant(id) else { return Ok(()) };
        let form = self.form(id);
        let mut layout = layout;
        let mut tensor = tensor.clone();
        if layout == Layout::ChannelsLast && !layouts_agree(tensor.shape()) {
            let physical = layout.physical(tensor.shape());
            let axes = layout.axes(tensor.rank());
            tensor = tensor.take(&physical, convert::permuted_indices(tensor.shape(), &axes))?;
        } else {
            layout = Layout::Plain;
        }
        let mut bytes = Aligned::zeros(form.bytes(tensor.len()));
        storage::encode(form, tensor.bytes(), bytes.as_mut());
        let place = Place { source: Source::Constant(self.constants.len()), offset: 0, bytes: bytes.as_ref().len() };
        self.constants.push(bytes);
        self.held[id.0 as usize].push(Held { layout, place });
        Ok(())
    }

    /// A new buffer of the arena.
    pub(crate) fn buffer(&mut self, bytes: usize) -> Place {
        self.buffers.push(bytes);
        Place { source: Source::Buffer(self.buffers.len() - 1), offset: 0, bytes }
    }

    /// Defines a value in a new buffer.
    pub(crate) fn write(&mut self, id: ValueId, layout: Layout) -> Place {
        let place = match self.graph.ty(id).known_shape() {
            Some(shape) => {
                let bytes = self.form(id).bytes(shape.iter().product());
                self.buffer(bytes)
            }
            None => {
                self.dynamics.push(None);
                Place { source: Source::Dynamic(self.dynamics.len() - 1), offset: 0, bytes: 0 }
            }
        };
        self.alias(id, layout, place);
        place
    }

    /// Defines a value as bytes that are there already.
    pub(crate) fn alias(&mut self, id: ValueId, layout: Layout, place: Place) {
        self.held[id.0 as usize].push(Held { layout, place });
    }

    /// Appends a step.
    pub(crate) fn push(&mut self, step: StepSpec) {
        self.steps.push(step);
    }

    /// Names the node in a kernel's objection.
    pub(crate) fn refuse(&self, node: &Node, source: KernelError) -> EngineError {
        EngineError::kernel(self.graph, node, source)
    }
}

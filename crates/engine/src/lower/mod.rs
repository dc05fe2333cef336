//! From nodes to steps: the table of what computes which op, and the memory of values on the way.

mod attention;
#[cfg(feature = "train")]
mod batch_norm;
mod bf16;
mod bits;
mod block;
mod cast;
mod chain;
mod conv;
mod convert;
mod dynamic;
mod elementwise;
mod fallback;
mod fuse;
mod groups;
#[cfg(feature = "train")]
mod learned;
mod matmul;
mod movement;
mod normalize;
mod pad;
mod pool;
#[cfg(feature = "train")]
mod pool_grad;
mod prelu;
mod qconv;
mod quantize;
mod recurrent;
mod resize;
mod strided;
mod table;
#[cfg(feature = "train")]
mod weight_grad;
mod window;

use std::collections::HashMap;

use qing_graph::{Attribute, Graph, Node, NodeId, Tensor, ValueId, infer};
use qing_kernels::{Isa, KernelError, prepacked};

pub(crate) use bits::BitDot;

use crate::{
    Arithmetic, EngineError, Options,
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
static TABLE: &[(&str, &str, LowerFn)] = &[
    ("", "Abs", elementwise::lower_unary),
    ("", "Add", add),
    ("", "Attention", attention::lower_op),
    ("", "AveragePool", pool::window),
    ("", "BatchNormalization", elementwise::lower_batch_norm),
    ("", "Cast", cast::lower),
    ("", "Clip", elementwise::lower_unary),
    ("", "Concat", movement::concat),
    ("", "Conv", conv::lower),
    ("", "ConvTranspose", dynamic::conv_transpose),
    ("", "DepthToSpace", movement::depth_to_space),
    ("", "Div", elementwise::lower_binary),
    ("", "Dropout", movement::dropout),
    ("", "Erf", elementwise::lower_unary),
    ("", "Exp", elementwise::lower_unary),
    ("", "Expand", movement::lower_expand),
    ("", "Flatten", movement::reshape),
    ("", "GRU", recurrent::lower),
    ("", "Gather", movement::gather),
    ("", "Gelu", elementwise::lower_unary),
    ("", "Gemm", matmul::gemm),
    ("", "GlobalAveragePool", pool::global),
    ("", "GlobalMaxPool", pool::global),
    ("", "HardSigmoid", elementwise::lower_unary),
    ("", "HardSwish", elementwise::lower_unary),
    ("", "Identity", movement::reshape),
    ("", "LSTM", recurrent::lower),
    ("", "LayerNormalization", normalize::lower_layer_norm),
    ("", "LeakyRelu", elementwise::lower_unary),
    ("", "LogSoftmax", normalize::lower_softmax),
    ("", "MatMul", matmul::matmul),
    ("", "Max", elementwise::lower_binary),
    ("", "MaxPool", pool::window),
    ("", "Min", elementwise::lower_binary),
    ("", "Mul", elementwise::lower_binary),
    ("", "Neg", elementwise::lower_unary),
    ("", "PRelu", elementwise::lower_binary),
    ("", "Pad", pad::lower),
    ("", "RNN", recurrent::lower),
    ("", "Reciprocal", elementwise::lower_unary),
    ("", "ReduceMax", pool::global),
    ("", "ReduceMean", pool::global),
    ("", "ReduceMin", pool::global),
    ("", "ReduceSum", pool::global),
    ("", "Relu", elementwise::lower_unary),
    ("", "Reshape", movement::reshape),
    ("", "Resize", resize::lower),
    ("", "Sigmoid", elementwise::lower_unary),
    ("", "Slice", movement::slice),
    ("", "Softmax", normalize::lower_softmax),
    ("", "Split", movement::split),
    ("", "Sqrt", elementwise::lower_unary),
    ("", "Squeeze", movement::reshape),
    ("", "Sub", elementwise::lower_binary),
    ("", "Swish", elementwise::lower_unary),
    ("", "Tanh", elementwise::lower_unary),
    ("", "Transpose", movement::transpose),
    ("", "Unsqueeze", movement::reshape),
    ("", "Where", elementwise::lower_where),
    ("com.microsoft", "QuickGelu", elementwise::lower_unary),
    #[cfg(feature = "train")]
    ("qing", "AveragePoolGrad", pool_grad::lower),
    #[cfg(feature = "train")]
    ("qing", "BatchNormGrad", batch_norm::gradient),
    #[cfg(feature = "train")]
    ("qing", "BatchNormTraining", batch_norm::training),
    #[cfg(feature = "train")]
    ("qing", "ConvWeightGrad", weight_grad::lower),
    ("qing", "Dequantize", quantize::lower_dequantize),
    #[cfg(feature = "train")]
    ("qing", "LearnedQuantize", learned::lower),
    #[cfg(feature = "train")]
    ("qing", "LearnedQuantizeGrad", learned::lower_grad),
    ("qing", "Lookup", table::lower),
    #[cfg(feature = "train")]
    ("qing", "MaxPoolGrad", pool_grad::lower),
    ("qing", "Quantize", quantize::lower_quantize),
    #[cfg(feature = "train")]
    ("qing", "ReluGrad", batch_norm::relu_gradient),
];

/// `Add` on floats or on quantized values.
fn add(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let quantized = node.inputs.iter().flatten().any(|id| cx.graph.ty(*id).quant.is_some());
    if quantized { quantize::lower_add(cx, node) } else { elementwise::lower_binary(cx, node) }
}

/// An attribute of a node by its ONNX name, or its default.
fn attr<T: Attribute>(node: &Node, name: &str, default: T) -> T {
    let attrs = node.op.attrs();
    attrs.read(name, default.clone()).unwrap_or(default)
}

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
    /// Multiply–accumulates; those of the node itself are added when it has been lowered.
    pub(crate) macs: u64,
    /// What they are done in.
    pub(crate) arithmetic: Arithmetic,
    /// Bytes of packed weights that the step reads.
    pub(crate) weights: u64,
    /// Bytes of operands that it does not read.
    pub(crate) unread: u64,
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
            arithmetic: Arithmetic::Float,
            weights: 0,
            unread: 0,
            step: Box::new(step),
        }
    }

    /// Bytes it moves.
    pub(crate) fn bytes(&self) -> u64 {
        let operands = self.inputs.iter().chain(&self.outputs).map(|p| p.bytes as u64).sum::<u64>();
        (self.weights + operands).saturating_sub(self.unread)
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
    /// Whether convolutions of floats are plain sums.
    pub(crate) exact: bool,
    /// Whether floats may be multiplied as bfloat16; with `exact` only where weights come with every run.
    pub(crate) bf16: bool,
    /// Whether weights may take no more bytes than they have.
    pub(crate) compact: bool,
    steps: Vec<StepSpec>,
    buffers: Vec<usize>,
    constants: Vec<Aligned>,
    dynamics: Vec<Option<Tensor>>,
    held: Vec<Vec<Held>>,
    consumers: Vec<Vec<NodeId>>,
    /// Nodes that are computed by the step of another.
    absorbed: Vec<bool>,
}

/// Lowers a graph of known input shapes.
pub(crate) fn lower(graph: &Graph, options: &Options) -> Result<Lowered, EngineError> {
    let mut cx = Lower {
        graph,
        isa: options.isa(),
        threads: options.threads.max(1),
        exact: options.exact,
        bf16: options.bf16,
        compact: options.compact,
        steps: vec![],
        buffers: vec![],
        constants: vec![],
        dynamics: vec![],
        held: vec![vec![]; graph.values().len()],
        consumers: graph.consumers(),
        absorbed: vec![false; graph.nodes.len()],
    };
    let mut inputs = vec![];
    for id in &graph.inputs {
        inputs.push((convert::input(&mut cx, *id), *id));
    }
    let mut attention = if options.reference { HashMap::new() } else { attention::find(&cx) };
    for index in attention.values().flat_map(|found| found.nodes()) {
        cx.absorbed[index] = true;
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        prepacked::node(index);
        if let Some(found) = attention.remove(&index) {
            attention::lower(&mut cx, found)?;
            continue;
        }
        if cx.absorbed[index] {
            release(graph, node);
            continue;
        }
        let first = cx.steps.len();
        let spec = node.op.spec();
        let lowering = TABLE.iter().find(|(domain, name, _)| (*domain, *name) == (spec.domain, spec.name));
        let unary: LowerFn = elementwise::lower_unary;
        let lowering = lowering.map(|(_, _, f)| *f).or_else(|| node.op.map(0.0).map(|_| unary));
        let done = match lowering {
            Some(f) if !options.reference && cx.is_static(node) => chain::lower(&mut cx, index)? || f(&mut cx, node)?,
            _ => false,
        };
        if !done {
            fallback::lower(&mut cx, node)?;
        }
        let quantized = node.input(0).is_some_and(|id| graph.ty(id).quant.is_some());
        if let Some(step) = cx.steps[first..].iter_mut().rev().find(|s| s.node == node.name) {
            step.macs += macs(graph, node);
            step.arithmetic = if quantized { Arithmetic::Integer } else { Arithmetic::Float };
        }
        release(graph, node);
    }
    let mut outputs = vec![];
    for id in &graph.outputs {
        outputs.push((convert::output(&mut cx, *id)?, *id));
    }
    let Lower { mut steps, mut buffers, constants, dynamics, .. } = cx;
    let ports: Vec<Place> = inputs.iter().chain(&outputs).map(|(place, _)| *place).collect();
    bits::join(&mut steps, &mut buffers, &ports);
    Ok(Lowered { steps, buffers, constants, dynamics, inputs, outputs })
}

/// What a node had packed is not read again: the pages of a mapped file need not stay in memory beside it.
fn release(graph: &Graph, node: &Node) {
    for constant in node.inputs.iter().flatten().filter_map(|id| graph.constant(*id)) {
        qing_tensor::release(constant.bytes());
    }
}

/// Multiply–accumulates of a node.
fn macs(graph: &Graph, node: &Node) -> u64 {
    infer::with_context(graph, node, |infer| node.op.macs(infer))
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

    /// Whether a value can be read by the step lowered next.
    pub(crate) fn is_defined(&self, id: ValueId) -> bool {
        self.graph.constant(id).is_some() || !self.held[id.0 as usize].is_empty()
    }

    /// The one node that reads a value which is no output of the graph.
    pub(crate) fn single_consumer(&self, id: ValueId) -> Option<(NodeId, &Node)> {
        match self.consumers[id.0 as usize].as_slice() {
            [one] if !self.graph.outputs.contains(&id) && !self.absorbed[*one] => Some((*one, &self.graph.nodes[*one])),
            _ => None,
        }
    }

    /// The nodes that read a value.
    #[cfg_attr(not(feature = "train"), allow(dead_code))]
    pub(crate) fn readers(&self, id: ValueId) -> &[NodeId] {
        &self.consumers[id.0 as usize]
    }

    /// Whether a node is computed by the step of another.
    #[cfg_attr(not(feature = "train"), allow(dead_code))]
    pub(crate) fn is_absorbed(&self, node: NodeId) -> bool {
        self.absorbed[node]
    }

    /// Leaves a node to the step of another.
    #[cfg_attr(not(feature = "train"), allow(dead_code))]
    pub(crate) fn absorb(&mut self, node: NodeId) {
        self.absorbed[node] = true;
    }

    /// Whether a reader of the value would rather have the channel last.
    pub(crate) fn wants_channels_last(&self, id: ValueId) -> bool {
        let wanting = [
            "AveragePool",
            "AveragePoolGrad",
            "BatchNormTraining",
            "Conv",
            "ConvTranspose",
            "ConvWeightGrad",
            "DepthToSpace",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "MaxPool",
            "Resize",
        ];
        self.consumers[id.0 as usize].iter().any(|n| {
            let node = &self.graph.nodes[*n];
            node.input(0) == Some(id) && wanting.contains(&node.op.name())
        })
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

    /// Puts floats that are no value of the graph into the plan.
    pub(crate) fn floats(&mut self, values: &[f32]) -> Place {
        let bytes = Aligned::copy_of(bytemuck::cast_slice(values));
        let place = Place { source: Source::Constant(self.constants.len()), offset: 0, bytes: bytes.as_ref().len() };
        self.constants.push(bytes);
        place
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

    /// Appends a step that also does the work of later nodes.
    pub(crate) fn push_fused(&mut self, mut step: StepSpec, nodes: &[NodeId]) {
        for index in nodes {
            self.absorbed[*index] = true;
            step.op = format!("{}+{}", step.op, self.graph.nodes[*index].op.name());
            step.macs += macs(self.graph, &self.graph.nodes[*index]);
        }
        self.steps.push(step);
    }

    /// Names the node in a kernel's objection.
    pub(crate) fn refuse(&self, node: &Node, source: KernelError) -> EngineError {
        EngineError::kernel(self.graph, node, source)
    }
}

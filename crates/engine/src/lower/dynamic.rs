//! Convolutions of floats by weights that are values of the graph, as in training: they are packed by every run. And their transposes, which
//! are the gradients of their inputs.

use qing_graph::{Node, ValueId, ops};
use qing_kernels::{
    ConvGeometry, KernelError, Pool,
    float::{
        Clamp,
        conv::{DynamicConv, FilterLayout, Sums, TransposedConv},
        depthwise::{DynamicDepthwise, TransposedDepthwise},
    },
};

use super::{Lower, StepSpec, conv, elementwise::is_f32, fuse, window};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// A layer by weights that come with every run.
enum Layer {
    Conv(Box<DynamicConv>),
    Transposed(TransposedConv),
    Depthwise(DynamicDepthwise),
    TransposedDepthwise(TransposedDepthwise),
}

impl Layer {
    /// The kernel's name, of which `plain` is that of a plain sum.
    fn name(&self, plain: &str) -> String {
        let rounded = match self {
            Layer::Conv(conv) => conv.is_rounded(),
            Layer::Transposed(conv) => conv.is_rounded(),
            Layer::Depthwise(_) | Layer::TransposedDepthwise(_) => false,
        };
        if self.is_transformed() {
            plain.replace("conv", "winograd")
        } else if rounded {
            plain.replace("f32", "bf16")
        } else {
            plain.to_owned()
        }
    }

    fn is_transformed(&self) -> bool {
        match self {
            Layer::Conv(conv) => conv.is_transformed(),
            Layer::Transposed(conv) => conv.is_transformed(),
            Layer::Depthwise(_) | Layer::TransposedDepthwise(_) => false,
        }
    }

    fn scratch_len(&self, threads: usize) -> usize {
        match self {
            Layer::Conv(conv) => conv.scratch_len(threads),
            Layer::Transposed(conv) => conv.scratch_len(threads),
            Layer::Depthwise(conv) => conv.scratch_len(),
            Layer::TransposedDepthwise(conv) => conv.scratch_len(),
        }
    }

    fn run(
        &self,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        match self {
            Layer::Conv(conv) => conv.run(weights, bias, x, residual, y, scratch, pool),
            Layer::Transposed(conv) => conv.run(weights, bias, x, residual, y, scratch, pool),
            // Nothing is added to these.
            Layer::Depthwise(conv) => conv.run(weights, bias, x, y, scratch, pool),
            Layer::TransposedDepthwise(conv) => conv.run(weights, bias, x, y, scratch, pool),
        }
    }
}

/// Inputs: the image, weights, the bias if there is one, the residual if there is one.
struct LayerStep {
    layer: Layer,
    bias: bool,
    residual: bool,
}

impl Step for LayerStep {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let bias = self.bias.then(|| inputs.values(2));
        let residual = self.residual.then(|| inputs.values(2 + usize::from(self.bias)));
        let (y, scratch) = (bytemuck::cast_slice_mut(y), bytemuck::cast_slice_mut(scratch));
        self.layer.run(inputs.values(1), bias, inputs.values(0), residual, y, scratch, pool)?;
        Ok(())
    }
}

/// `Conv` of floats whose weights or bias are no constants.
pub(super) fn conv(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let floats = node.inputs.iter().flatten().chain(&node.outputs).all(|id| is_f32(cx, *id));
    let Some(geometry) = (if floats { conv::any_geometry(cx, node)? } else { None }) else { return Ok(false) };
    if geometry.is_depthwise() {
        return lower(cx, node, geometry, "depthwise f32", &|cx, clamp| {
            Ok(Layer::Depthwise(DynamicDepthwise::new(cx.isa, geometry, clamp)?))
        });
    }
    lower(cx, node, geometry, "conv f32", &|cx, clamp| {
        let layout = FilterLayout::planar(&geometry);
        with_sums(cx, cx.exact, &|sums| {
            Ok(Layer::Conv(Box::new(DynamicConv::new(cx.isa, geometry, layout, clamp, sums)?)))
        })
    })
}

/// `ConvTranspose` of floats.
pub(super) fn conv_transpose(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let Some(forward) = transposed_geometry(cx, node)? else { return Ok(false) };
    if forward.is_depthwise() && TransposedDepthwise::new(cx.isa, forward, Clamp::NONE).is_ok() {
        return lower(cx, node, forward, "transposed depthwise f32", &|cx, clamp| {
            Ok(Layer::TransposedDepthwise(TransposedDepthwise::new(cx.isa, forward, clamp)?))
        });
    }
    let exact = cx.exact && !is_gradient(cx, node.input(0));
    lower(cx, node, forward, "transposed conv f32", &|cx, clamp| {
        with_sums(cx, exact, &|sums| Ok(Layer::Transposed(TransposedConv::new(cx.isa, forward, clamp, sums)?)))
    })
}

/// A layer by the fastest method that is allowed: a transform saves more products than bfloat16 does.
fn with_sums(
    cx: &Lower<'_>,
    exact: bool,
    make: &dyn Fn(Sums) -> Result<Layer, KernelError>,
) -> Result<Layer, KernelError> {
    let layer = make(if exact { Sums::Plain } else { Sums::Fastest })?;
    if cx.bf16 && !layer.is_transformed() { make(Sums::Rounded) } else { Ok(layer) }
}

/// Whether a value is what flowed back through an op: no sum of it by weights is one of whole numbers, which exactness is for.
fn is_gradient(cx: &Lower<'_>, id: Option<ValueId>) -> bool {
    let producer = cx.graph.nodes.iter().find(|n| n.outputs.iter().any(|out| Some(*out) == id));
    producer.is_some_and(|n| n.op.spec().domain == "qing" && n.op.name().ends_with("Grad"))
}

/// The geometry of the convolution that a `ConvTranspose` of floats transposes.
fn transposed_geometry(cx: &Lower<'_>, node: &Node) -> Result<Option<ConvGeometry>, EngineError> {
    let (Some(op), Some(x), Some(w)) = (node.op.downcast::<ops::ConvTranspose>(), node.input(0), node.input(1)) else {
        return Ok(None);
    };
    let (x_shape, w_shape, y_shape) = (cx.shape(x), cx.shape(w), cx.shape(node.outputs[0]));
    let floats = node.inputs.iter().flatten().chain(&node.outputs).all(|id| is_f32(cx, *id));
    if !floats || w_shape.len() != x_shape.len() {
        return Ok(None);
    }
    let fail = |source| cx.graph.node_error(node, source);
    let groups = op.groups().map_err(fail)?;
    let axes = op.transposed(&x_shape[2..], &w_shape[2..]).map_err(fail)?;
    let found = window::of_axes(&axes, x_shape[0], y_shape[1], x_shape[1], groups);
    Ok(found.map(|(geometry, _)| geometry))
}

/// Pushes a layer and what can be done to its results.
fn lower(
    cx: &mut Lower<'_>,
    node: &Node,
    geometry: ConvGeometry,
    kernel: &str,
    make: &dyn Fn(&Lower<'_>, Clamp) -> Result<Layer, KernelError>,
) -> Result<bool, EngineError> {
    let (Some(x), Some(w), y) = (node.input(0), node.input(1), node.outputs[0]) else { return Ok(false) };
    let plain = make(cx, Clamp::NONE).map_err(|e| cx.refuse(node, e))?;
    let tail = fuse::float_tail(cx, y, matches!(plain, Layer::Conv(_) | Layer::Transposed(_)));
    let layer = make(cx, tail.clamp).map_err(|e| cx.refuse(node, e))?;
    let mut inputs = vec![cx.read(x, Layout::ChannelsLast)?, cx.read(w, Layout::Plain)?];
    if let Some(bias) = node.input(2) {
        inputs.push(cx.read(bias, Layout::Plain)?);
    }
    if let Some(residual) = tail.residual {
        inputs.push(cx.read(residual, Layout::ChannelsLast)?);
    }
    let outputs = vec![cx.write(tail.output, Layout::ChannelsLast)];
    let scratch = size_of::<f32>() * layer.scratch_len(cx.threads);
    let name = conv::name(cx, &layer.name(kernel), &geometry);
    let step = LayerStep { layer, bias: node.input(2).is_some(), residual: tail.residual.is_some() };
    let step = StepSpec { scratch, ..StepSpec::new(node, name, inputs, outputs, step) };
    cx.push_fused(step, &tail.nodes);
    Ok(true)
}

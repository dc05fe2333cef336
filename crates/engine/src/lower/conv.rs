//! Float convolution.

use std::borrow::Cow;

use qing_graph::{Node, ValueId, ops};
use qing_kernels::{
    ConvGeometry, Pool,
    float::{conv::Conv, depthwise::Depthwise},
};

use super::{
    Lower, StepSpec, bf16, block, block::FloatConv, dynamic, elementwise::is_f32, fuse, qconv, window::geometry,
};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// Input 0 is the image, input 1 the residual.
struct ConvStep {
    conv: Conv,
    residual: bool,
}

impl Step for ConvStep {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let residual = self.residual.then(|| inputs.values(1));
        let (y, scratch) = (bytemuck::cast_slice_mut(y), bytemuck::cast_slice_mut(scratch));
        self.conv.run(inputs.values(0), residual, y, scratch, pool)?;
        Ok(())
    }
}

struct DepthwiseStep(Depthwise);

impl Step for DepthwiseStep {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        self.0.run(inputs.values(0), bytemuck::cast_slice_mut(y), pool)?;
        Ok(())
    }
}

/// The geometry of a convolution with constant weights and bias over one or two axes.
pub(super) fn geometry_of(cx: &Lower<'_>, node: &Node) -> Result<Option<ConvGeometry>, EngineError> {
    let constant = |id: &ValueId| cx.graph.constant(*id).is_some();
    if node.inputs.iter().skip(1).flatten().all(constant) { any_geometry(cx, node) } else { Ok(None) }
}

/// The geometry of a convolution over one or two axes.
pub(super) fn any_geometry(cx: &Lower<'_>, node: &Node) -> Result<Option<ConvGeometry>, EngineError> {
    let (Some(op), Some(x), Some(w)) = (node.op.downcast::<ops::Conv>(), node.input(0), node.input(1)) else {
        return Ok(None);
    };
    let fail = |source| cx.graph.node_error(node, source);
    let groups = op.groups().map_err(fail)?;
    let (x_shape, w_shape) = (cx.shape(x), cx.shape(w));
    if w_shape.len() != x_shape.len() {
        return Ok(None);
    }
    let found = geometry(&op.window(), &x_shape, &w_shape[2..], w_shape[0], groups).map_err(fail)?;
    Ok(found.map(|(geometry, _)| geometry))
}

/// [`geometry_of`] a convolution of floats alone.
pub(super) fn float_geometry(cx: &Lower<'_>, node: &Node) -> Result<Option<ConvGeometry>, EngineError> {
    let floats = node.inputs.iter().flatten().chain(&node.outputs).all(|id| is_f32(cx, *id));
    if floats { geometry_of(cx, node) } else { Ok(None) }
}

/// A convolution of floats with constant weights.
pub(super) fn float_conv<'g>(cx: &Lower<'g>, node: &Node) -> Result<Option<FloatConv<'g>>, EngineError> {
    let (Some(geometry), Some(w)) = (float_geometry(cx, node)?, node.input(1)) else { return Ok(None) };
    let graph = cx.graph;
    let Some(weights) = graph.constant(w) else { return Ok(None) };
    let weights = channels_last(weights.values::<f32>()?, &cx.shape(w));
    let bias = node.input(2).and_then(|id| cx.graph.constant(id)).map(|t| t.to_f32s());
    Ok(Some(FloatConv { geometry, weights, bias }))
}

/// `Conv`: quantized if its input is, else on floats with constant weights.
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(geometry), Some(x), Some(w)) = (geometry_of(cx, node)?, node.input(0), node.input(1)) else {
        return dynamic::conv(cx, node);
    };
    if cx.graph.ty(x).quant.is_some() || cx.graph.ty(w).quant.is_some() {
        let Some(weights) = qconv::centered(cx, w, 0) else { return Ok(false) };
        let shape = cx.shape(w);
        let weights = qconv::Integers::new(move || channels_last(weights(), &shape));
        return qconv::lower(cx, node, geometry, &weights, Layout::ChannelsLast);
    }
    let Some(layer) = float_conv(cx, node)? else { return Ok(false) };
    if bf16::conv(cx, node, x, &layer)? {
        return Ok(true);
    }
    if block::lower(cx, node, &layer)? {
        return Ok(true);
    }
    let FloatConv { geometry, weights, bias } = layer;
    let y = node.outputs[0];
    let depthwise = geometry.is_depthwise();
    let tail = fuse::float_tail(cx, y, !depthwise);
    let refuse = |cx: &Lower<'_>, e| cx.refuse(node, e);
    let mut places = vec![cx.read(x, Layout::ChannelsLast)?];
    if let Some(residual) = tail.residual {
        places.push(cx.read(residual, Layout::ChannelsLast)?);
    }
    let outputs = vec![cx.write(tail.output, Layout::ChannelsLast)];
    let mut step = if depthwise {
        let packed = Depthwise::pack(cx.isa, geometry, &weights, bias.as_deref(), tail.clamp);
        let packed = packed.map_err(|e| refuse(cx, e))?;
        StepSpec::new(node, name(cx, "depthwise f32", &geometry), places, outputs, DepthwiseStep(packed))
    } else {
        // A transform of weights is several times as large.
        let pack = if cx.exact || cx.compact { Conv::pack_exact } else { Conv::pack };
        let packed = pack(cx.isa, geometry, &weights, bias.as_deref(), tail.clamp);
        let conv = packed.map_err(|e| refuse(cx, e))?;
        let scratch = size_of::<f32>() * conv.scratch_len(cx.threads);
        let step = ConvStep { conv, residual: tail.residual.is_some() };
        StepSpec { scratch, ..StepSpec::new(node, name(cx, "conv f32", &geometry), places, outputs, step) }
    };
    step.weights = 4 * weights.len() as u64;
    if tail.residual.is_some() {
        step.in_place = None;
    }
    cx.push_fused(step, &tail.nodes);
    Ok(true)
}

/// The kernel's name with what matters of the geometry.
pub(super) fn name(cx: &Lower<'_>, kernel: &str, g: &ConvGeometry) -> String {
    let [h, w] = g.kernel;
    let stride = if g.stride == [1, 1] { String::new() } else { format!("/{}", g.stride[0].max(g.stride[1])) };
    let groups = if g.groups > 1 && !g.is_depthwise() { format!(" {} groups", g.groups) } else { String::new() };
    format!("{kernel} {h}x{w}{stride}{groups} {}", cx.isa.name())
}

/// Bytes of weights that are copied before their pages are given back.
const COPIED_BYTES: usize = 1 << 18;

/// Weights `[out, in, taps…]` as `[out, taps…, in]`.
pub(super) fn channels_last<'a, T: bytemuck::Pod>(weights: Cow<'a, [T]>, shape: &[usize]) -> Cow<'a, [T]> {
    let (channels, taps) = (shape[1], shape[2..].iter().product::<usize>());
    if channels == 1 || taps == 1 {
        return weights;
    }
    let mut to = Vec::with_capacity(weights.len());
    let size = channels * taps;
    // What has been copied need not stay in memory while the rest is.
    for filters in weights.chunks(size * (COPIED_BYTES / (size * size_of::<T>())).max(1)) {
        for filter in filters.chunks_exact(size) {
            for tap in 0..taps {
                to.extend(filter[tap..].iter().step_by(taps));
            }
        }
        qing_tensor::release(bytemuck::cast_slice(filters));
    }
    Cow::Owned(to)
}

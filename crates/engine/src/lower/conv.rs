//! Float convolution.

use qing_graph::{Element, Node, ops};
use qing_kernels::{
    ConvGeometry, Pool,
    float::{conv::Conv, depthwise::Depthwise},
};

use super::{Lower, StepSpec, fuse, qconv, window::geometry};
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
        let (inputs, y, _) = io.split();
        let residual = self.residual.then(|| inputs.values(1));
        self.conv.run(inputs.values(0), residual, bytemuck::cast_slice_mut(y), pool)?;
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

/// `Conv`: quantized if its input is, else on floats with constant weights.
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(op), Some(x), Some(w)) = (node.op.downcast::<ops::Conv>(), node.input(0), node.input(1)) else {
        return Ok(false);
    };
    let y = node.outputs[0];
    let constant = |id| cx.graph.constant(id);
    let bias = node.input(2);
    let (Some(weights), None | Some(Some(_))) = (constant(w), bias.map(constant)) else { return Ok(false) };
    let fail = |source| cx.graph.node_error(node, source);
    let groups = op.groups().map_err(fail)?;
    let (x_shape, w_shape) = (cx.shape(x), cx.shape(w));
    if w_shape.len() != x_shape.len() {
        return Ok(false);
    }
    let found = geometry(&op.window(), &x_shape, &w_shape[2..], w_shape[0], groups).map_err(fail)?;
    let Some((geometry, _)) = found else { return Ok(false) };
    if cx.graph.ty(x).quant.is_some() || cx.graph.ty(w).quant.is_some() {
        let weights = channels_last(&weights.to_ints(), &w_shape);
        return qconv::lower(cx, node, geometry, 0, &weights, Layout::ChannelsLast);
    }
    if [x, w, y].iter().any(|id| cx.graph.ty(*id).element != Element::F32) {
        return Ok(false);
    }
    let weights = channels_last(&weights.to_f32s(), &w_shape);
    let bias = bias.and_then(constant).map(|t| t.to_f32s());
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
        let packed = Conv::pack(cx.isa, geometry, &weights, bias.as_deref(), tail.clamp);
        let conv = packed.map_err(|e| refuse(cx, e))?;
        let residual = tail.residual.is_some();
        StepSpec::new(node, name(cx, "conv f32", &geometry), places, outputs, ConvStep { conv, residual })
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

/// Weights `[out, in, taps…]` as `[out, taps…, in]`.
pub(super) fn channels_last<T: Copy>(weights: &[T], shape: &[usize]) -> Vec<T> {
    let (out, channels, taps) = (shape[0], shape[1], shape[2..].iter().product::<usize>());
    let mut to = Vec::with_capacity(weights.len());
    for o in 0..out {
        let filter = &weights[o * channels * taps..(o + 1) * channels * taps];
        for tap in 0..taps {
            to.extend((0..channels).map(|c| filter[c * taps + tap]));
        }
    }
    to
}

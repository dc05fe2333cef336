//! Chains of convolutions that are computed as one step, so that the images between them are never whole.

use std::borrow::Cow;

use qing_graph::{Node, NodeId, ValueId, infer, ops};
use qing_kernels::{
    ConvGeometry, Pool,
    float::{
        Clamp,
        block::{Block, Layer},
    },
};

use super::{Lower, StepSpec, conv, fuse};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// The convolution that alone reads `value`, which is no output of the graph.
pub(super) fn next_conv<'a>(cx: &'a Lower<'_>, value: ValueId) -> Option<(NodeId, &'a Node)> {
    let (index, node) = cx.single_consumer(value)?;
    (node.op.is::<ops::Conv>() && node.input(0) == Some(value)).then_some((index, node))
}

/// Input 0 is the image, input 1 the residual.
struct BlockStep {
    block: Block,
    residual: bool,
}

impl Step for BlockStep {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let residual = self.residual.then(|| inputs.values(1));
        self.block.run(inputs.values(0), residual, bytemuck::cast_slice_mut(y), pool)?;
        Ok(())
    }
}

/// A convolution on floats with constant weights.
pub(super) struct FloatConv<'g> {
    pub(super) geometry: ConvGeometry,
    /// `[out_c, kernel…, in_c / groups]`
    pub(super) weights: Cow<'g, [f32]>,
    pub(super) bias: Option<Vec<f32>>,
}

impl FloatConv<'_> {
    fn layer(&self, clamp: Clamp) -> Layer<'_> {
        Layer { geometry: self.geometry, weights: &self.weights, bias: self.bias.as_deref(), clamp }
    }
}

/// Pushes a float convolution, a depthwise one that alone reads it, and a pointwise one that alone reads that, as one step: the
/// inverted residual block. `Ok(false)` if `node`, whose convolution is `first`, does not begin one that pays.
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node, first: &FloatConv<'_>) -> Result<bool, EngineError> {
    let widened = fuse::float_tail(cx, node.outputs[0], false);
    let Some((depthwise_id, depthwise_node)) = next_conv(cx, widened.output) else { return Ok(false) };
    let Some(depthwise_geometry) = conv::float_geometry(cx, depthwise_node)? else { return Ok(false) };
    let filtered = fuse::float_tail(cx, depthwise_node.outputs[0], false);
    let Some((narrow_id, narrow_node)) = next_conv(cx, filtered.output) else { return Ok(false) };
    let Some(narrow_geometry) = conv::float_geometry(cx, narrow_node)? else { return Ok(false) };
    if !Block::pays(&first.geometry, &depthwise_geometry, &narrow_geometry) {
        return Ok(false);
    }
    let narrowed = fuse::float_tail(cx, narrow_node.outputs[0], true);
    let (Some(depthwise), Some(narrow)) = (conv::float_conv(cx, depthwise_node)?, conv::float_conv(cx, narrow_node)?)
    else {
        return Ok(false);
    };
    let (widen_layer, depthwise_layer) = (first.layer(widened.clamp), depthwise.layer(filtered.clamp));
    let block = Block::pack(cx.isa, &widen_layer, &depthwise_layer, &narrow.layer(narrowed.clamp));
    let block = block.map_err(|e| cx.refuse(node, e))?;
    let kernel = conv::name(cx, "block f32", &depthwise_geometry);
    let absorbed: Vec<NodeId> =
        [&widened.nodes[..], &[depthwise_id], &filtered.nodes, &[narrow_id], &narrowed.nodes].concat();
    let macs = [depthwise_node, narrow_node].map(|n| infer::with_context(cx.graph, n, |infer| n.op.macs(infer)));
    let mut places = vec![cx.read(node.inputs[0].unwrap_or(node.outputs[0]), Layout::ChannelsLast)?];
    if let Some(residual) = narrowed.residual {
        places.push(cx.read(residual, Layout::ChannelsLast)?);
    }
    let outputs = vec![cx.write(narrowed.output, Layout::ChannelsLast)];
    let residual = narrowed.residual.is_some();
    let mut step = StepSpec::new(node, kernel, places, outputs, BlockStep { block, residual });
    step.weights = 4 * (first.weights.len() + depthwise.weights.len() + narrow.weights.len()) as u64;
    step.macs = macs.iter().sum();
    cx.push_fused(step, &absorbed);
    Ok(true)
}

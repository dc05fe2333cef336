//! Chains of convolutions that are computed as one step, so that the images between them are never whole.

use std::borrow::Cow;

use qing_graph::{Node, NodeId, ValueId, ops};
use qing_kernels::{
    ConvGeometry, Isa, Pool,
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
        let (inputs, y, scratch) = io.split();
        let residual = self.residual.then(|| inputs.values(1));
        let (y, scratch) = (bytemuck::cast_slice_mut(y), bytemuck::cast_slice_mut(scratch));
        self.block.run(inputs.values(0), residual, y, scratch, pool)?;
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
/// inverted residual block; or, where `node` is the depthwise one, the last two. `Ok(false)` if `node`, whose convolution is `first`, does
/// not begin a block that pays.
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node, first: &FloatConv<'_>) -> Result<bool, EngineError> {
    if cx.isa == Isa::Scalar {
        return Ok(false);
    }
    let mut chain = vec![(node, fuse::float_tail(cx, node.outputs[0], false))];
    let mut absorbed: Vec<NodeId> = chain[0].1.nodes.clone();
    let mut geometries = vec![first.geometry];
    let wanted = if first.geometry.is_depthwise() { 2 } else { 3 };
    while chain.len() < wanted {
        let Some((id, next)) = next_conv(cx, chain[chain.len() - 1].1.output) else { return Ok(false) };
        let Some(geometry) = conv::float_geometry(cx, next)? else { return Ok(false) };
        let tail = fuse::float_tail(cx, next.outputs[0], chain.len() + 1 == wanted);
        absorbed.push(id);
        absorbed.extend(&tail.nodes);
        geometries.push(geometry);
        chain.push((next, tail));
    }
    let [depthwise_geometry, narrow_geometry] = [geometries[wanted - 2], geometries[wanted - 1]];
    if !Block::pays(geometries.iter().rev().nth(2), &depthwise_geometry, &narrow_geometry) {
        return Ok(false);
    }
    let mut convs = vec![];
    for (node, _) in &chain[1..] {
        let Some(conv) = conv::float_conv(cx, node)? else { return Ok(false) };
        convs.push(conv);
    }
    let mut layers = vec![first.layer(chain[0].1.clamp)];
    layers.extend(convs.iter().zip(&chain[1..]).map(|(conv, (_, tail))| conv.layer(tail.clamp)));
    let block = Block::pack(cx.isa, layers.iter().rev().nth(2), &layers[wanted - 2], &layers[wanted - 1]);
    let block = block.map_err(|e| cx.refuse(node, e))?;
    let kernel = conv::name(cx, "block f32", &depthwise_geometry);
    let weights: usize = layers.iter().map(|layer| layer.weights.len()).sum();
    let Some((_, last)) = chain.pop() else { return Ok(false) };
    let Some(x) = node.input(0) else { return Ok(false) };
    let mut places = vec![cx.read(x, Layout::ChannelsLast)?];
    if let Some(residual) = last.residual {
        places.push(cx.read(residual, Layout::ChannelsLast)?);
    }
    let outputs = vec![cx.write(last.output, Layout::ChannelsLast)];
    let scratch = size_of::<f32>() * block.scratch_len(cx.threads);
    let mut step = StepSpec::new(node, kernel, places, outputs, BlockStep { block, residual: last.residual.is_some() });
    step.scratch = scratch;
    step.weights = 4 * weights as u64;
    cx.push_fused(step, &absorbed);
    Ok(true)
}

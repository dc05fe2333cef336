//! Convolutions and products of floats in bfloat16, for those who ask for it.

use qing_graph::{Node, NodeId, ValueId};
use qing_kernels::{ConvGeometry, Pool, float::bf16::Bf16Conv};

use super::{Lower, StepSpec, block::FloatConv, conv::name, fuse};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// Input 0 is the image, input 1 the residual.
struct Bf16Step {
    conv: Bf16Conv,
    residual: bool,
}

impl Step for Bf16Step {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let residual = self.residual.then(|| inputs.values(1));
        self.conv.run(inputs.values(0), residual, bytemuck::cast_slice_mut(y), scratch, pool)?;
        Ok(())
    }
}

/// Lowers a convolution of floats; `false` where bfloat16 was not asked for or does not pay.
pub(super) fn conv(cx: &mut Lower<'_>, node: &Node, x: ValueId, layer: &FloatConv<'_>) -> Result<bool, EngineError> {
    let (weights, bias) = (&layer.weights, layer.bias.as_deref());
    lower(cx, node, x, (node.outputs[0], vec![]), (layer.geometry, Layout::ChannelsLast), weights, bias)
}

/// Lowers a product of rows by constant weights, `[cols, depth]` if they are `transposed`, else `[depth, cols]`; `start` is the value after the
/// bias and the nodes absorbed on the way there.
pub(super) fn product(
    cx: &mut Lower<'_>,
    node: &Node,
    x: ValueId,
    start: (ValueId, Vec<NodeId>),
    (depth, cols): (usize, usize),
    (weights, transposed): (&[f32], bool),
    bias: Option<&[f32]>,
) -> Result<bool, EngineError> {
    let rows = cx.shape(x).iter().product::<usize>() / depth.max(1);
    let geometry = ConvGeometry::matmul(rows, depth, cols);
    if !cx.bf16 || cx.exact || rows == 0 || !Bf16Conv::pays(cx.isa, &geometry) {
        return Ok(false);
    }
    let flipped: Vec<f32>;
    let weights = if transposed {
        weights
    } else {
        flipped = (0..cols).flat_map(|c| (0..depth).map(move |d| weights[d * cols + c])).collect();
        &flipped
    };
    lower(cx, node, x, start, (geometry, Layout::Plain), weights, bias)
}

fn lower(
    cx: &mut Lower<'_>,
    node: &Node,
    x: ValueId,
    (start, mut absorbed): (ValueId, Vec<NodeId>),
    (geometry, layout): (ConvGeometry, Layout),
    weights: &[f32],
    bias: Option<&[f32]>,
) -> Result<bool, EngineError> {
    if !cx.bf16 || cx.exact || !Bf16Conv::pays(cx.isa, &geometry) {
        return Ok(false);
    }
    let tail = fuse::float_tail(cx, start, true);
    let packed = Bf16Conv::pack(cx.isa, geometry, weights, bias, tail.clamp).map_err(|e| cx.refuse(node, e))?;
    let Some(conv) = packed else { return Ok(false) };
    let mut places = vec![cx.read(x, layout)?];
    if let Some(residual) = tail.residual {
        places.push(cx.read(residual, layout)?);
    }
    let outputs = vec![cx.write(tail.output, layout)];
    let (scratch, weights) = (conv.scratch_bytes(cx.threads), conv.weight_bytes() as u64);
    let kind = if layout == Layout::Plain { "product bf16" } else { "conv bf16" };
    let step = Bf16Step { conv, residual: tail.residual.is_some() };
    let step = StepSpec::new(node, name(cx, kind, &geometry), places, outputs, step);
    absorbed.extend(&tail.nodes);
    cx.push_fused(StepSpec { scratch, weights, ..step }, &absorbed);
    Ok(true)
}

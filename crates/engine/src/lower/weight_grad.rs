//! Gradients of the weights of convolutions.

use qing_graph::{Node, ops};
use qing_kernels::{
    Pool,
    float::{
        conv::{ConvWeightGrad, FilterLayout, Sums},
        depthwise::DepthwiseWeightGrad,
    },
};

use super::{Lower, StepSpec, conv, elementwise::is_f32, window};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// Inputs: what was convolved, and the gradient of the results.
enum WeightGradStep {
    Dense(ConvWeightGrad),
    Depthwise(DepthwiseWeightGrad),
}

impl Step for WeightGradStep {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, dw, scratch) = io.split();
        let (dw, scratch) = (bytemuck::cast_slice_mut(dw), bytemuck::cast_slice_mut(scratch));
        let (x, dy) = (inputs.values(0), inputs.values(1));
        match self {
            WeightGradStep::Dense(plan) => plan.run(x, dy, dw, scratch, pool)?,
            WeightGradStep::Depthwise(plan) => plan.run(x, dy, dw, scratch, pool)?,
        }
        Ok(())
    }
}

/// `ConvWeightGrad`
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(op), Some(x), Some(dy)) = (node.op.downcast::<ops::ConvWeightGrad>(), node.input(0), node.input(1))
    else {
        return Ok(false);
    };
    let (x_shape, dy_shape, dw) = (cx.shape(x), cx.shape(dy), node.outputs[0]);
    if ![x, dy, dw].iter().all(|id| is_f32(cx, *id)) {
        return Ok(false);
    }
    let fail = |source| cx.graph.node_error(node, source);
    let (axes, groups) = (op.axes(&x_shape[2..]).map_err(fail)?, op.groups().map_err(fail)?);
    let Some((geometry, _)) = window::of_axes(&axes, x_shape[0], x_shape[1], dy_shape[1], groups) else {
        return Ok(false);
    };
    let mut name = "weight gradient f32";
    let (step, scratch) = if geometry.is_depthwise() {
        let plan = DepthwiseWeightGrad::new(cx.isa, geometry).map_err(|e| cx.refuse(node, e))?;
        let scratch = plan.scratch_len();
        (WeightGradStep::Depthwise(plan), scratch)
    } else {
        let sums = if cx.bf16 { Sums::Rounded } else { Sums::Fastest };
        let plan = ConvWeightGrad::new(cx.isa, geometry, FilterLayout::planar(&geometry), sums);
        let plan = plan.map_err(|e| cx.refuse(node, e))?;
        if plan.is_rounded() {
            name = "weight gradient bf16";
        }
        let scratch = plan.scratch_len(cx.threads);
        (WeightGradStep::Dense(plan), scratch)
    };
    let scratch = size_of::<f32>() * scratch;
    let inputs = vec![cx.read(x, Layout::ChannelsLast)?, cx.read(dy, Layout::ChannelsLast)?];
    let outputs = vec![cx.write(dw, Layout::Plain)];
    let name = conv::name(cx, name, &geometry);
    cx.push(StepSpec { scratch, ..StepSpec::new(node, name, inputs, outputs, step) });
    Ok(true)
}

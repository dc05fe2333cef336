//! Batch normalization in training: with the ReLU and the addition after it, and its gradient with what ReLU lets through before it.

use qing_graph::{Node, NodeId, ValueId, ops};
use qing_kernels::{
    Pool,
    float::{
        Clamp,
        batch_norm::{BatchNorm, Upstream},
    },
};

use super::{Lower, StepSpec, elementwise, elementwise::is_f32, fuse};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// How a node's `X` is normalized, and the layout in which its channels lie last.
fn plan_of(cx: &Lower<'_>, node: &Node, epsilon: f32) -> Result<Option<(BatchNorm, Layout)>, EngineError> {
    let floats = node.inputs.iter().flatten().chain(&node.outputs).all(|id| is_f32(cx, *id));
    let shape = node.input(0).map(|x| cx.shape(x)).unwrap_or_default();
    if !floats || shape.len() < 2 {
        return Ok(None);
    }
    let plan = BatchNorm::new(cx.isa, shape[0], shape[2..].iter().product(), shape[1], epsilon);
    let layout = if shape.len() >= 3 { Layout::ChannelsLast } else { Layout::Plain };
    Ok(Some((plan.map_err(|e| cx.refuse(node, e))?, layout)))
}

/// Inputs: values, scale, bias, and the residual if there is one. Outputs: results, mean, variance.
struct Training {
    plan: BatchNorm,
    clamp: Clamp,
    residual: bool,
}

impl Step for Training {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, [y, mean, var], scratch) = io.split_outputs();
        let statistics = [mean, var].map(bytemuck::cast_slice_mut);
        let residual = self.residual.then(|| inputs.values(3));
        self.plan.forward(
            inputs.values(0),
            [inputs.values(1), inputs.values(2)],
            residual,
            self.clamp,
            bytemuck::cast_slice_mut(y),
            statistics,
            bytemuck::cast_slice_mut(scratch),
            pool,
        )?;
        Ok(())
    }
}

/// `BatchNormTraining`
pub(super) fn training(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(op), [Some(x), Some(scale), Some(bias)]) =
        (node.op.downcast::<ops::BatchNormTraining>(), &node.inputs[..])
    else {
        return Ok(false);
    };
    let Some((plan, layout)) = plan_of(cx, node, op.epsilon)? else { return Ok(false) };
    let tail = fuse::float_tail(cx, node.outputs[0], true);
    let mut inputs = vec![cx.read(*x, layout)?, cx.read(*scale, Layout::Plain)?, cx.read(*bias, Layout::Plain)?];
    if let Some(residual) = tail.residual {
        inputs.push(cx.read(residual, layout)?);
    }
    let mut outputs = vec![cx.write(tail.output, layout)];
    for i in 1..3 {
        // Statistics that nobody asked for have a place all the same.
        let place = match node.outputs.get(i) {
            Some(id) => cx.write(*id, Layout::Plain),
            None => cx.buffer(inputs[1].bytes),
        };
        outputs.push(place);
    }
    let scratch = size_of::<f32>() * plan.scratch_len();
    let step = Training { plan, clamp: tail.clamp, residual: tail.residual.is_some() };
    let name = format!("batch norm f32 {}", cx.isa.name());
    cx.push_fused(StepSpec { scratch, ..StepSpec::new(node, name, inputs, outputs, step) }, &tail.nodes);
    Ok(true)
}

/// Inputs: values, scale, mean, variance, the gradient of the results, and with ReLU the bias. Outputs: the gradients of values, scale and bias.
struct Gradient {
    plan: BatchNorm,
    relu: bool,
}

impl Step for Gradient {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, [dx, dscale, dbias], scratch) = io.split_outputs();
        let upstream = if self.relu { Upstream::Relu(inputs.values(5)) } else { Upstream::Plain };
        self.plan.backward(
            inputs.values(0),
            [inputs.values(1), inputs.values(2), inputs.values(3)],
            upstream,
            inputs.get(4).map(bytemuck::cast_slice),
            bytemuck::cast_slice_mut(dx),
            [dscale, dbias].map(bytemuck::cast_slice_mut),
            bytemuck::cast_slice_mut(scratch),
            pool,
        )?;
        Ok(())
    }
}

/// Inputs: values, scale, mean, variance, what ReLU gave, and its gradient. Outputs: what ReLU lets through, and the gradients of values, scale
/// and bias.
struct GradientBehind(BatchNorm);

impl Step for GradientBehind {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, [kept, dx, dscale, dbias], scratch) = io.split_outputs();
        self.0.backward_behind(
            inputs.values(0),
            [inputs.values(1), inputs.values(2), inputs.values(3)],
            inputs.values(4),
            inputs.get(5).map(bytemuck::cast_slice),
            bytemuck::cast_slice_mut(kept),
            bytemuck::cast_slice_mut(dx),
            [dscale, dbias].map(bytemuck::cast_slice_mut),
            bytemuck::cast_slice_mut(scratch),
            pool,
        )?;
        Ok(())
    }
}

/// `BatchNormGrad`
pub(super) fn gradient(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let Some(dy) = node.input(4) else { return Ok(false) };
    push_gradient(cx, node, dy, None)
}

/// Pushes the gradient of a normalization, of its results or, with the bias, of ReLU of its results.
fn push_gradient(
    cx: &mut Lower<'_>,
    node: &Node,
    dy: ValueId,
    relu: Option<(ValueId, NodeId)>,
) -> Result<bool, EngineError> {
    let Some(op) = node.op.downcast::<ops::BatchNormGrad>() else { return Ok(false) };
    let Some((plan, layout)) = plan_of(cx, node, op.epsilon)? else { return Ok(false) };
    let mut inputs = vectors(cx, node, layout)?;
    inputs.push(cx.read(dy, layout)?);
    if let Some((bias, _)) = relu {
        inputs.push(cx.read(bias, Layout::Plain)?);
    }
    let mut outputs = vec![cx.write(node.outputs[0], layout)];
    outputs.extend(node.outputs[1..].iter().map(|id| cx.write(*id, Layout::Plain)));
    let scratch = size_of::<f32>() * plan.scratch_len();
    let name = format!("batch norm gradient f32 {}", cx.isa.name());
    let step = Gradient { plan, relu: relu.is_some() };
    let mut step = StepSpec { scratch, ..StepSpec::new(node, name, inputs, outputs, step) };
    step.in_place = Some(4);
    if let Some((_, absorbed)) = relu {
        cx.absorb(absorbed);
        step.op = format!("ReluGrad+{}", step.op);
    }
    cx.push(step);
    Ok(true)
}

/// Values, scale, mean and variance.
fn vectors(cx: &mut Lower<'_>, node: &Node, layout: Layout) -> Result<Vec<super::Place>, EngineError> {
    let mut places = vec![];
    for (i, id) in node.inputs.iter().flatten().take(4).enumerate() {
        places.push(cx.read(*id, if i == 0 { layout } else { Layout::Plain })?);
    }
    Ok(places)
}

/// The bias of the normalization whose results ReLU turned into `y`, if `node` is its gradient.
fn bias_of(cx: &Lower<'_>, node: &Node, y: ValueId) -> Option<ValueId> {
    let producer = |id: ValueId| cx.graph.nodes.iter().find(|n| n.outputs.contains(&id));
    let relu = producer(y).filter(|n| n.op.is::<ops::Relu>())?;
    let norm = producer(relu.input(0)?)?;
    let (op, gradient) = (norm.op.downcast::<ops::BatchNormTraining>()?, node.op.downcast::<ops::BatchNormGrad>()?);
    let same = norm.outputs[0] == relu.input(0)?
        && norm.input(0) == node.input(0)
        && norm.input(1) == node.input(1)
        && norm.outputs.get(1).copied() == node.input(2)
        && norm.outputs.get(2).copied() == node.input(3)
        && op.epsilon == gradient.epsilon;
    norm.input(2).filter(|_| same)
}

/// `ReluGrad`: with the gradient of the normalization before the ReLU, if that is what reads it.
pub(super) fn relu_gradient(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let ([Some(y), Some(dy)], kept) = (&node.inputs[..], node.outputs[0]) else { return Ok(false) };
    let graph = cx.graph;
    // All that the gradient reads beside this must have been computed.
    let ready = |cx: &Lower<'_>, next: &Node| {
        next.op.is::<ops::BatchNormGrad>()
            && next.input(4) == Some(kept)
            && next.inputs.iter().take(4).flatten().all(|id| *id != kept && cx.is_defined(*id))
    };
    if let Some((index, _)) = cx.single_consumer(kept)
        && let next = &graph.nodes[index]
        && ready(cx, next)
        && let Some(bias) = bias_of(cx, next, *y)
        && cx.is_defined(bias)
    {
        return push_gradient(cx, next, *dy, Some((bias, index)));
    }
    let found = cx.readers(kept).iter().copied().find(|i| !cx.is_absorbed(*i) && ready(cx, &graph.nodes[*i]));
    let Some(index) = found else { return elementwise::lower_binary(cx, node) };
    let next = &graph.nodes[index];
    let Some(op) = next.op.downcast::<ops::BatchNormGrad>() else { return Ok(false) };
    let Some((plan, layout)) = plan_of(cx, next, op.epsilon)? else { return elementwise::lower_binary(cx, node) };
    let mut inputs = vectors(cx, next, layout)?;
    inputs.extend([cx.read(*y, layout)?, cx.read(*dy, layout)?]);
    let mut outputs = vec![cx.write(kept, layout), cx.write(next.outputs[0], layout)];
    outputs.extend(next.outputs[1..].iter().map(|id| cx.write(*id, Layout::Plain)));
    let scratch = size_of::<f32>() * plan.scratch_len();
    let name = format!("batch norm gradient f32 {}", cx.isa.name());
    let mut step = StepSpec { scratch, ..StepSpec::new(node, name, inputs, outputs, GradientBehind(plan)) };
    step.in_place = Some(5);
    cx.push_fused(step, &[index]);
    Ok(true)
}

//! Functions of whole rows of floats: softmax and layer normalization.

use qing_graph::Node;
use qing_kernels::{
    Isa, Pool,
    float::rows::{layer_norm, log_softmax, log_softmax_in_place, softmax, softmax_in_place},
};

use super::{Lower, StepSpec, attr, elementwise::is_f32};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

struct Softmax {
    isa: Isa,
    width: usize,
    /// Whether its logarithm is wanted.
    log: bool,
}

impl Step for Softmax {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let y = bytemuck::cast_slice_mut(y);
        match (inputs.get(0), self.log) {
            (Some(x), false) => softmax(self.isa, self.width, bytemuck::cast_slice(x), y, pool)?,
            (None, false) => softmax_in_place(self.isa, self.width, y, pool)?,
            (Some(x), true) => log_softmax(self.isa, self.width, bytemuck::cast_slice(x), y, pool)?,
            (None, true) => log_softmax_in_place(self.isa, self.width, y, pool)?,
        }
        Ok(())
    }
}

/// Inputs: values, scale, and bias if there is one.
struct LayerNorm {
    isa: Isa,
    epsilon: f32,
    bias: bool,
}

impl Step for LayerNorm {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let bias = self.bias.then(|| inputs.values(2));
        let y = bytemuck::cast_slice_mut(y);
        layer_norm(self.isa, inputs.values(0), inputs.values(1), bias, self.epsilon, y, pool)?;
        Ok(())
    }
}

/// The axis an attribute names.
fn axis_of(node: &Node, rank: usize) -> Option<usize> {
    let axis = attr(node, "axis", -1i64);
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|a| *a < rank)
}

/// `Softmax` or `LogSoftmax` along an axis that lies last in one of the layouts.
pub(super) fn lower_softmax(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), y) = (node.input(0), node.outputs[0]) else { return Ok(false) };
    let shape = cx.shape(x);
    let Some(axis) = axis_of(node, shape.len()) else { return Ok(false) };
    if !(is_f32(cx, x) && is_f32(cx, y)) {
        return Ok(false);
    }
    let mut width = shape[axis];
    let layout = if attr(node, "coerced", false) {
        width = shape[axis..].iter().product();
        Layout::Plain
    } else if shape[axis + 1..].iter().all(|d| *d == 1) {
        Layout::Plain
    } else if axis == 1 && shape.len() >= 3 {
        Layout::ChannelsLast
    } else {
        return Ok(false);
    };
    let inputs = vec![cx.read(x, layout)?];
    let outputs = vec![cx.write(y, layout)];
    let step = Softmax { isa: cx.isa, width, log: node.op.name() == "LogSoftmax" };
    let mut step = StepSpec::new(node, format!("softmax f32 {}", cx.isa.name()), inputs, outputs, step);
    step.in_place = Some(0);
    cx.push(step);
    Ok(true)
}

/// `LayerNormalization` with one output.
pub(super) fn lower_layer_norm(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), Some(scale), [y]) = (node.input(0), node.input(1), node.outputs.as_slice()) else {
        return Ok(false);
    };
    let shape = cx.shape(x);
    let Some(axis) = axis_of(node, shape.len()) else { return Ok(false) };
    let width: usize = shape[axis..].iter().product();
    let bias = node.input(2);
    let fits = |id| is_f32(cx, id) && cx.shape(id).iter().product::<usize>() == width;
    if !(is_f32(cx, x) && is_f32(cx, *y) && fits(scale) && bias.is_none_or(fits)) {
        return Ok(false);
    }
    let mut inputs = vec![cx.read(x, Layout::Plain)?, cx.read(scale, Layout::Plain)?];
    if let Some(bias) = bias {
        inputs.push(cx.read(bias, Layout::Plain)?);
    }
    let outputs = vec![cx.write(*y, Layout::Plain)];
    let step = LayerNorm { isa: cx.isa, epsilon: attr(node, "epsilon", 1e-5), bias: bias.is_some() };
    cx.push(StepSpec::new(node, format!("layer norm f32 {}", cx.isa.name()), inputs, outputs, step));
    Ok(true)
}

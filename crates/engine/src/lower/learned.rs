//! Quantization with a learned scale, and its gradients.

use qing_graph::{
    Node, OpError, ValueId, ops,
    ops::support::learned::{self, Learned},
};
use qing_kernels::{
    Isa, Pool,
    float::learned::{Estimator, Quantizer, add_partial_sums, partial_sums, quantize, quantize_grad},
};

use super::{Lower, StepSpec, elementwise::is_f32};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

fn kernel_of(learned: Learned) -> Quantizer {
    Quantizer {
        lo: learned.range.0,
        hi: learned.range.1,
        bipolar: learned.bipolar,
        real: learned.real,
        estimator: match learned.estimator {
            learned::Estimator::Lsq => Estimator::Lsq,
            learned::Estimator::Pact => Estimator::Pact,
            learned::Estimator::Ewgs => Estimator::Ewgs(learned.delta),
            learned::Estimator::Polynomial => Estimator::Polynomial,
        },
        width: learned.width,
        factor: learned.factor,
    }
}

/// The layout in which `x` is read, and how many values in a row take one scale. One scale is for any layout; several want
/// the order of the graph, in which slices of their axis are runs.
fn runs(cx: &Lower<'_>, x: ValueId, scale: ValueId, axis: i64) -> (Layout, usize) {
    let (shape, scales) = (cx.shape(x), cx.shape(scale).iter().product::<usize>());
    if scales == 1 {
        return (cx.layout(x), shape.iter().product());
    }
    let inner = usize::try_from(axis).ok().and_then(|axis| shape.get(axis + 1..)).unwrap_or(&[]);
    (Layout::Plain, inner.iter().product())
}

struct Forward {
    isa: Isa,
    quantizer: Quantizer,
    run: usize,
}

impl Step for Forward {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let scales = (inputs.values(1), self.run);
        quantize(self.isa, self.quantizer, inputs.values(0), scales, bytemuck::cast_slice_mut(y), pool)?;
        Ok(())
    }
}

/// `LearnedQuantize`
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), Some(scale), [y]) = (node.input(0), node.input(1), &node.outputs[..]) else { return Ok(false) };
    let Some(op) = node.op.downcast::<ops::LearnedQuantize>() else { return Ok(false) };
    if ![x, scale, *y].iter().all(|id| is_f32(cx, *id)) {
        return Ok(false);
    }
    let quantizer = kernel_of(op.quantizer().map_err(|e| refused(cx, node, e))?);
    let (layout, run) = runs(cx, x, scale, op.axis);
    let inputs = vec![cx.read(x, layout)?, cx.read(scale, Layout::Plain)?];
    let outputs = vec![cx.write(*y, layout)];
    let name = format!("learned quantize f32 {}", cx.isa.name());
    cx.push(StepSpec::new(node, name, inputs, outputs, Forward { isa: cx.isa, quantizer, run }));
    Ok(true)
}

fn refused(cx: &Lower<'_>, node: &Node, error: OpError) -> EngineError {
    cx.graph.node_error(node, error).into()
}

struct Backward {
    isa: Isa,
    quantizer: Quantizer,
    run: usize,
    len: usize,
}

impl Step for Backward {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let parts = partial_sums(self.len, self.run);
        let (inputs, dx, scratch) = io.split();
        let partial = &mut bytemuck::cast_slice_mut::<u8, f32>(scratch)[..parts];
        let (x, scales) = (inputs.values(0), (inputs.values(1), self.run));
        let dq = inputs.get(2).map(bytemuck::cast_slice);
        quantize_grad(self.isa, self.quantizer, x, scales, dq, bytemuck::cast_slice_mut(dx), partial, pool)?;
        let (_, dscale, scratch) = io.split_output(1);
        let partial = &bytemuck::cast_slice::<u8, f32>(scratch)[..parts];
        add_partial_sums(self.quantizer, (self.len, self.run), partial, bytemuck::cast_slice_mut(dscale))?;
        Ok(())
    }
}

/// `LearnedQuantizeGrad`
pub(super) fn lower_grad(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let [Some(x), Some(scale), Some(dq)] = node.inputs[..] else { return Ok(false) };
    let [dx, dscale] = node.outputs[..] else { return Ok(false) };
    let Some(op) = node.op.downcast::<ops::LearnedQuantizeGrad>() else { return Ok(false) };
    if ![x, scale, dq, dx, dscale].iter().all(|id| is_f32(cx, *id)) || cx.shape(x) != cx.shape(dq) {
        return Ok(false);
    }
    let quantizer = kernel_of(op.quantizer().map_err(|e| refused(cx, node, e))?);
    let (layout, run) = runs(cx, x, scale, op.axis);
    let len = cx.shape(x).iter().product();
    let inputs = vec![cx.read(x, layout)?, cx.read(scale, Layout::Plain)?, cx.read(dq, layout)?];
    let outputs = vec![cx.write(dx, layout), cx.write(dscale, Layout::Plain)];
    let name = format!("learned quantize gradient f32 {}", cx.isa.name());
    let mut step = StepSpec::new(node, name, inputs, outputs, Backward { isa: cx.isa, quantizer, run, len });
    step.scratch = partial_sums(len, run) * size_of::<f32>();
    step.in_place = Some(2);
    cx.push(step);
    Ok(true)
}

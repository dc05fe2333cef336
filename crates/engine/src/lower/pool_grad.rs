//! Gradients of pooling.

use qing_graph::Node;
use qing_kernels::{
    ConvGeometry, Isa, Pool,
    float::{pooling::Window, pooling_grad::pool2d_grad},
    quantized::pooling::Count,
};

use super::{Lower, StepSpec, attr, elementwise::is_f32, pool::window_of};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// Inputs: for the largest value what was pooled, then the gradient of the results.
struct PoolGrad {
    isa: Isa,
    window: Window,
    geometry: ConvGeometry,
}

impl Step for PoolGrad {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, dx, _) = io.split();
        let (x, dy): (&[f32], &[f32]) = match self.window {
            Window::Max => (inputs.values(0), inputs.values(1)),
            Window::Mean(_) => (&[], inputs.values(0)),
        };
        pool2d_grad(self.isa, self.window, &self.geometry, x, dy, bytemuck::cast_slice_mut(dx), pool)?;
        Ok(())
    }
}

/// `MaxPoolGrad` and `AveragePoolGrad`
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let dx = node.outputs[0];
    let floats = node.inputs.iter().flatten().chain(&node.outputs).all(|id| is_f32(cx, *id));
    let Some((geometry, [bottom, right])) = window_of(cx, node, &cx.shape(dx))? else { return Ok(false) };
    if !floats {
        return Ok(false);
    }
    let padded = attr(node, "count_include_pad", false);
    let window = match node.op.name() {
        "MaxPoolGrad" => Window::Max,
        _ if padded => Window::Mean(Count::Padded { bottom, right }),
        _ => Window::Mean(Count::Inside),
    };
    let mut inputs = vec![];
    for id in node.inputs.iter().flatten() {
        inputs.push(cx.read(*id, Layout::ChannelsLast)?);
    }
    let outputs = vec![cx.write(dx, Layout::ChannelsLast)];
    let step = PoolGrad { isa: cx.isa, window, geometry };
    cx.push(StepSpec::new(node, format!("pool f32 {}", cx.isa.name()), inputs, outputs, step));
    Ok(true)
}

//! Resizing of channels-last images.

use qing_graph::{
    Element, Node,
    ops::{
        Resize,
        support::resample::{Axis, Coordinates},
    },
};
use qing_kernels::{
    Isa, Pool,
    float::resize::{Blend, bilinear, nearest},
};

use super::{Lower, StepSpec, elementwise::is_f32};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
    storage::Form,
};

/// Pixels copied.
struct Nearest {
    sizes: [usize; 4],
    rows: Vec<usize>,
    cols: Vec<usize>,
    width: usize,
}

impl Step for Nearest {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let (sizes, rows, cols) = (self.sizes, &self.rows, &self.cols);
        match self.width {
            1 => nearest::<u8>(sizes, rows, cols, inputs.values(0), y, pool)?,
            2 => nearest::<u16>(sizes, rows, cols, inputs.values(0), bytemuck::cast_slice_mut(y), pool)?,
            4 => nearest::<u32>(sizes, rows, cols, inputs.values(0), bytemuck::cast_slice_mut(y), pool)?,
            _ => nearest::<u64>(sizes, rows, cols, inputs.values(0), bytemuck::cast_slice_mut(y), pool)?,
        }
        Ok(())
    }
}

/// Pixels mixed.
struct Bilinear {
    isa: Isa,
    sizes: [usize; 4],
    rows: Vec<Blend>,
    cols: Vec<Blend>,
}

impl Step for Bilinear {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let y = bytemuck::cast_slice_mut(y);
        bilinear(self.isa, self.sizes, &self.rows, &self.cols, inputs.values(0), y, pool)?;
        Ok(())
    }
}

/// `Resize` of the spatial axes of images, nearest or linear.
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(op), Some(x), y) = (node.op.downcast::<Resize>(), node.input(0), node.outputs[0]) else {
        return Ok(false);
    };
    let shape = cx.shape(x);
    let input = |i: usize| node.input(i).map(|id| cx.graph.constant(id));
    if [input(1), input(2), input(3)].iter().any(|i| matches!(i, Some(None))) {
        return Ok(false);
    }
    let [n, c, h, w] = shape[..] else { return Ok(false) };
    let fail = |source| cx.graph.node_error(node, source);
    let axes = op.resampled(&shape, input(2).flatten(), input(3).flatten()).map_err(fail)?;
    let maps = op.coordinates(4, input(1).flatten()).map_err(fail)?;
    let kept = |axis: usize| axes[axis].input == axes[axis].output && axes[axis].scale == 1.0;
    let (x_ty, y_ty) = (cx.graph.ty(x), cx.graph.ty(y));
    if !kept(0) || !kept(1) || x_ty.quant != y_ty.quant || x_ty.element != y_ty.element {
        return Ok(false);
    }
    let positions = |axis: &Axis, map: Coordinates| -> Option<Vec<f64>> {
        (0..axis.output).map(|i| axis.position(map, i)).collect()
    };
    let (Some(rows), Some(cols)) = (positions(&axes[2], maps[2]), positions(&axes[3], maps[3])) else {
        return Ok(false);
    };
    let sizes = [n, h, w, c];
    let Some(width) = Form::of(x_ty).width() else { return Ok(false) };
    let (kernel, step): (_, Box<dyn Step>) = match op.mode.as_str() {
        "nearest" => {
            let mode = op.nearest().map_err(fail)?;
            let index = |positions: &[f64], size| positions.iter().map(|p| mode.index(*p, size)).collect();
            ("resize nearest", Box::new(Nearest { sizes, rows: index(&rows, h), cols: index(&cols, w), width }))
        }
        "linear" if is_f32(cx, x) && !op.antialias && !op.exclude_outside && y_ty.element == Element::F32 => {
            let blend = |positions: &[f64], size: usize| positions.iter().map(|p| blend(*p, size)).collect();
            let (rows, cols) = (blend(&rows, h), blend(&cols, w));
            ("resize linear f32", Box::new(Bilinear { isa: cx.isa, sizes, rows, cols }))
        }
        _ => return Ok(false),
    };
    let inputs = vec![cx.read(x, Layout::ChannelsLast)?];
    let outputs = vec![cx.write(y, Layout::ChannelsLast)];
    let mut spec = StepSpec::new(node, kernel, inputs, outputs, super::convert::Copy);
    spec.step = step;
    cx.push(spec);
    Ok(true)
}

/// The mixture at a position among `size` pixels; edges are repeated.
fn blend(position: f64, size: usize) -> Blend {
    let at = position.clamp(0.0, (size - 1) as f64);
    let low = at.floor();
    Blend { low: low as usize, high: (low as usize + 1).min(size - 1), weight: (at - low) as f32 }
}

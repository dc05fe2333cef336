//! Pooling: windows over channels-last images, and whole images.

use qing_graph::{Node, OpError, arithmetic, ops::support::window::WindowAttrs};
use qing_kernels::{
    ConvGeometry, Isa, Pool,
    float::{
        pooling::{Window, pool2d},
        reduce::{Reduce, reduce},
    },
    quantized::{AveragePool, Clip, MaxPool, pooling::Count},
};

use super::{Lower, StepSpec, attr, elementwise::is_f32, window::geometry};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
    storage::bias,
};

enum PoolStep {
    Float(Isa, Window, ConvGeometry),
    Max(Isa, MaxPool),
    Mean(Isa, AveragePool),
}

impl Step for PoolStep {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        match self {
            PoolStep::Float(isa, window, g) => {
                pool2d(*isa, *window, g, inputs.values(0), bytemuck::cast_slice_mut(y), pool)?;
            }
            PoolStep::Max(isa, max) => max.run(*isa, inputs.values(0), y, pool)?,
            PoolStep::Mean(isa, mean) => mean.run(*isa, inputs.values(0), y, pool)?,
        }
        Ok(())
    }
}

struct ReduceStep {
    isa: Isa,
    op: Reduce,
    sizes: [usize; 3],
}

impl Step for ReduceStep {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        reduce(self.isa, self.op, self.sizes, inputs.values(0), bytemuck::cast_slice_mut(y), pool)?;
        Ok(())
    }
}

/// The window of a pooling over a value of `shape`, and the padding below and to the right.
pub(super) fn window_of(
    cx: &Lower<'_>,
    node: &Node,
    shape: &[usize],
) -> Result<Option<(ConvGeometry, [usize; 2])>, EngineError> {
    let auto_pad = attr(node, "auto_pad", "NOTSET".to_string());
    let list = |name: &str| attr(node, name, Vec::<i64>::new());
    let (pads, strides, dilations) = (list("pads"), list("strides"), list("dilations"));
    let attrs = WindowAttrs {
        auto_pad: &auto_pad,
        pads: &pads,
        strides: &strides,
        dilations: &dilations,
        ceil: attr(node, "ceil_mode", false),
    };
    let kernel: Vec<usize> = list("kernel_shape").iter().map(|k| usize::try_from(*k).unwrap_or(0)).collect();
    if kernel.is_empty() || kernel.contains(&0) {
        return Ok(None);
    }
    let fail = |source: OpError| cx.graph.node_error(node, source);
    let Some(channels) = shape.get(1).copied() else { return Ok(None) };
    Ok(geometry(&attrs, shape, &kernel, channels, 1).map_err(fail)?)
}

/// `MaxPool` and `AveragePool`
pub(super) fn window(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), [y], None) = (node.input(0), node.outputs.as_slice(), node.input(1)) else { return Ok(false) };
    let (x, y) = (x, *y);
    let Some((geometry, [bottom, right])) = window_of(cx, node, &cx.shape(x))? else { return Ok(false) };
    let max = node.op.name() == "MaxPool";
    let padded = attr(node, "count_include_pad", false);
    let count = if padded { Count::Padded { bottom, right } } else { Count::Inside };
    let isa = cx.isa;
    let (kernel, step) = if is_f32(cx, x) && is_f32(cx, y) {
        let window = if max { Window::Max } else { Window::Mean(count) };
        ("pool f32", PoolStep::Float(isa, window, geometry))
    } else if cx.graph.ty(x).quant.is_some() && max {
        if cx.graph.ty(x).quant != cx.graph.ty(y).quant || cx.graph.ty(x).element != cx.graph.ty(y).element {
            return Ok(false);
        }
        ("pool u8", PoolStep::Max(isa, MaxPool { geometry }))
    } else {
        let Some(mean) = mean(cx, x, y) else { return Ok(false) };
        ("pool u8", PoolStep::Mean(isa, AveragePool { geometry, count, ..mean }))
    };
    let inputs = vec![cx.read(x, Layout::ChannelsLast)?];
    let outputs = vec![cx.write(y, Layout::ChannelsLast)];
    cx.push(StepSpec::new(node, format!("{kernel} {}", isa.name()), inputs, outputs, step));
    Ok(true)
}

/// An average of whole images, of which everything but the geometry can be kept.
fn mean(cx: &Lower<'_>, x: qing_graph::ValueId, y: qing_graph::ValueId) -> Option<AveragePool> {
    let shape = cx.shape(x);
    let (x_ty, y_ty) = (cx.graph.ty(x), cx.graph.ty(y));
    let (from, to) = (arithmetic::per_tensor(x_ty).ok()?, arithmetic::per_tensor(y_ty).ok()?);
    let x_zero = u8::try_from(from.zero + bias(x_ty.element)).ok()?;
    let stored = |q: i32| u8::try_from(q + bias(y_ty.element)).ok();
    let clip = Clip { zero: stored(to.zero)?, lo: stored(to.lo)?, hi: stored(to.hi)? };
    let sizes = [shape[0], shape[2..].iter().product(), shape[1]];
    (y_ty.element != qing_graph::Element::Bipolar)
        .then(|| AveragePool::global(sizes, x_zero, from.scale, to.scale, clip))
}

/// `GlobalAveragePool`, `GlobalMaxPool`, and `ReduceMean` and its like.
pub(super) fn global(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), y) = (node.input(0), node.outputs[0]) else { return Ok(false) };
    let shape = cx.shape(x);
    let rank = shape.len();
    let op = match node.op.name() {
        "GlobalAveragePool" | "ReduceMean" => Reduce::Mean,
        "GlobalMaxPool" | "ReduceMax" => Reduce::Max,
        "ReduceMin" => Reduce::Min,
        "ReduceSum" => Reduce::Sum,
        _ => return Ok(false),
    };
    let axes: Vec<usize> = if node.op.name().starts_with("Global") {
        (2..rank).collect()
    } else {
        let given = match node.input(1) {
            Some(id) => match cx.graph.constant(id) {
                Some(t) => t.to_i64s(),
                None => return Ok(false),
            },
            None => attr(node, "axes", vec![]),
        };
        if given.is_empty() {
            if attr(node, "noop_with_empty_axes", false) {
                return Ok(false);
            }
            (0..rank).collect()
        } else {
            let mut axes: Vec<usize> = given
                .iter()
                .map(|a| if *a < 0 { a + rank as i64 } else { *a })
                .filter_map(|a| usize::try_from(a).ok())
                .collect();
            axes.sort_unstable();
            axes.dedup();
            axes
        }
    };
    if axes.is_empty() || axes.iter().any(|a| *a >= rank) {
        return Ok(false);
    }
    let spatial = rank >= 3 && axes.iter().copied().eq(2..rank);
    let quantized = cx.graph.ty(x).quant.is_some();
    let isa = cx.isa;
    if quantized {
        if !spatial || op != Reduce::Mean {
            return Ok(false);
        }
        let Some(mean) = mean(cx, x, y) else { return Ok(false) };
        let inputs = vec![cx.read(x, Layout::ChannelsLast)?];
        let outputs = vec![cx.write(y, Layout::Plain)];
        cx.push(StepSpec::new(node, format!("pool u8 {}", isa.name()), inputs, outputs, PoolStep::Mean(isa, mean)));
        return Ok(true);
    }
    if !(is_f32(cx, x) && is_f32(cx, y)) {
        return Ok(false);
    }
    // In a layout, best the one the value has, the axes must lie side by side, and what is left in the order of the graph.
    let span = |layout: Layout| {
        let order = layout.axes(rank);
        let mut places: Vec<usize> = axes.iter().filter_map(|a| order.iter().position(|o| o == a)).collect();
        places.sort_unstable();
        let (first, last) = (places[0], places[places.len() - 1]);
        let rest: Vec<usize> = order.iter().copied().filter(|a| !axes.contains(a) && shape[*a] != 1).collect();
        (last - first + 1 == places.len() && rest.is_sorted()).then(|| (layout, layout.physical(&shape), first, last))
    };
    let other = if rank >= 3 { Layout::ChannelsLast } else { Layout::Plain };
    let found = [cx.layout(x), Layout::Plain, other].into_iter().find_map(span);
    let Some((layout, physical, first, last)) = found else { return Ok(false) };
    let product = |dims: &[usize]| dims.iter().product::<usize>();
    let sizes = [product(&physical[..first]), product(&physical[first..=last]), product(&physical[last + 1..])];
    let inputs = vec![cx.read(x, layout)?];
    let outputs = vec![cx.write(y, Layout::Plain)];
    cx.push(StepSpec::new(node, format!("reduce f32 {}", isa.name()), inputs, outputs, ReduceStep { isa, op, sizes }));
    Ok(true)
}

//! Ops that move values and change none: reshapes, transpositions, slices, joins, paddings, broadcasts.

use qing_graph::{Element, Node, OpError, Tensor, ValueId, arithmetic};
use qing_kernels::{Pool, quantized::movement::join_channels};

use super::{
    Lower, Place, StepSpec, attr, convert, fuse,
    strided::{Strided, strides},
    table,
};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// Whether input and output hold the same kind of values, of whole bytes.
pub(super) fn same_values(cx: &Lower<'_>, x: ValueId, y: ValueId) -> bool {
    let (x_ty, y_ty) = (cx.graph.ty(x), cx.graph.ty(y));
    x_ty.element == y_ty.element && x_ty.quant == y_ty.quant && cx.form(x).width().is_some()
}

/// `Reshape` and all that only rename dimensions: the same bytes.
pub(super) fn reshape(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), [y]) = (node.input(0), node.outputs.as_slice()) else { return Ok(false) };
    let (from, to) = (cx.shape(x), cx.shape(*y));
    if !same_values(cx, x, *y) || from.iter().product::<usize>() != to.iter().product::<usize>() {
        return Ok(false);
    }
    let layout = if from == to { cx.layout(x) } else { Layout::Plain };
    let place = cx.read(x, layout)?;
    cx.alias(*y, layout, place);
    Ok(true)
}

/// `Dropout` outside of training, without its mask.
pub(super) fn dropout(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    if node.outputs.len() > 1 || node.input(2).is_some() {
        return Ok(false);
    }
    reshape(cx, node)
}

/// `Transpose`: nothing if the result lies in one of the layouts already.
pub(super) fn transpose(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), y) = (node.input(0), node.outputs[0]) else { return Ok(false) };
    let shape = cx.shape(x);
    let rank = shape.len();
    let perm: Vec<i64> = attr(node, "perm", vec![]);
    let perm: Vec<usize> =
        if perm.is_empty() { (0..rank).rev().collect() } else { perm.iter().map(|p| *p as usize).collect() };
    if perm.len() != rank || perm.iter().any(|p| *p >= rank) || !same_values(cx, x, y) {
        return Ok(false);
    }
    let from = cx.layout(x);
    let have = from.axes(rank);
    let order = |to: Layout| -> Vec<usize> {
        to.axes(rank).into_iter().map(|axis| have.iter().position(|a| *a == perm[axis]).unwrap_or(0)).collect()
    };
    let physical = from.physical(&shape);
    let form = cx.form(x);
    let mut layouts = vec![Layout::Plain];
    if rank >= 3 {
        layouts.insert(usize::from(!cx.wants_channels_last(y)), Layout::ChannelsLast);
    }
    let x_place = cx.read(x, from)?;
    for to in &layouts {
        if convert::permutation(form, &physical, &order(*to)).is_none() {
            cx.alias(y, *to, x_place);
            return Ok(true);
        }
    }
    let to = layouts[0];
    let Some(step) = convert::permutation(form, &physical, &order(to)) else { return Ok(false) };
    let output = cx.write(y, to);
    let mut spec = StepSpec::new(node, "transpose", vec![x_place], vec![output], convert::Copy);
    spec.step = step;
    cx.push(spec);
    Ok(true)
}

/// An axis given by a possibly negative number.
pub(super) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|a| *a < rank)
}

/// Inputs side by side along an axis.
struct Join {
    /// Values per line of each input, and where they begin in a line of the result.
    parts: Vec<(usize, usize)>,
    total: usize,
    width: usize,
}

impl Step for Join {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        for (i, &(count, first)) in self.parts.iter().enumerate() {
            let total = self.total;
            match self.width {
                1 => join_channels::<u8>(count, first, total, inputs.values(i), y, pool)?,
                2 => join_channels::<u16>(count, first, total, inputs.values(i), bytemuck::cast_slice_mut(y), pool)?,
                4 => join_channels::<u32>(count, first, total, inputs.values(i), bytemuck::cast_slice_mut(y), pool)?,
                _ => join_channels::<u64>(count, first, total, inputs.values(i), bytemuck::cast_slice_mut(y), pool)?,
            }
        }
        Ok(())
    }
}

/// `Concat`; quantized inputs are brought to the quantization of the output.
pub(super) fn concat(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let y = node.outputs[0];
    let Some(ids) = node.inputs.iter().copied().collect::<Option<Vec<ValueId>>>() else { return Ok(false) };
    let to = cx.shape(y);
    let Some(axis) = axis_of(attr(node, "axis", 0), to.len()) else { return Ok(false) };
    let y_ty = cx.graph.ty(y).clone();
    let mut tables = vec![];
    for id in &ids {
        let table = if same_values(cx, *id, y) {
            None
        } else {
            let table = arithmetic::rescale_table(cx.graph.ty(*id), &y_ty, f32::NEG_INFINITY, f32::INFINITY);
            let Ok(table) = table else { return Ok(false) };
            Some(fuse::stored_table(&table, cx.graph.ty(*id), &y_ty))
        };
        tables.push(table);
    }
    let Some(width) = cx.form(y).width() else { return Ok(false) };
    let last = to.len() >= 3 && ids.iter().any(|id| cx.layout(*id) == Layout::ChannelsLast);
    let layout = if last { Layout::ChannelsLast } else { Layout::Plain };
    let position = layout.axes(to.len()).iter().position(|a| *a == axis).unwrap_or(0);
    let mut parts = vec![];
    let mut inputs = vec![];
    let mut total = 0;
    for (id, table) in ids.iter().zip(tables) {
        let mut place = cx.read(*id, layout)?;
        if let Some(bytes) = table {
            let rescaled = cx.buffer(place.bytes);
            table::push(cx, node, bytes, place, rescaled, &[]);
            place = rescaled;
        }
        let count = layout.physical(&cx.shape(*id))[position..].iter().product();
        parts.push((count, total));
        inputs.push(place);
        total += count;
    }
    let outputs = vec![cx.write(y, layout)];
    cx.push(StepSpec::new(node, "join", inputs, outputs, Join { parts, total, width }));
    Ok(true)
}

/// Defines `y` as the part of `x` that starts at `starts` and steps by `steps`, per axis of the graph.
fn slice_of(
    cx: &mut Lower<'_>,
    node: &Node,
    x: ValueId,
    y: ValueId,
    starts: &[usize],
    steps: &[isize],
) -> Result<(), EngineError> {
    let (from, to) = (cx.shape(x), cx.shape(y));
    let layout = cx.layout(x);
    let place = cx.read(x, layout)?;
    let order = layout.axes(from.len());
    let own = qing_tensor::strides(&layout.physical(&from));
    let start: usize = order.iter().zip(&own).map(|(axis, stride)| starts[*axis] * stride).sum();
    let strides: Vec<isize> = order.iter().zip(&own).map(|(axis, stride)| steps[*axis] * *stride as isize).collect();
    let width = cx.form(x).width().unwrap_or(1);
    let copy = Strided::new(&layout.physical(&to), &strides, start, width);
    if copy.is_run() {
        let bytes = to.iter().product::<usize>() * width;
        cx.alias(y, layout, Place { source: place.source, offset: place.offset + start * width, bytes });
    } else {
        let output = cx.write(y, layout);
        cx.push(StepSpec::new(node, "slice", vec![place], vec![output], copy));
    }
    Ok(())
}

/// `Split`
pub(super) fn split(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let Some(x) = node.input(0) else { return Ok(false) };
    let shape = cx.shape(x);
    let Some(axis) = axis_of(attr(node, "axis", 0), shape.len()) else { return Ok(false) };
    if !node.outputs.iter().all(|y| same_values(cx, x, *y)) {
        return Ok(false);
    }
    let steps = vec![1; shape.len()];
    let mut starts = vec![0; shape.len()];
    for y in &node.outputs {
        slice_of(cx, node, x, *y, &starts, &steps)?;
        starts[axis] += cx.shape(*y)[axis];
    }
    Ok(true)
}

/// `Slice` with constant bounds.
pub(super) fn slice(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), y) = (node.input(0), node.outputs[0]) else { return Ok(false) };
    let shape = cx.shape(x);
    let rank = shape.len();
    let list = |i: usize| node.input(i).map(|id| cx.graph.constant(id).map(Tensor::to_i64s));
    let (Some(Some(begin)), axes, steps) = (list(1), list(3), list(4)) else { return Ok(false) };
    if matches!(axes, Some(None)) || matches!(steps, Some(None)) || !same_values(cx, x, y) {
        return Ok(false);
    }
    let axes = axes.flatten().unwrap_or_else(|| (0..begin.len() as i64).collect());
    let steps = steps.flatten().unwrap_or_else(|| vec![1; begin.len()]);
    let mut starts = vec![0; rank];
    let mut strides = vec![1isize; rank];
    for ((begin, axis), step) in begin.iter().zip(&axes).zip(&steps) {
        let Some(axis) = axis_of(*axis, rank) else { return Ok(false) };
        let size = shape[axis] as i64;
        let begin = if *begin < 0 { begin.saturating_add(size) } else { *begin };
        starts[axis] = begin.clamp(0, size - 1) as usize;
        strides[axis] = *step as isize;
    }
    slice_of(cx, node, x, y, &starts, &strides)?;
    Ok(true)
}

/// `Expand`
pub(super) fn lower_expand(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), y) = (node.input(0), node.outputs[0]) else { return Ok(false) };
    let (from, to) = (cx.shape(x), cx.shape(y));
    if !same_values(cx, x, y) || from.len() > to.len() {
        return Ok(false);
    }
    let (place, strides) = strides(cx, x, y, Layout::Plain)?;
    let width = cx.form(x).width().unwrap_or(1);
    let step = Strided::new(&to, &strides, 0, width);
    let output = cx.write(y, Layout::Plain);
    cx.push(StepSpec::new(node, "expand", vec![place], vec![output], step));
    Ok(true)
}

/// `DepthToSpace`, channels last: pixels of a block come from neighbouring channels.
pub(super) fn depth_to_space(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), y) = (node.input(0), node.outputs[0]) else { return Ok(false) };
    let [n, c, h, w] = cx.shape(x)[..] else { return Ok(false) };
    let r = attr(node, "blocksize", 0i64) as usize;
    if r == 0 || c % (r * r) != 0 || !same_values(cx, x, y) {
        return Ok(false);
    }
    let depth = c / (r * r);
    let (shape, order) = if attr(node, "mode", "DCR".to_string()) == "CRD" {
        ([n, h, w, depth, r, r], [0, 1, 4, 2, 5, 3])
    } else {
        ([n, h, w, r, r, depth], [0, 1, 3, 2, 4, 5])
    };
    let input = cx.read(x, Layout::ChannelsLast)?;
    let Some(step) = convert::permutation(cx.form(x), &shape, &order) else {
        cx.alias(y, Layout::ChannelsLast, input);
        return Ok(true);
    };
    let output = cx.write(y, Layout::ChannelsLast);
    let mut spec = StepSpec::new(node, "depth to space", vec![input], vec![output], convert::Copy);
    spec.step = step;
    cx.push(spec);
    Ok(true)
}

/// Lines chosen by number.
struct Gather {
    outer: usize,
    /// Lines to choose from.
    count: usize,
    /// Bytes of a line.
    line: usize,
    /// Whether the numbers are i64, else i32.
    wide: bool,
}

impl Step for Gather {
    fn run(&self, io: &mut StepIo<'_>, _: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let x: &[u8] = inputs.values(0);
        let indices: &[u8] = inputs.values(1);
        let chosen = indices.len() / if self.wide { 8 } else { 4 };
        for i in 0..chosen {
            let index = if self.wide { inputs.values::<i64>(1)[i] } else { inputs.values::<i32>(1)[i].into() };
            let at = if index < 0 { index + self.count as i64 } else { index };
            let at = usize::try_from(at).ok().filter(|at| *at < self.count);
            let at = at.ok_or_else(|| OpError::invalid(format!("index {index} among {}", self.count)))?;
            for o in 0..self.outer {
                let from = (o * self.count + at) * self.line;
                let to = (o * chosen + i) * self.line;
                y[to..to + self.line].copy_from_slice(&x[from..from + self.line]);
            }
        }
        Ok(())
    }
}

/// `Gather`
pub(super) fn gather(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), Some(indices), y) = (node.input(0), node.input(1), node.outputs[0]) else { return Ok(false) };
    let shape = cx.shape(x);
    let Some(axis) = axis_of(attr(node, "axis", 0), shape.len()) else { return Ok(false) };
    let element = cx.graph.ty(indices).element;
    let Some(width) = cx.form(x).width() else { return Ok(false) };
    if !matches!(element, Element::I64 | Element::I32) || !same_values(cx, x, y) {
        return Ok(false);
    }
    let step = Gather {
        outer: shape[..axis].iter().product(),
        count: shape[axis],
        line: shape[axis + 1..].iter().product::<usize>() * width,
        wide: element == Element::I64,
    };
    let inputs = vec![cx.read(x, Layout::Plain)?, cx.read(indices, Layout::Plain)?];
    let outputs = vec![cx.write(y, Layout::Plain)];
    let unread = inputs[0].bytes.saturating_sub(outputs[0].bytes) as u64;
    cx.push(StepSpec { unread, ..StepSpec::new(node, "gather", inputs, outputs, step) });
    Ok(true)
}

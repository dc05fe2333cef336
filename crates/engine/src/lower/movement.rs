//! Ops that move values and change none: reshapes, transpositions, slices, joins, paddings, broadcasts.

use qing_graph::{Element, Node, OpError, Tensor, ValueId, arithmetic};
use qing_kernels::{Pool, quantized::movement::join_channels};

use super::{Lower, Place, StepSpec, attr, convert, elementwise::Spread, fuse, table};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// Values that one task moves, about.
const CHUNK: usize = 16 * 1024;

/// A dense result read with any strides: `y[i, j, …] = x[start + i·s0 + j·s1 + …]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strided {
    /// Dimensions of the result and the step of each in the input, neighbours merged.
    axes: Vec<(usize, isize)>,
    start: usize,
    /// Bytes of an element.
    width: usize,
}

impl Strided {
    /// The copy of a result of `dims`.
    pub(super) fn new(dims: &[usize], strides: &[isize], start: usize, width: usize) -> Strided {
        let mut axes: Vec<(usize, isize)> = vec![];
        for (&size, &stride) in dims.iter().zip(strides).filter(|(size, _)| **size != 1) {
            match axes.last_mut() {
                Some((before, step)) if *step == stride * size as isize => {
                    *before *= size;
                    *step = stride;
                }
                _ => axes.push((size, stride)),
            }
        }
        Strided { axes, start, width }
    }

    /// Whether the result is a run of the input.
    pub(super) fn is_run(&self) -> bool {
        matches!(self.axes.as_slice(), [] | [(_, 1)])
    }

    fn typed<T: bytemuck::Pod + Send + Sync>(&self, x: &[T], y: &mut [T], pool: &Pool) {
        let Some((&(inner, stride), outer)) = self.axes.split_last() else {
            y.copy_from_slice(&x[self.start..self.start + y.len()]);
            return;
        };
        let lines = (CHUNK / inner).max(1);
        pool.for_each_chunk_mut(y, lines * inner, |chunk, y| {
            for (line, y) in y.chunks_exact_mut(inner).enumerate() {
                let mut index = chunk * lines + line;
                let mut at = self.start;
                for (size, stride) in outer.iter().rev() {
                    at = at.wrapping_add_signed((index % size) as isize * stride);
                    index /= size;
                }
                match stride {
                    1 => y.copy_from_slice(&x[at..at + inner]),
                    0 => y.fill(x[at]),
                    _ => {
                        for (j, value) in y.iter_mut().enumerate() {
                            *value = x[at.wrapping_add_signed(j as isize * stride)];
                        }
                    }
                }
            }
        });
    }
}

impl Step for Strided {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        match self.width {
            1 => self.typed::<u8>(inputs.values(0), y, pool),
            2 => self.typed::<u16>(inputs.values(0), bytemuck::cast_slice_mut(y), pool),
            4 => self.typed::<u32>(inputs.values(0), bytemuck::cast_slice_mut(y), pool),
            _ => self.typed::<u64>(inputs.values(0), bytemuck::cast_slice_mut(y), pool),
        }
        Ok(())
    }
}

/// An operand as it is read by a function whose result `y` lies in `layout`: the place where it lies, and the step in it of
/// every axis of the result, in the order of memory.
fn strides(cx: &mut Lower<'_>, id: ValueId, y: ValueId, layout: Layout) -> Result<(Place, Vec<isize>), EngineError> {
    let (shape, to) = (cx.shape(id), cx.shape(y));
    let own = if shape.len() == to.len() { layout } else { Layout::Plain };
    let place = cx.read(id, own)?;
    let physical = own.physical(&shape);
    let steps = qing_tensor::strides(&physical);
    let mut by_axis = vec![0; to.len()];
    let lead = to.len() - shape.len();
    for (position, axis) in own.axes(shape.len()).into_iter().enumerate() {
        if shape[axis] != 1 {
            by_axis[lead + axis] = steps[position] as isize;
        }
    }
    Ok((place, layout.axes(to.len()).into_iter().map(|axis| by_axis[axis]).collect()))
}

/// How an operand is spread over a result in a layout. What no kernel can spread is expanded.
pub(super) fn spread(
    cx: &mut Lower<'_>,
    node: &Node,
    id: ValueId,
    y: ValueId,
    layout: Layout,
) -> Result<(Place, Spread), EngineError> {
    let (place, strides) = strides(cx, id, y, layout)?;
    let dims = layout.physical(&cx.shape(y));
    let (dims, strides): (Vec<usize>, Vec<isize>) = dims.into_iter().zip(strides).filter(|(d, _)| *d != 1).unzip();
    let contiguous =
        |dims: &[usize], steps: &[isize]| qing_tensor::strides(dims).iter().zip(steps).all(|(a, b)| *a as isize == *b);
    let zero = |steps: &[isize]| steps.iter().all(|s| *s == 0);
    let spread = if contiguous(&dims, &strides) {
        Spread::Full
    } else if zero(&strides) {
        Spread::Scalar
    } else if let Some(k) = (1..dims.len()).find(|k| zero(&strides[..*k]) && contiguous(&dims[*k..], &strides[*k..])) {
        let _ = k;
        Spread::Row
    } else if let Some(k) = (1..dims.len()).find(|k| contiguous(&dims[..*k], &strides[..*k]) && zero(&strides[*k..])) {
        Spread::Column(dims[k..].iter().product())
    } else {
        return Ok((expand(cx, node, id, y, layout)?, Spread::Full));
    };
    Ok((place, spread))
}

/// The operand repeated to the shape of `y`.
pub(super) fn expand(
    cx: &mut Lower<'_>,
    node: &Node,
    id: ValueId,
    y: ValueId,
    layout: Layout,
) -> Result<Place, EngineError> {
    let (place, strides) = strides(cx, id, y, layout)?;
    let dims = layout.physical(&cx.shape(y));
    let form = cx.form(id);
    let step = Strided::new(&dims, &strides, 0, form.width().unwrap_or(1));
    let to = cx.buffer(form.bytes(dims.iter().product()));
    cx.push(StepSpec::new(node, "expand", vec![place], vec![to], step));
    Ok(to)
}

/// Whether input and output hold the same kind of values, of whole bytes.
fn same_values(cx: &Lower<'_>, x: ValueId, y: ValueId) -> bool {
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
fn axis_of(axis: i64, rank: usize) -> Option<usize> {
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

/// A dense result with the input somewhere inside.
struct Pad {
    /// Outer dimensions of the result, and where the input begins and ends in each.
    outer: Vec<(usize, usize, usize)>,
    /// Values of a line of the result, and where those of the input begin and end in it.
    line: (usize, usize, usize),
    /// The bytes of what surrounds it.
    value: [u8; 8],
    width: usize,
}

impl Pad {
    fn typed<T: bytemuck::Pod + Send + Sync>(&self, x: &[T], y: &mut [T], pool: &Pool) {
        let value: T = bytemuck::pod_read_unaligned(&self.value[..size_of::<T>()]);
        let (line, begin, end) = self.line;
        let lines = (CHUNK / line).max(1);
        pool.for_each_chunk_mut(y, lines * line, |chunk, y| {
            for (i, y) in y.chunks_exact_mut(line).enumerate() {
                let (mut index, mut from, mut step, mut inside) = (chunk * lines + i, 0, 1, true);
                for (size, begin, end) in self.outer.iter().rev() {
                    let at = index % size;
                    index /= size;
                    match at.checked_sub(*begin).filter(|_| at < *end) {
                        Some(position) => from += position * step,
                        None => inside = false,
                    }
                    step *= end - begin;
                }
                if inside {
                    let from = from * (end - begin);
                    y[..begin].fill(value);
                    y[begin..end].copy_from_slice(&x[from..from + end - begin]);
                    y[end..].fill(value);
                } else {
                    y.fill(value);
                }
            }
        });
    }
}

impl Step for Pad {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        match self.width {
            1 => self.typed::<u8>(inputs.values(0), y, pool),
            2 => self.typed::<u16>(inputs.values(0), bytemuck::cast_slice_mut(y), pool),
            4 => self.typed::<u32>(inputs.values(0), bytemuck::cast_slice_mut(y), pool),
            _ => self.typed::<u64>(inputs.values(0), bytemuck::cast_slice_mut(y), pool),
        }
        Ok(())
    }
}

/// `Pad` with a constant, in the layout the value has.
pub(super) fn pad(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), y) = (node.input(0), node.outputs[0]) else { return Ok(false) };
    let (from, to) = (cx.shape(x), cx.shape(y));
    let rank = from.len();
    let constant = |i: usize| node.input(i).map(|id| cx.graph.constant(id));
    let (Some(Some(pads)), value, axes) = (constant(1), constant(2), constant(3)) else { return Ok(false) };
    if attr(node, "mode", "constant".to_string()) != "constant" || !same_values(cx, x, y) {
        return Ok(false);
    }
    if matches!(value, Some(None)) || matches!(axes, Some(None)) {
        return Ok(false);
    }
    let axes = axes.flatten().map_or_else(|| (0..rank as i64).collect(), Tensor::to_i64s);
    let pads = pads.to_i64s();
    let mut begins = vec![0usize; rank];
    for (i, axis) in axes.iter().enumerate() {
        let Some(axis) = axis_of(*axis, rank) else { return Ok(false) };
        let (Ok(before), true) = (usize::try_from(pads[i]), pads[axes.len() + i] >= 0) else { return Ok(false) };
        begins[axis] = before;
    }
    let ty = cx.graph.ty(x);
    let form = cx.form(x);
    let value = value.flatten().filter(|v| !v.is_empty());
    let value = match &ty.quant {
        Some(quant) => {
            let integer = match value {
                None => quant.zero(0),
                Some(v) if v.element().is_float() => match arithmetic::per_tensor(ty) {
                    Ok(to) => arithmetic::quantize(v.to_f32s()[0], to.scale, to.zero, to.lo, to.hi),
                    Err(_) => return Ok(false),
                },
                Some(v) => v.to_ints()[0],
            };
            vec![(integer + crate::storage::bias(ty.element)) as u8]
        }
        None => match value {
            Some(v) => v.cast(ty.element).bytes().to_vec(),
            None => vec![0; 8],
        },
    };
    let Some(width) = form.width() else { return Ok(false) };
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(&value[..width]);
    let layout = cx.layout(x);
    let order = layout.axes(rank);
    let padded = |axis: usize| to[axis] != from[axis];
    let Some(last) = order.iter().rposition(|axis| padded(*axis)) else { return reshape(cx, node) };
    let inner: usize = order[last + 1..].iter().map(|axis| from[*axis]).product();
    let span = |axis: usize| (to[axis], begins[axis], begins[axis] + from[axis]);
    let (size, begin, end) = span(order[last]);
    let step = Pad {
        outer: order[..last].iter().map(|axis| span(*axis)).collect(),
        line: (size * inner, begin * inner, end * inner),
        value: bytes,
        width,
    };
    let inputs = vec![cx.read(x, layout)?];
    let outputs = vec![cx.write(y, layout)];
    cx.push(StepSpec::new(node, "pad", inputs, outputs, step));
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
    cx.push(StepSpec::new(node, "gather", inputs, outputs, step));
    Ok(true)
}

//! Padding with a constant.

use qing_graph::{Node, Tensor, arithmetic};
use qing_kernels::Pool;

use super::{
    Lower, StepSpec, attr,
    movement::{axis_of, reshape, same_values},
    strided::CHUNK,
};
use crate::{
    EngineError,
    step::{Step, StepError, StepIo},
};

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
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
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

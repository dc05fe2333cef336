//! Copies with strides: slices, and operands repeated to the shape of a result.

use qing_graph::{Node, ValueId};
use qing_kernels::Pool;

use super::{Lower, Place, StepSpec, elementwise::Spread};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// Values that one task moves, about.
pub(super) const CHUNK: usize = 16 * 1024;

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
pub(super) fn strides(
    cx: &mut Lower<'_>,
    id: ValueId,
    y: ValueId,
    layout: Layout,
) -> Result<(Place, Vec<isize>), EngineError> {
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
    } else if (1..dims.len()).any(|k| zero(&strides[..k]) && contiguous(&dims[k..], &strides[k..])) {
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

//! Changes of layout and of storage: at the borders of the graph, and where two steps disagree.

use qing_graph::ValueId;
use qing_kernels::{Pool, float::permute::permute};

use super::{Lower, Place, Source, StepSpec};
use crate::{
    Arithmetic, EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
    storage::{self, Form},
};

/// The linear indices of a row-major tensor in the order of permuted axes.
pub(crate) fn permuted_indices(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    let strides = qing_tensor::strides(shape);
    let mut indices = vec![0];
    for axis in axes {
        let (size, stride) = (shape[*axis], strides[*axis]);
        indices = indices.iter().flat_map(|base| (0..size).map(move |i| base + i * stride)).collect();
    }
    indices
}

/// Reordering of axes, for elements of whole bytes.
struct Permute {
    /// As it was asked for, and the same of wider elements, for operands that lie where those may.
    narrow: Reorder,
    wide: Reorder,
}

struct Reorder {
    shape: Vec<usize>,
    order: Vec<usize>,
    /// Bytes of an element.
    width: usize,
}

impl Step for Permute {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let aligned = |bytes: &[u8]| (bytes.as_ptr() as usize).is_multiple_of(self.wide.width);
        let fits = aligned(y) && aligned(inputs.values(0));
        let Reorder { shape, order, width } = if fits { &self.wide } else { &self.narrow };
        match width {
            1 => permute::<u8>(shape, order, inputs.values(0), y, pool)?,
            2 => permute::<u16>(shape, order, inputs.values(0), bytemuck::cast_slice_mut(y), pool)?,
            4 => permute::<u32>(shape, order, inputs.values(0), bytemuck::cast_slice_mut(y), pool)?,
            _ => permute::<u64>(shape, order, inputs.values(0), bytemuck::cast_slice_mut(y), pool)?,
        }
        Ok(())
    }
}

/// The step that gives output axis `i` the input axis `order[i]` of a row-major value of `shape`; `None` if nothing moves.
pub(super) fn permutation(form: Form, shape: &[usize], order: &[usize]) -> Option<Box<dyn Step>> {
    let moving: Vec<&usize> = order.iter().filter(|axis| shape[**axis] != 1).collect();
    if moving.is_sorted() {
        return None;
    }
    Some(match form.width() {
        Some(width) => {
            let narrow = Reorder { shape: shape.to_vec(), order: order.to_vec(), width };
            Box::new(Permute { wide: narrow.widened(), narrow })
        }
        None => Box::new(PermutePacked { form, indices: permuted_indices(shape, order) }),
    })
}

impl Reorder {
    /// The same of fewer and wider elements: those along the last axes, where these stay the last, move together.
    fn widened(&self) -> Reorder {
        // Axes of one place are left out: none of them keeps others apart.
        let kept: Vec<usize> = (0..self.shape.len()).filter(|axis| self.shape[*axis] != 1).collect();
        let place = |axis: &usize| kept.iter().position(|kept| kept == axis);
        let mut order: Vec<usize> = self.order.iter().filter_map(place).collect();
        let mut shape: Vec<usize> = kept.iter().map(|axis| self.shape[*axis]).collect();
        let mut width = self.width;
        while let (Some(last), Some(len)) = (order.last().copied(), shape.last().copied()) {
            if last + 1 != shape.len() {
                break;
            }
            if let Some(factor) = [8, 4, 2].into_iter().find(|factor| len % factor == 0 && width * factor <= 8) {
                width *= factor;
                shape[last] /= factor;
            }
            if shape[last] != 1 {
                break;
            }
            shape.pop();
            order.pop();
        }
        Reorder { shape, order, width }
    }
}

/// The bytes as they are.
pub(super) struct Copy;

impl Step for Copy {
    fn run(&self, io: &mut StepIo<'_>, _: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        y.copy_from_slice(inputs.values(0));
        Ok(())
    }
}

/// Storage of packed elements is moved one value at a time; only odd unquantized tensors have it.
struct PermutePacked {
    form: Form,
    indices: Vec<usize>,
}

impl Step for PermutePacked {
    fn run(&self, io: &mut StepIo<'_>, _: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let shape = [self.indices.len()];
        let tensor =
            storage::to_tensor(self.form, &shape, inputs.values(0))?.take(&shape, self.indices.iter().copied())?;
        storage::encode(self.form, tensor.bytes(), y);
        Ok(())
    }
}

/// Pushes the step that moves a value from one layout to another.
pub(super) fn relayout(cx: &mut Lower<'_>, id: ValueId, from: Layout, to: Layout, x: Place, y: Place) {
    let shape = cx.shape(id);
    let physical = from.physical(&shape);
    let (have, want) = (from.axes(shape.len()), to.axes(shape.len()));
    let axes: Vec<usize> = want.iter().map(|a| have.iter().position(|b| a == b).unwrap_or(0)).collect();
    let form = cx.form(id);
    // Layouts that agree are never converted; a copy is right all the same.
    let step = permutation(form, &physical, &axes).unwrap_or_else(|| Box::new(Copy));
    cx.push(conversion(cx.graph.value(id).name.clone(), format!("to {}", to.name()), x, y, step));
}

fn conversion(node: String, kernel: String, x: Place, y: Place, step: Box<dyn Step>) -> StepSpec {
    StepSpec {
        node,
        op: "layout".into(),
        kernel,
        inputs: vec![x],
        outputs: vec![y],
        scratch: 0,
        in_place: None,
        macs: 0,
        arithmetic: Arithmetic::Float,
        weights: 0,
        unread: 0,
        step,
    }
}

/// Between the bytes of a tensor and storage.
struct Recode {
    form: Form,
    encode: bool,
}

impl Step for Recode {
    fn run(&self, io: &mut StepIo<'_>, _: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let x = inputs.values(0);
        if self.encode {
            storage::encode(self.form, x, y);
        } else {
            storage::decode(self.form, x, y);
        }
        Ok(())
    }
}

/// Defines a graph input: gives the place where the caller puts the tensor's bytes.
pub(super) fn input(cx: &mut Lower<'_>, id: ValueId) -> Place {
    let form = cx.form(id);
    let raw = raw_bytes(cx, id);
    let place = cx.buffer(raw);
    if form.is_plain() {
        cx.alias(id, Layout::Plain, place);
    } else {
        let stored = cx.write(id, Layout::Plain);
        let name = cx.graph.value(id).name.clone();
        cx.push(conversion(name, "to bytes".into(), place, stored, Box::new(Recode { form, encode: true })));
    }
    place
}

/// Reads a graph output: gives the place where the caller finds the tensor's bytes.
pub(super) fn output(cx: &mut Lower<'_>, id: ValueId) -> Result<Place, EngineError> {
    let form = cx.form(id);
    let place = cx.read(id, Layout::Plain)?;
    if form.is_plain() || matches!(place.source, Source::Dynamic(_)) {
        return Ok(place);
    }
    let raw = raw_bytes(cx, id);
    let out = cx.buffer(raw);
    let name = cx.graph.value(id).name.clone();
    cx.push(conversion(name, "from bytes".into(), place, out, Box::new(Recode { form, encode: false })));
    Ok(out)
}

fn raw_bytes(cx: &Lower<'_>, id: ValueId) -> usize {
    let count: usize = cx.shape(id).iter().product();
    (count * cx.graph.ty(id).element.bits()).div_ceil(8)
}

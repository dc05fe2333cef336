//! Changes of layout and of storage: at the borders of the graph, and where two steps disagree.

use qing_graph::ValueId;
use qing_kernels::Pool;

use super::{Lower, Place, Source, StepSpec};
use crate::{
    EngineError,
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

/// Elements that one thread moves at a time, about.
const CHUNK: usize = 16 * 1024;
/// Rows of a tile of a matrix that is transposed: a cache line of floats.
const TILE: usize = 16;

/// A permutation of axes, with neighbours that stay together merged into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permute {
    /// Sizes in output order, and the input stride of each, in elements.
    axes: Vec<(usize, usize)>,
    /// Bytes of an element.
    width: usize,
}

impl Permute {
    /// The permutation that gives output axis `i` the input axis `axes[i]`, of elements of `width` bytes.
    pub(crate) fn new(shape: &[usize], axes: &[usize], width: usize) -> Permute {
        let strides = qing_tensor::strides(shape);
        let mut merged: Vec<(usize, usize)> = vec![];
        let mut width = width;
        for axis in axes {
            let (size, stride) = (shape[*axis], strides[*axis]);
            if size == 1 {
                continue;
            }
            match merged.last_mut() {
                Some((before, step)) if *step == size * stride => {
                    *before *= size;
                    *step = stride;
                }
                _ => merged.push((size, stride)),
            }
        }
        // Elements that stay side by side move as one.
        if let Some((size, 1)) = merged.last().copied()
            && merged.len() > 1
        {
            merged.pop();
            width *= size;
            for (_, stride) in &mut merged {
                *stride /= size;
            }
        }
        Permute { axes: merged, width }
    }

    /// Whether nothing moves.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(self.axes.as_slice(), [] | [(_, 1)])
    }

    /// Moves the elements.
    pub(crate) fn run(&self, x: &[u8], y: &mut [u8], pool: &Pool) {
        match self.width {
            1 => self.typed::<u8>(x, y, pool),
            2 => self.typed::<u16>(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y), pool),
            4 => self.typed::<u32>(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y), pool),
            8 => self.typed::<u64>(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y), pool),
            width => self.blocks(width, x, y, pool),
        }
    }

    /// The input offsets of the outer axes, all but the last `inner`.
    fn outer(&self, mut index: usize, inner: usize) -> usize {
        let mut at = 0;
        for (size, stride) in self.axes[..self.axes.len() - inner].iter().rev() {
            at += index % size * stride;
            index /= size;
        }
        at
    }

    fn typed<T: bytemuck::Pod + Send + Sync>(&self, x: &[T], y: &mut [T], pool: &Pool) {
        let (Some(&(inner, stride)), n) = (self.axes.last(), self.axes.len()) else {
            y.copy_from_slice(x);
            return;
        };
        if n >= 2 && self.axes[n - 2].1 == 1 {
            // A transposed matrix: go over it in tiles, so that both sides stay in cache lines.
            let rows = self.axes[n - 2].0;
            let single = n == 2;
            let strip = if single { (CHUNK / inner).next_multiple_of(TILE) } else { rows };
            pool.for_each_chunk_mut(y, strip * inner, |chunk, y| {
                let from = if single { chunk * strip } else { self.outer(chunk, 2) };
                for (tile, y) in y.chunks_mut(TILE * inner).enumerate() {
                    let count = y.len() / inner;
                    for j in 0..inner {
                        let start = from + tile * TILE + j * stride;
                        for (i, value) in x[start..start + count].iter().enumerate() {
                            y[i * inner + j] = *value;
                        }
                    }
                }
            });
            return;
        }
        let lines = (CHUNK / inner).max(1);
        pool.for_each_chunk_mut(y, lines * inner, |chunk, y| {
            for (line, y) in y.chunks_exact_mut(inner).enumerate() {
                let from = self.outer(chunk * lines + line, 1);
                for (j, value) in y.iter_mut().enumerate() {
                    *value = x[from + j * stride];
                }
            }
        });
    }

    fn blocks(&self, width: usize, x: &[u8], y: &mut [u8], pool: &Pool) {
        let Some(&(inner, stride)) = self.axes.last() else {
            y.copy_from_slice(x);
            return;
        };
        let lines = (CHUNK / (inner * width)).max(1);
        pool.for_each_chunk_mut(y, lines * inner * width, |chunk, y| {
            for (line, y) in y.chunks_exact_mut(inner * width).enumerate() {
                let from = self.outer(chunk * lines + line, 1);
                for (j, block) in y.chunks_exact_mut(width).enumerate() {
                    block.copy_from_slice(&x[(from + j * stride) * width..][..width]);
                }
            }
        });
    }
}

impl Step for Permute {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        Permute::run(self, inputs.values(0), y, pool);
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
    let step: Box<dyn Step> = match form.width() {
        Some(width) => Box::new(Permute::new(&physical, &axes, width)),
        None => Box::new(PermutePacked { form, indices: permuted_indices(&physical, &axes) }),
    };
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
        weights: 0,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn permutations_move_every_element(
            shape in prop::collection::vec(1usize..20, 0..5),
            seed in any::<u64>(),
            width in prop::sample::select(vec![1usize, 2, 4, 8]),
            threads in 1usize..3,
        ) {
            let mut axes: Vec<usize> = (0..shape.len()).collect();
            let mut state = seed | 1;
            for i in (1..axes.len()).rev() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                axes.swap(i, (state >> 33) as usize % (i + 1));
            }
            let count: usize = shape.iter().product();
            let x: Vec<u8> = (0..count * width).map(|i| (i * 7 + i / 251) as u8).collect();
            let x = crate::memory::Aligned::copy_of(&x);
            let mut y = crate::memory::Aligned::zeros(x.as_ref().len());
            Permute::new(&shape, &axes, width).run(x.as_ref(), y.as_mut(), &Pool::new(threads));
            for (i, from) in permuted_indices(&shape, &axes).into_iter().enumerate() {
                prop_assert_eq!(&y.as_ref()[i * width..][..width], &x.as_ref()[from * width..][..width]);
            }
        }
    }
}

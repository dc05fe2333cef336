//! Weights laid out in the order the matrix kernels read them, and the loop over blocks that feeds those kernels.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::fold;
use super::image::{Image, Matrix};
use super::layout::Layout;
use super::{After, fold_signed, rows};
use crate::aligned::Aligned;
use crate::cpu::{AVX512, Isa, has_vbmi};
use crate::geometry::ConvGeometry;
use crate::pool::{Pool, SharedMut};
use crate::prepacked::Tag;
use crate::quantized::IntegerSource;
use crate::quantized::elementwise::{self, QAdd, QPRelu};
use crate::quantized::epilogue::{Epilogue, Output, Requantize};
use crate::quantized::lookup;

/// Bytes of rows, results and what is added to them that one block works on: panel after panel of weights passes over them,
/// so they stay in the second-level cache, and mostly in the first.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;
/// Rows below which a block is not cut, since each block streams all weights once.
pub(super) const MIN_ROWS: usize = 56;

/// Packed weights of a convolution and what else the matrix kernels need of it.
#[derive(Debug, Clone)]
pub(super) struct Panels {
    pub(super) isa: Isa,
    pub(super) layout: Layout,
    /// Taps in a row of the left matrix, a multiple of the layout's step.
    depth: usize,
    /// How the rows of the left matrix are read from the image, where they are not copied out of it.
    image: Option<Image>,
    /// Output channels of a group.
    pub(super) columns: usize,
    /// Columns of a panel; the last one of a group may be narrower.
    width: usize,
    /// [`Requantize::saturates`].
    pub(super) saturates: bool,
    /// One element per group.
    pub(super) groups: Vec<Group>,
}

/// What belongs to one group of channels. Lengths are multiples of a vector of columns.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) weights: Aligned<i8>,
    pub(super) bias: Vec<i32>,
    pub(super) scale: Vec<f32>,
}

/// A block of output rows and columns as the kernel of an instruction set sees it.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// Rows of the left matrix, `stride` bytes apart. A row is `lines` pieces of `steps` steps each, `line` bytes apart.
    pub a: &'a [u8],
    pub stride: usize,
    pub rows: usize,
    pub steps: usize,
    pub lines: usize,
    pub line: usize,
    /// After so many rows the next one is `segment_stride` bytes from the first of them: a row of the image ends.
    pub segment: usize,
    pub segment_stride: usize,
    /// Packed weights, bias and scale of all columns of the group.
    pub weights: &'a [i8],
    pub bias: &'a [i32],
    pub scale: &'a [f32],
    /// Columns to compute, of those of the group; starts at a panel.
    pub from: usize,
    pub to: usize,
    /// [`Requantize::saturates`].
    pub saturates: bool,
}

/// Where a block writes: the first row, column `from`; rows are `y_stride` values apart.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    U8(*mut u8, Finish<'a>),
    F32(*mut f32),
}

/// How a block's sums become bytes.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub to: &'a Requantize,
    /// [`Requantize::saturates`].
    pub saturates: bool,
    /// A function of every byte: the slopes of the group's columns, and its other constants.
    pub prelu: Option<(&'a [f32], &'a QPRelu)>,
    /// What is added to every byte, and how: rows as far apart as those of the output.
    pub residual: Option<(*const u8, &'a QAdd)>,
}

impl Target<'_> {
    /// The target `values` further on.
    ///
    /// # Safety
    /// That place is still in the output (and in the residual, which is as long).
    #[inline(always)]
    pub(super) unsafe fn add(self, values: usize) -> Self {
        // SAFETY: by the caller's promise.
        unsafe {
            match self {
                Target::U8(y, finish) => {
                    let residual = finish.residual.map(|(r, add)| (r.add(values), add));
                    Target::U8(y.add(values), Finish { residual, ..finish })
                }
                Target::F32(y) => Target::F32(y.add(values)),
            }
        }
    }
}

/// How the work is cut for a number of threads.
#[derive(Debug, Clone, Copy)]
struct Cut {
    rows: usize,
    row_blocks: usize,
    columns: usize,
    column_blocks: usize,
}

impl Panels {
    /// Packs `weights`, `[out_c, depth]`, or `None` where `isa` has no matrix kernel.
    pub(super) fn pack(
        isa: Isa,
        g: &ConvGeometry,
        weights: IntegerSource<'_>,
        bias: &[i32],
        epilogue: &Epilogue,
    ) -> Option<Panels> {
        let scale = epilogue.scale();
        let layout = Layout::of(isa)?;
        let image = Image::of(isa, g);
        let spaces = image.filter(Image::spaces);
        let depth = spaces.map_or(g.depth(), |image| image.depth(g));
        // Weights that were packed before are not read.
        let weights = LazyCell::new(|| match spaces.and_then(|image| image.space(weights, g)) {
            Some(spaced) => Cow::Owned(spaced),
            None => Cow::Borrowed(&**weights),
        });
        let lanes = layout.lanes;
        let own_columns = g.out_c / g.groups;
        let columns = image.map_or(own_columns, |image| image.columns(g));
        let steps = depth.div_ceil(layout.step);
        let padded = columns.next_multiple_of(lanes);
        let groups = (0..g.groups)
            .map(|group| {
                let first = group * columns;
                let own = || &weights[first * depth..(first + columns) * depth];
                let numbers = [columns, depth, own_columns, lanes, layout.vectors, layout.step, layout.signed.into()];
                let tag = Tag::new("conv u8", &numbers);
                let packed = Aligned::packed(tag, layout.panel_len(padded, depth), |packed| {
                    for panel in (0..padded).step_by(layout.vectors * lanes) {
                        let width = (layout.vectors * lanes).min(padded - panel);
                        let from = &own()[panel * depth..(panel + width).min(columns) * depth];
                        let into = &mut packed[layout.panel_len(panel, depth)..];
                        layout.pack(&mut into[..layout.panel_len(width, depth)], width, from, depth);
                    }
                });
                let mut bias = bias[first..first + own_columns].to_vec();
                if layout.signed {
                    fold_signed(own(), depth, &mut bias);
                }
                let mut scale = scale[first..first + own_columns].to_vec();
                bias.resize(padded, 0);
                scale.resize(padded, 0.0);
                Group { weights: packed, bias, scale }
            })
            .collect();
        Some(Panels {
            isa,
            layout,
            depth: layout.step * steps,
            image,
            columns: own_columns,
            width: layout.vectors * lanes,
            saturates: epilogue.saturates(),
            groups,
        })
    }

    /// Whether the rows of the left matrix lie in the input as they are.
    fn direct(&self, g: &ConvGeometry) -> bool {
        g.is_pointwise() && g.depth() == self.depth && !self.layout.wide
    }

    /// Bytes between gathered rows. Rows a large power of two apart would compete for the same cache lines.
    fn stride(&self) -> usize {
        let row = self.layout.size() * self.depth;
        if row.is_multiple_of(512) { row + 64 } else { row }
    }

    fn cut(&self, g: &ConvGeometry, threads: usize) -> Cut {
        let rows = g.out_pixels();
        let row = self.stride() + 2 * self.columns;
        let most = (BLOCK_BYTES / row).clamp(MIN_ROWS, rows.max(MIN_ROWS));
        // Twice as many blocks as threads, so that a thread that is held up costs half a share.
        let share = if threads == 1 { 1 } else { 2 * threads };
        let fine = rows.div_ceil(share * g.groups);
        if fine >= MIN_ROWS || threads == 1 || self.columns <= self.width {
            let blocks = rows.div_ceil(most.min(fine.max(MIN_ROWS.min(rows.div_ceil(threads)))));
            let block = rows.div_ceil(blocks);
            return Cut { rows: block, row_blocks: rows.div_ceil(block), columns: self.columns, column_blocks: 1 };
        }
        // Few rows: cut the columns, so that each thread reads its own part of the weights.
        let row_blocks = rows.div_ceil(most);
        let block = rows.div_ceil(row_blocks);
        let panels = self.columns.div_ceil(self.width);
        let pieces = share.div_ceil(row_blocks * g.groups).min(panels);
        let columns = panels.div_ceil(pieces) * self.width;
        Cut { rows: block, row_blocks, columns, column_blocks: self.columns.div_ceil(columns) }
    }

    /// Bytes of scratch for gathered rows on at most so many threads.
    pub(super) fn scratch_bytes(&self, g: &ConvGeometry, threads: usize) -> usize {
        if AVX512 && let Some(image) = &self.image {
            return image.scratch_bytes(g, self.columns, threads);
        }
        if self.direct(g) {
            return 0;
        }
        // A machine may give fewer threads than were asked for, and fewer may take more rows each.
        let rows = |threads| {
            let cut = self.cut(g, threads);
            if cut.column_blocks == 1 { threads * cut.rows } else { g.groups * g.out_pixels() }
        };
        (1..=threads).map(rows).max().unwrap_or(0) * self.stride()
    }

    /// Convolves. Lengths have been checked, `scratch` included.
    pub(super) fn run(
        &self,
        g: &ConvGeometry,
        x: &[u8],
        x_zero: u8,
        epilogue: &Epilogue,
        after: After<'_>,
        y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) {
        if AVX512 && let Some(image) = &self.image {
            let Group { weights, bias, scale } = &self.groups[0];
            let matrix =
                Matrix { isa: self.isa, columns: self.columns, saturates: self.saturates, weights, bias, scale };
            return image.run(matrix, g, x, x_zero, epilogue, after, y, scratch, pool);
        }
        let cut = self.cut(g, pool.threads());
        let (direct, stride) = (self.direct(g), self.stride());
        let total = g.out_pixels();
        let gathered = SharedMut::new(scratch);
        let wide = self.layout.wide;
        let whole = !direct && cut.column_blocks > 1;
        if whole {
            pool.run(g.groups * cut.row_blocks, &|block| {
                let (group, first) = (block % g.groups, block / g.groups * cut.rows);
                let count = cut.rows.min(total - first);
                let start = (group * total + first) * stride;
                // SAFETY: blocks are distinct pairs of group and rows, so their ranges do not overlap.
                let to = unsafe { gathered.slice(start..start + count * stride) };
                rows::gather(self.isa, g, group, x, x_zero, first, count, to, stride, wide);
            });
        }
        let y = Sink::new(y);
        let blocks = g.groups * cut.row_blocks * cut.column_blocks;
        pool.run_indexed(blocks, &|worker, block| {
            let group = block % g.groups;
            let (row_block, column_block) =
                (block / g.groups / cut.column_blocks, block / g.groups % cut.column_blocks);
            let first = row_block * cut.rows;
            let count = cut.rows.min(total - first);
            let columns = column_block * cut.columns..((column_block + 1) * cut.columns).min(self.columns);
            let (a, stride) = if direct {
                let start = first * g.in_c + group * self.depth;
                (&x[start..], g.in_c)
            } else if whole {
                let start = (group * total + first) * stride;
                // SAFETY: all writes ended with the run above; from here on the rows are only read.
                let rows = unsafe { gathered.view(start..start + count * stride) };
                (rows, stride)
            } else {
                let start = worker * cut.rows * stride;
                // SAFETY: a worker runs one block at a time and its range is its own.
                let rows = unsafe { gathered.slice(start..start + count * stride) };
                rows::gather(self.isa, g, group, x, x_zero, first, count, rows, stride, wide);
                (&*rows, stride)
            };
            let part = &self.groups[group];
            let offset = first * g.out_c + group * self.columns + columns.start;
            let block = Block {
                a,
                stride,
                rows: count,
                steps: self.depth / self.layout.step,
                lines: 1,
                line: 0,
                segment: count,
                segment_stride: 0,
                weights: &part.weights,
                bias: &part.bias,
                scale: &part.scale,
                from: columns.start,
                to: columns.end,
                saturates: self.saturates,
            };
            y.compute(self.isa, &self.layout, &block, offset, g.out_c, epilogue, after, group * self.columns, &columns);
        });
    }
}

/// The output as every thread sees it.
pub(super) enum Sink<'a> {
    U8(SharedMut<'a, u8>),
    F32(SharedMut<'a, f32>),
}

impl<'a> Sink<'a> {
    pub(super) fn new(y: Output<'a>) -> Self {
        match y {
            Output::U8(y) => Sink::U8(SharedMut::new(y)),
            Output::F32(y) => Sink::F32(SharedMut::new(y)),
        }
    }

    /// Computes a row of output pixels with few channels, whose first value is `offset` values into the output.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn fold(&self, isa: Isa, row: &fold::Row<'_>, offset: usize, epilogue: &Epilogue, after: After<'_>) {
        let range = offset..offset + row.width * row.channels;
        match (self, epilogue) {
            (Sink::U8(y), Epilogue::Requantize(to)) => {
                // SAFETY: rows do not overlap.
                let values = unsafe { y.slice(range.clone()) };
                let finish = Finish { to, saturates: false, prelu: None, residual: None };
                // SAFETY: the slice is the whole row; panels are only packed for what the machine has.
                unsafe { fold::row(row, Target::U8(values.as_mut_ptr(), finish)) };
                // Slopes are those of the channels of a pixel.
                let piece = if after.prelu.is_some() { row.channels } else { values.len() };
                for (i, values) in values.chunks_exact_mut(piece).enumerate() {
                    let start = range.start + i * piece;
                    finish_in_place(isa, to.table.as_deref(), after, 0, start..start + piece, values);
                }
            }
            (Sink::F32(y), Epilogue::Dequantize { .. }) => {
                // SAFETY: as above.
                unsafe { fold::row(row, Target::F32(y.slice(range).as_mut_ptr())) };
            }
            _ => unreachable!("the output was checked against the epilogue"),
        }
    }

    /// Computes one block, whose first value is `offset` values into the output.
    pub(super) fn compute(
        &self,
        isa: Isa,
        layout: &Layout,
        block: &Block<'_>,
        offset: usize,
        y_stride: usize,
        epilogue: &Epilogue,
        after: After<'_>,
        first_channel: usize,
        columns: &Range<usize>,
    ) {
        let After { prelu, residual } = after;
        let last = offset + (block.rows - 1) * y_stride + columns.len();
        // With AVX-512 all that follows is applied in registers.
        let in_registers = AVX512 && isa == Isa::Avx512 && has_vbmi();
        let (target, len, table) = match (self, epilogue) {
            (Sink::U8(y), Epilogue::Requantize(to)) => {
                let start = y.as_mut_ptr().wrapping_add(offset);
                let now = residual.filter(|_| in_registers);
                let finish = Finish {
                    to,
                    saturates: block.saturates,
                    prelu: prelu.filter(|_| in_registers).map(|p| (&p.below[first_channel..], p)),
                    residual: now.map(|r| (r.values[offset..].as_ptr(), r.add)),
                };
                (Target::U8(start, finish), y.len(), to.table.as_deref())
            }
            (Sink::F32(y), Epilogue::Dequantize { .. }) => {
                let start = y.as_mut_ptr().wrapping_add(offset);
                (Target::F32(start), y.len(), None)
            }
            _ => unreachable!("the output was checked against the epilogue"),
        };
        assert!(last <= len, "a block leaves the output");
        assert!(residual.is_none_or(|r| last <= r.values.len()), "a block leaves the residual");
        check(layout, block);
        // SAFETY: the block reads and writes within its slices (checked above and in `check`), writes only the
        // columns of its rows, which no other block has, and `isa` was limited to what the machine has.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 if AVX512 => super::avx512::block(block, target, y_stride),
                #[cfg(target_arch = "x86_64")]
                Isa::AvxVnni => super::avx2::block_vnni(block, target, y_stride),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => super::avx2::block(block, target, y_stride),
                #[cfg(target_arch = "aarch64")]
                Isa::NeonI8mm => super::neon::block_i8mm(block, target, y_stride),
                #[cfg(target_arch = "aarch64")]
                Isa::NeonDot => super::neon::block_dot(block, target, y_stride),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => super::neon::block(block, target, y_stride),
                #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
                Isa::Simd128 => super::wasm::block(block, target, y_stride),
                _ => unreachable!("no panels are packed for {isa:?}"),
            }
        }
        let Sink::U8(y) = self else { return };
        if in_registers || (table.is_none() && prelu.is_none() && residual.is_none()) {
            return;
        }
        for row in 0..block.rows {
            let range = offset + row * y_stride..offset + row * y_stride + columns.len();
            // SAFETY: the same values as above, again not shared with another block.
            let values = unsafe { y.slice(range.clone()) };
            finish_in_place(isa, table, after, first_channel + columns.start, range, values);
        }
    }
}

/// What becomes of bytes whose kernel does not do it in registers: `range` of the output, from channel `channel` on.
fn finish_in_place(
    isa: Isa,
    table: Option<&[u8; 256]>,
    After { prelu, residual }: After<'_>,
    channel: usize,
    range: Range<usize>,
    values: &mut [u8],
) {
    if let Some(table) = table {
        lookup::in_place(isa, table, values);
    }
    if let Some(prelu) = prelu {
        elementwise::prelu_in_place(isa, prelu, channel, values);
    }
    if let Some(residual) = residual {
        elementwise::add_in_place(isa, residual.add, values, &residual.values[range]);
    }
}

/// Checks that a kernel that trusts `block` stays inside its slices.
fn check(layout: &Layout, block: &Block<'_>) {
    let padded = block.to.next_multiple_of(layout.lanes);
    assert!(block.rows > 0 && block.from < block.to && block.from.is_multiple_of(layout.vectors * layout.lanes));
    assert!(block.segment > 0 && block.lines > 0 && block.rows.is_multiple_of(block.segment));
    let last_row = (block.rows / block.segment - 1) * block.segment_stride + (block.segment - 1) * block.stride;
    assert!(last_row + (block.lines - 1) * block.line + layout.size() * layout.step * block.steps <= block.a.len());
    assert!(padded <= block.bias.len() && padded <= block.scale.len());
    assert!(padded * layout.weight * block.steps * block.lines <= block.weights.len());
}

//! What convolutions by weights in panels of sixteen output channels have in common, whatever form the weights have in memory: rows of the left
//! matrix, gathered where they must be, cut into blocks for the threads, and what follows a block's sums.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use super::conv::rows;
use super::elementwise;
use super::epilogue::{Epilogue, Output, Requantize, Residual};
use super::lookup;
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::geometry::ConvGeometry;
use crate::pool::{Pool, SharedMut};

/// Output channels of a panel.
pub(super) const LANES: usize = 16;
/// Panels that a block starts at a multiple of.
pub(super) const BUNDLE: usize = 4;
/// Bytes of gathered rows that one block works on: they stay in the second-level cache beside the weights.
const BLOCK_BYTES: usize = 160 * 1024;
/// Rows below which a block is not cut, since each block streams all weights once, and some kernels take them out of their
/// bytes once for all rows.
const fn min_rows(isa: Isa) -> usize {
    if matches!(isa, Isa::Avx512 | Isa::AvxVnni | Isa::Avx2) { 48 } else { 96 }
}

/// A convolution but for its weights.
#[derive(Debug, Clone)]
pub(super) struct Panelled {
    pub(super) isa: Isa,
    pub(super) geometry: ConvGeometry,
    pub(super) x_zero: u8,
    /// `bias[c] − x_zero·Σ w[c]`, per padded column.
    pub(super) bias: Vec<i32>,
    /// Per padded column.
    pub(super) scale: Vec<f32>,
    pub(super) epilogue: Epilogue,
    /// Bytes of a row that kernels read.
    pub(super) row: usize,
    /// Whether the rows of the left matrix are read where they lie in the input.
    pub(super) direct: bool,
}

/// Rows of the left matrix and panels of the right one.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// Rows, `stride` bytes apart.
    pub(super) a: &'a [u8],
    pub(super) stride: usize,
    pub(super) rows: usize,
    /// Panels to compute; the first one starts a bundle.
    pub(super) panel: usize,
    pub(super) panels: usize,
    /// Columns of the product.
    pub(super) columns: usize,
    /// Per padded column of all of them.
    pub(super) bias: &'a [i32],
    pub(super) scale: &'a [f32],
}

/// Where a block writes: its first row, its first column. Rows are `stride` values apart.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    U8 {
        y: *mut u8,
        stride: usize,
        to: &'a Requantize,
    },
    /// `Σ f32(sum of a group) ⊗ scale`, in the order of the groups.
    F32 {
        y: *mut f32,
        stride: usize,
    },
}

impl Block<'_> {
    /// Columns to compute.
    pub(super) fn width(&self) -> usize {
        (self.columns - self.panel * LANES).min(self.panels * LANES)
    }
}

/// Weights in panels, and what multiplies by them.
pub(super) trait Weights: Sync {
    /// Computes a block.
    ///
    /// # Safety
    /// The machine has the instruction set; `target` may be written at the block's columns of each of its rows.
    unsafe fn block(&self, isa: Isa, block: &Block<'_>, target: &Target<'_>);
}

/// How the work is cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    rows: usize,
    row_blocks: usize,
    panels: usize,
    panel_blocks: usize,
}

impl Panelled {
    /// For folded `bias`, one value per output channel, on a set that the machine has.
    pub(super) fn new(
        isa: Isa,
        geometry: ConvGeometry,
        mut bias: Vec<i32>,
        x_zero: u8,
        epilogue: Epilogue,
        (row, direct): (usize, bool),
    ) -> Panelled {
        let padded = geometry.out_c.next_multiple_of(LANES);
        let mut scale = epilogue.scale().to_vec();
        bias.resize(padded, 0);
        scale.resize(padded, 0.0);
        Panelled { isa, geometry, x_zero, bias, scale, epilogue, row, direct }
    }

    /// Bytes from one gathered row to the next. Rows a large power of two apart would compete for the same cache lines.
    fn stride(&self) -> usize {
        if self.row.is_multiple_of(512) { self.row + 64 } else { self.row }
    }

    fn cut(&self, threads: usize) -> Cut {
        let total = self.geometry.out_pixels();
        let panels = self.bias.len() / LANES;
        // Twice as many blocks as threads, so that a thread that is held up costs half a share.
        let share = if threads == 1 { 1 } else { 2 * threads };
        let min_rows = min_rows(self.isa);
        let most = (BLOCK_BYTES / self.stride()).clamp(min_rows, total.max(min_rows));
        let rows = if total >= share * min_rows { most.min(total.div_ceil(share)) } else { most };
        // Whole tiles of rows, whatever the kernel: a multiple of twelve.
        let rows = total.div_ceil(total.div_ceil(rows)).next_multiple_of(12).min(total);
        let row_blocks = total.div_ceil(rows);
        // Few rows: cut the columns, so that each thread reads its own part of the weights.
        let pieces = share.div_ceil(row_blocks).min(panels.div_ceil(BUNDLE));
        let panels_each = panels.div_ceil(pieces).next_multiple_of(BUNDLE);
        Cut { rows, row_blocks, panels: panels_each, panel_blocks: panels.div_ceil(panels_each) }
    }

    /// Bytes of scratch that [`Panelled::run`] needs on a pool of at most so many threads.
    pub(super) fn scratch_bytes(&self, threads: usize) -> usize {
        if self.direct {
            return 0;
        }
        // A machine may give fewer threads than were asked for, and fewer may take more rows each.
        let rows = |threads| {
            let cut = self.cut(threads);
            if cut.panel_blocks == 1 { threads * cut.rows } else { self.geometry.out_pixels() }
        };
        (1..=threads).map(rows).max().unwrap_or(0) * self.stride()
    }

    /// Checks what [`Panelled::run`] is given, `need` bytes of scratch among it.
    ///
    /// # Errors
    /// As there.
    pub(super) fn check(
        &self,
        x: &[u8],
        residual: Option<Residual<'_>>,
        y: &Output<'_>,
        scratch: &[u8],
        need: usize,
    ) -> Result<(), KernelError> {
        let g = &self.geometry;
        expect_len("input", x.len(), g.input_len())?;
        self.epilogue.check_output(y, g.output_len())?;
        if scratch.len() < need {
            expect_len("scratch", scratch.len(), need)?;
        }
        if let Some(residual) = residual {
            expect_len("residual", residual.values.len(), g.output_len())?;
            residual.add.check()?;
            if matches!(y, Output::F32(_)) {
                return Err(KernelError::Unsupported("quantized values cannot be added to real results".into()));
            }
        }
        Ok(())
    }

    /// Convolves `x`, `[batch, in_h, in_w, in_c]`, into `y`, `[batch, out_h, out_w, out_c]`, with values added to the results of a block while they
    /// are in cache. `scratch` holds at least [`Panelled::scratch_bytes`] bytes. Allocates nothing.
    ///
    /// # Errors
    /// When a length is wrong, `y` is not of the kind the epilogue writes, the residual's constants are out of range, or it meets real
    /// results.
    pub(super) fn run(
        &self,
        weights: &dyn Weights,
        x: &[u8],
        residual: Option<Residual<'_>>,
        mut y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        self.check(x, residual, &y, scratch, self.scratch_bytes(pool.threads()))?;
        let g = &self.geometry;
        let target = match (&mut y, &self.epilogue) {
            (Output::U8(y), Epilogue::Requantize(to)) => Wide::U8(SharedMut::new(y), to, residual),
            (Output::F32(y), _) => Wide::F32(SharedMut::new(y)),
            _ => unreachable!("the output was checked against the epilogue"),
        };
        let cut = self.cut(pool.threads());
        let (direct, stride, total) = (self.direct, self.stride(), g.out_pixels());
        let gathered = SharedMut::new(scratch);
        let whole = !direct && cut.panel_blocks > 1;
        let gather = |first: usize, count: usize, to: &mut [u8]| {
            rows::gather(self.isa, g, 0, x, self.x_zero, first, count, to, stride, false);
        };
        if whole {
            let each = total.div_ceil(2 * pool.threads());
            pool.run(total.div_ceil(each), &|piece| {
                let first = piece * each;
                let count = each.min(total - first);
                // SAFETY: pieces are of different rows.
                gather(first, count, unsafe { gathered.slice(first * stride..(first + count) * stride) });
            });
        }
        pool.run_indexed(cut.row_blocks * cut.panel_blocks, &|worker, block| {
            let first = block / cut.panel_blocks * cut.rows;
            let count = cut.rows.min(total - first);
            let panel = block % cut.panel_blocks * cut.panels;
            let (a, stride): (&[u8], usize) = if direct {
                (&x[first * g.in_c..(first + count) * g.in_c], g.in_c)
            } else if whole {
                // SAFETY: all writes ended with the run above; from here on the rows are only read.
                (unsafe { gathered.view(first * stride..(first + count) * stride) }, stride)
            } else {
                let start = worker * cut.rows * stride;
                // SAFETY: a worker runs one block at a time and its range is its own.
                let to = unsafe { gathered.slice(start..start + count * stride) };
                gather(first, count, to);
                (to, stride)
            };
            let block = Block {
                a,
                stride,
                rows: count,
                panel,
                panels: cut.panels.min(self.bias.len() / LANES - panel),
                columns: g.out_c,
                bias: &self.bias,
                scale: &self.scale,
            };
            target.compute(weights, self.isa, &block, first);
        });
        Ok(())
    }
}

/// The output as every thread sees it.
pub(super) enum Wide<'a> {
    U8(SharedMut<'a, u8>, &'a Requantize, Option<Residual<'a>>),
    F32(SharedMut<'a, f32>),
}

impl Wide<'_> {
    /// Computes one block whose first row is row `first` of the output. No two blocks share rows and panels.
    pub(super) fn compute(&self, weights: &dyn Weights, isa: Isa, block: &Block<'_>, first: usize) {
        let stride = block.columns;
        let offset = first * stride + block.panel * LANES;
        let last = offset + (block.rows - 1) * stride + block.width();
        let (target, len) = match self {
            Wide::U8(y, to, _) => (Target::U8 { y: y.as_mut_ptr().wrapping_add(offset), stride, to }, y.len()),
            Wide::F32(y) => (Target::F32 { y: y.as_mut_ptr().wrapping_add(offset), stride }, y.len()),
        };
        assert!(last <= len, "a block leaves the output");
        // SAFETY: the block writes only the columns of its rows, which lie in the output (checked above) and which no other block has; `isa` was
        // limited to what the machine has.
        unsafe { weights.block(isa, block, &target) };
        let Wide::U8(y, to, residual) = self else { return };
        if to.table.is_none() && residual.is_none() {
            return;
        }
        for row in 0..block.rows {
            let start = offset + row * stride;
            let range = start..start + block.width();
            // SAFETY: the same values as above, again not shared with another block.
            let y = unsafe { y.slice(range.clone()) };
            if let Some(table) = &to.table {
                lookup::in_place(isa, table, y);
            }
            if let Some(Residual { values, add }) = residual {
                elementwise::add_in_place(isa, add, y, &values[range]);
            }
        }
    }
}

//! Convolution and matrix product of bytes by weights that take four, two or 1.6 bits in memory.
//!
//! The arithmetic is that of bytes; what is saved is memory, and the time to read it. Weights stay packed until they are
//! in registers, so that a layer reads a half, a quarter or a fifth of the bytes: a product with one row goes as much
//! faster, as it waits for nothing else, and a convolution, which multiplies every weight many times, as fast as with bytes.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod groups;
mod packed;
mod scalar;
#[cfg(test)]
mod tests;

pub use groups::GroupedMatMul;
pub use packed::Width;

use block::{Block, Target};
use packed::{BUNDLE, LANES, Packed};

use super::conv::{fold_zero, rows};
use super::elementwise;
use super::epilogue::{Epilogue, Output, Requantize, Residual};
use super::lookup;
#[cfg(target_arch = "x86_64")]
use crate::cpu::AVX512;
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::geometry::ConvGeometry;
use crate::pool::{Pool, SharedMut};

/// Bytes of gathered rows that one block works on: they stay in the second-level cache beside the weights.
const BLOCK_BYTES: usize = 160 * 1024;
/// Rows below which a block is not cut, since each block streams all weights once.
const MIN_ROWS: usize = 48;

/// A dense two-dimensional convolution with weights of few bits.
#[derive(Debug, Clone)]
pub struct NarrowConv {
    isa: Isa,
    geometry: ConvGeometry,
    x_zero: u8,
    packed: Packed,
    /// `bias[c] − x_zero·Σ w[c]`, per padded column.
    bias: Vec<i32>,
    /// Per padded column.
    scale: Vec<f32>,
    epilogue: Epilogue,
}

/// How the work is cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    rows: usize,
    row_blocks: usize,
    panels: usize,
    panel_blocks: usize,
}

impl NarrowConv {
    /// Packs `weights`, `[out_c, kernel rows, kernel columns, in_c]`, into the least width that holds them, or gives `None`
    /// if none does, if there are groups of channels, or if a sum comes too near to the range of `i32`.
    ///
    /// `bias` has one value per output channel, in units of `x_scale·w_scale[c]`; `x_zero` is the stored value that means
    /// zero, which taps in the padding read.
    ///
    /// # Errors
    /// When the geometry or a length is inconsistent, a scale is not finite, or the sum of a channel could leave
    /// the range of `i32`.
    pub fn pack(
        isa: Isa,
        geometry: ConvGeometry,
        weights: &[i8],
        bias: Option<&[i32]>,
        x_zero: u8,
        epilogue: Epilogue,
    ) -> Result<Option<NarrowConv>, KernelError> {
        geometry.check()?;
        expect_len("weights", weights.len(), geometry.weights_len())?;
        epilogue.check(geometry.out_c)?;
        let (columns, depth) = (geometry.out_c, geometry.depth());
        let Some(width) = Width::of(weights) else { return Ok(None) };
        let mut bias = fold_zero(weights, depth, bias, columns, x_zero)?;
        if geometry.groups != 1 || !leaves_room(weights, depth) {
            return Ok(None);
        }
        let packed = Packed::new(isa.or_supported(), width, weights, [columns, depth, depth]);
        let mut scale = epilogue.scale().to_vec();
        bias.resize(packed.padded(), 0);
        scale.resize(packed.padded(), 0.0);
        Ok(Some(NarrowConv { isa: isa.or_supported(), geometry, x_zero, packed, bias, scale, epilogue }))
    }

    /// The sizes it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// How its weights share bytes.
    #[must_use]
    pub fn width(&self) -> Width {
        self.packed.width
    }

    /// Whether this is the kernel to choose rather than that of eight-bit weights, by what `bench_lowbit` measured: as fast
    /// with AVX-512 and 1.1 to 1.5 times as fast with AVX2, for a fraction of the memory; but with AVX-VNNI, whose kernel of
    /// bytes multiplies four at a time, only where weights are hardly used more than once.
    #[must_use]
    pub fn pays(&self) -> bool {
        self.isa != Isa::AvxVnni || self.geometry.out_pixels() <= 4
    }

    /// Bytes of the packed weights.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// Whether the rows of the left matrix lie in the input as they are.
    fn direct(&self) -> bool {
        self.geometry.is_pointwise() && self.geometry.in_c.is_multiple_of(4)
    }

    /// Bytes of a gathered row. Rows a large power of two apart would compete for the same cache lines.
    fn stride(&self) -> usize {
        let depth = 4 * self.packed.steps;
        if depth.is_multiple_of(512) { depth + 64 } else { depth }
    }

    fn cut(&self, threads: usize) -> Cut {
        let total = self.geometry.out_pixels();
        let panels = self.packed.padded() / LANES;
        // Twice as many blocks as threads, so that a thread that is held up costs half a share.
        let share = if threads == 1 { 1 } else { 2 * threads };
        let most = (BLOCK_BYTES / self.stride()).clamp(MIN_ROWS, total.max(MIN_ROWS));
        let rows = if total >= share * MIN_ROWS { most.min(total.div_ceil(share)) } else { most };
        // Whole tiles of rows, whatever the kernel: a multiple of twelve.
        let rows = total.div_ceil(total.div_ceil(rows)).next_multiple_of(12).min(total);
        let row_blocks = total.div_ceil(rows);
        // Few rows: cut the columns, so that each thread reads its own part of the weights.
        let pieces = share.div_ceil(row_blocks).min(panels.div_ceil(BUNDLE));
        let panels_each = panels.div_ceil(pieces).next_multiple_of(BUNDLE);
        Cut { rows, row_blocks, panels: panels_each, panel_blocks: panels.div_ceil(panels_each) }
    }

    /// Bytes of scratch that [`NarrowConv::run`] needs on a pool of `threads`.
    #[must_use]
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        if self.direct() {
            return 0;
        }
        // A machine may give fewer threads than were asked for, and fewer may take more rows each.
        let rows = |threads| {
            let cut = self.cut(threads);
            if cut.panel_blocks == 1 { threads * cut.rows } else { self.geometry.out_pixels() }
        };
        (1..=threads).map(rows).max().unwrap_or(0) * self.stride()
    }

    /// Convolves `x`, `[batch, in_h, in_w, in_c]`, into `y`, `[batch, out_h, out_w, out_c]`.
    ///
    /// `scratch` holds at least [`NarrowConv::scratch_bytes`] bytes for the pool's number of threads; what it contains does
    /// not matter. Allocates nothing.
    ///
    /// # Errors
    /// When a length is wrong or `y` is not of the kind the epilogue writes.
    pub fn run(&self, x: &[u8], y: Output<'_>, scratch: &mut [u8], pool: &Pool) -> Result<(), KernelError> {
        self.run_adding(x, None, y, scratch, pool)
    }

    /// [`NarrowConv::run`] with values added to the results of a block while they are in cache.
    ///
    /// # Errors
    /// As [`NarrowConv::run`]; when the residual has another length than the output, its constants are out of range, or the
    /// results are real numbers.
    pub fn run_adding(
        &self,
        x: &[u8],
        residual: Option<Residual<'_>>,
        mut y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let g = &self.geometry;
        expect_len("input", x.len(), g.input_len())?;
        self.epilogue.check_output(&y, g.output_len())?;
        let need = self.scratch_bytes(pool.threads());
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
        let target = match (&mut y, &self.epilogue) {
            (Output::U8(y), Epilogue::Requantize(to)) => Wide::U8(SharedMut::new(y), to, residual),
            (Output::F32(y), _) => Wide::F32(SharedMut::new(y)),
            _ => unreachable!("the output was checked against the epilogue"),
        };
        let cut = self.cut(pool.threads());
        let (direct, stride, total) = (self.direct(), self.stride(), g.out_pixels());
        let gathered = SharedMut::new(scratch);
        let whole = !direct && cut.panel_blocks > 1;
        let gather = |first: usize, count: usize, to: &mut [u8]| {
            rows::gather(self.isa, g, 0, x, self.x_zero, first, count, to, stride);
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
                packed: &self.packed,
                panel,
                panels: cut.panels.min(self.packed.padded() / LANES - panel),
                columns: g.out_c,
                bias: &self.bias,
                scale: &self.scale,
            };
            target.compute(self.isa, &block, first);
        });
        Ok(())
    }
}

/// The output as every thread sees it.
enum Wide<'a> {
    U8(SharedMut<'a, u8>, &'a Requantize, Option<Residual<'a>>),
    F32(SharedMut<'a, f32>),
}

impl Wide<'_> {
    /// Computes one block whose first row is row `first` of the output. No two blocks share rows and panels.
    fn compute(&self, isa: Isa, block: &Block<'_>, first: usize) {
        let stride = block.columns;
        let offset = first * stride + block.panel * LANES;
        let last = offset + (block.rows - 1) * stride + block.width();
        let (target, len) = match self {
            Wide::U8(y, to, _) => (Target::U8 { y: y.as_mut_ptr().wrapping_add(offset), stride, to }, y.len()),
            Wide::F32(y) => (Target::F32 { y: y.as_mut_ptr().wrapping_add(offset), stride }, y.len()),
        };
        assert!(last <= len, "a block leaves the output");
        block.check(&target);
        // SAFETY: the block reads and writes within its slices (checked above), writes only the columns of its rows, which
        // no other block has, and `isa` was limited to what the machine has.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 if AVX512 => avx512::block(block, &target),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 | Isa::AvxVnni => avx2::block(block, &target),
                _ => scalar::block(block, &target),
            }
        }
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

/// Whether sums of bytes times these weights, `depth` to a sum, fit 32 bits with the six that kernels may need above.
fn leaves_room(weights: &[i8], depth: usize) -> bool {
    let magnitude = |w: &[i8]| w.iter().map(|w| i64::from(w.unsigned_abs())).sum::<i64>();
    weights.chunks(depth).all(|w| magnitude(w) * 255 < 1 << (31 - 6))
}

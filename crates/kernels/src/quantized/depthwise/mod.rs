//! Depthwise convolution: every channel has a kernel of its own.
//!
//! There is no reduction over channels to feed a matrix kernel, so the work runs over channels side by side and
//! is bound by how many bytes move, not by how many products there are.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;
#[cfg(not(target_arch = "x86_64"))]
mod walk;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use avx2::BLOCK;
#[cfg(not(target_arch = "x86_64"))]
use walk::BLOCK;

use super::IntegerSource;
use super::conv::{After, fold_zero, scalar};
use super::epilogue::{Epilogue, Output};
use super::lookup;
use crate::aligned::Aligned;
#[cfg(target_arch = "x86_64")]
use crate::cpu::AVX512;
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::geometry::ConvGeometry;
use crate::pool::{Pool, SharedMut};
use crate::prepacked::{self, Tag};

/// A depthwise convolution with its weights packed.
#[derive(Debug, Clone)]
pub struct QDepthwise {
    isa: Isa,
    geometry: ConvGeometry,
    x_zero: u8,
    weights: Packed,
    epilogue: Epilogue,
}

/// Weights as the kernels of the instruction set want them.
#[derive(Debug, Clone)]
enum Packed {
    /// For kernels that compute one row of output at a time, and for the scalar loop.
    Rows(Weights),
    #[cfg(target_arch = "x86_64")]
    Bands(avx512::Bands),
}

/// Weights, bias and scale in blocks of channels, in the order of the instruction set's registers.
#[derive(Debug, Clone)]
struct Weights {
    /// As they came for the scalar loop; see `pack` of the modules for the
    /// others.
    packed: Aligned<i8>,
    /// `bias[c] − x_zero·Σ w[c]`.
    bias: Vec<i32>,
    scale: Vec<f32>,
}

/// The window along one row of output: the part of the geometry that kernels look at.
#[derive(Debug, Clone, Copy)]
struct Window {
    channels: usize,
    in_w: usize,
    out_w: usize,
    kernel: [usize; 2],
    /// Stride and dilation along the row.
    step: usize,
    dilation: usize,
    pad_left: usize,
}

impl Window {
    fn of(g: &ConvGeometry) -> Window {
        Window {
            channels: g.in_c,
            in_w: g.in_w,
            out_w: g.out_w,
            kernel: g.kernel,
            step: g.stride[1],
            dilation: g.dilation[1],
            pad_left: g.pad_left,
        }
    }

    /// Columns from a window's first to its last tap.
    #[cfg(target_arch = "x86_64")]
    fn reach(&self) -> usize {
        (self.kernel[1] - 1) * self.dilation + 1
    }
}

/// Start of a row of output.
#[derive(Debug, Clone, Copy)]
enum Pixels {
    U8(*mut u8),
    F32(*mut f32),
}

/// One row of output and what it reads.
struct Row<'a> {
    window: &'a Window,
    geometry: &'a ConvGeometry,
    /// The image.
    x: &'a [u8],
    x_zero: u8,
    out_row: usize,
    y: Pixels,
}

impl Row<'_> {
    /// The input row under row `tap` of the kernel, unless it lies in the padding or beyond the kernel.
    fn line(&self, tap: usize) -> Option<&[u8]> {
        let row = (tap < self.window.kernel[0]).then(|| self.geometry.input_row(self.out_row, tap)).flatten()?;
        let len = self.window.in_w * self.window.channels;
        Some(&self.x[row * len..(row + 1) * len])
    }
}

impl QDepthwise {
    /// Packs `weights`, `[channels, kernel rows, kernel columns]`, for `isa`; see [`super::QConv::pack`].
    ///
    /// # Errors
    /// When the geometry is not that of a depthwise convolution with one output for each input channel, or for
    /// the reasons [`super::QConv::pack`] has.
    pub fn pack(
        isa: Isa,
        geometry: ConvGeometry,
        weights: IntegerSource<'_>,
        bias: Option<&[i32]>,
        x_zero: u8,
        epilogue: Epilogue,
    ) -> Result<QDepthwise, KernelError> {
        let isa = isa.or_supported();
        geometry.check()?;
        if !geometry.is_depthwise() {
            return Err(KernelError::Geometry(format!(
                "a depthwise convolution has as many groups and outputs as inputs, got {} inputs, {} outputs, {} groups",
                geometry.in_c, geometry.out_c, geometry.groups
            )));
        }
        epilogue.check(geometry.out_c)?;
        let bias = prepacked::integers(Tag::new("bias u8", &[x_zero.into()]), geometry.out_c, || {
            expect_len("weights", weights.len(), geometry.weights_len())?;
            fold_zero(weights, geometry.depth(), bias, geometry.out_c, x_zero)
        })?;
        #[cfg(target_arch = "x86_64")]
        if AVX512 && isa == Isa::Avx512 && geometry.kernel[0].div_ceil(4) <= avx512::MOST_GROUPS {
            let window = Window::of(&geometry);
            let weights = Packed::Bands(avx512::Bands::pack(&geometry, window, weights, &bias, &epilogue));
            return Ok(QDepthwise { isa, geometry, x_zero, weights, epilogue });
        }
        // Windows too high for them are computed by the next best set's kernels.
        let isa = if isa == Isa::Avx512 { Isa::Avx2.or_supported() } else { isa };
        let weights = Packed::Rows(Weights::pack(isa, &geometry, weights, &bias, epilogue.scale()));
        Ok(QDepthwise { isa, geometry, x_zero, weights, epilogue })
    }

    /// The sizes it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// Bytes of scratch that [`QDepthwise::run`] needs on a pool of `threads`.
    #[must_use]
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        match &self.weights {
            Packed::Rows(_) if self.isa == Isa::Scalar => 0,
            #[cfg(target_arch = "x86_64")]
            Packed::Rows(_) => threads * avx2::scratch_bytes(&Window::of(&self.geometry)),
            #[cfg(not(target_arch = "x86_64"))]
            Packed::Rows(_) => threads * walk::scratch_bytes(self.geometry.in_c),
            #[cfg(target_arch = "x86_64")]
            Packed::Bands(bands) => threads * bands.scratch_bytes(),
        }
    }

    /// Convolves `x`, `[batch, in_h, in_w, channels]`, into `y`, `[batch, out_h, out_w, channels]`.
    ///
    /// `scratch` holds at least [`QDepthwise::scratch_bytes`] bytes for the pool's number of threads; what it
    /// contains does not matter. Allocates nothing.
    ///
    /// # Errors
    /// When a length is wrong or `y` is not of the kind the epilogue writes.
    pub fn run(&self, x: &[u8], y: Output<'_>, scratch: &mut [u8], pool: &Pool) -> Result<(), KernelError> {
        let g = &self.geometry;
        expect_len("input", x.len(), g.input_len())?;
        self.epilogue.check_output(&y, g.output_len())?;
        let need = self.scratch_bytes(pool.threads());
        if scratch.len() < need {
            expect_len("scratch", scratch.len(), need)?;
        }
        match &self.weights {
            #[cfg(target_arch = "x86_64")]
            Packed::Bands(bands) if AVX512 => bands.run(g, x, self.x_zero, &self.epilogue, y, scratch, pool),
            Packed::Rows(Weights { packed, bias, .. }) if self.isa == Isa::Scalar => {
                scalar::run(g, x, self.x_zero, packed, bias, &self.epilogue, After::default(), y, pool);
            }
            Packed::Rows(weights) => self.run_blocks(weights, x, y, scratch, pool),
            #[cfg(target_arch = "x86_64")]
            Packed::Bands(_) => unreachable!("bands are packed where there is AVX-512"),
        }
        Ok(())
    }

    /// The vector kernels, row by row of the output. Lengths have been checked.
    fn run_blocks(&self, weights: &Weights, x: &[u8], y: Output<'_>, scratch: &mut [u8], pool: &Pool) {
        let g = &self.geometry;
        let window = Window::of(g);
        let blocks = g.in_c.div_ceil(BLOCK);
        let rows = g.batch * g.out_h;
        // Rows are the natural share; where there are few, each is cut along the channels.
        let pieces = if pool.threads() == 1 { 1 } else { (4 * pool.threads()).div_ceil(rows).min(blocks) };
        let piece = blocks.div_ceil(pieces);
        let pieces = blocks.div_ceil(piece);
        let (image, line) = (g.in_h * g.in_w * g.in_c, g.out_w * g.out_c);
        let (bytes, floats) = match y {
            Output::U8(y) => (Some(SharedMut::new(y)), None),
            Output::F32(y) => (None, Some(SharedMut::new(y))),
        };
        let table = match &self.epilogue {
            Epilogue::Requantize(to) => to.table.as_deref(),
            Epilogue::Dequantize { .. } => None,
        };
        // At most a few dozen jobs: a row of a small image is over in less than a microsecond.
        let jobs = rows * pieces;
        let batch = jobs.div_ceil(if pool.threads() == 1 { 1 } else { 8 * pool.threads() });
        let part = scratch.len() / pool.threads();
        let scratch = SharedMut::new(scratch);
        pool.run_indexed(jobs.div_ceil(batch), &|worker, chunk| {
            // SAFETY: a worker runs one chunk at a time and its range is its own.
            let scratch = unsafe { scratch.slice(worker * part..(worker + 1) * part) };
            for job in chunk * batch..((chunk + 1) * batch).min(jobs) {
                let (row, blocks) = (job / pieces, job % pieces * piece..((job % pieces + 1) * piece).min(blocks));
                let channels = blocks.start * BLOCK..(blocks.end * BLOCK).min(g.in_c);
                let pixels = match (&bytes, &floats) {
                    (Some(y), _) => Pixels::U8(y.as_mut_ptr().wrapping_add(row * line)),
                    (_, Some(y)) => Pixels::F32(y.as_mut_ptr().wrapping_add(row * line)),
                    _ => return,
                };
                let image = &x[row / g.out_h * image..][..image];
                let row_of = Row {
                    window: &window,
                    geometry: g,
                    x: image,
                    x_zero: self.x_zero,
                    out_row: row % g.out_h,
                    y: pixels,
                };
                // SAFETY: `isa` was limited to what the machine has; the row lies in the output, whose length was
                // checked, and no other job has these channels of it.
                unsafe { self.row(weights, &row_of, blocks, scratch) };
                if let (Some(table), Some(y)) = (table, &bytes) {
                    for pixel in 0..g.out_w {
                        let start = row * line + pixel * g.out_c;
                        // SAFETY: the same values as above.
                        let values = unsafe { y.slice(start + channels.start..start + channels.end) };
                        lookup::in_place(self.isa, table, values);
                    }
                }
            }
        });
    }

    /// # Safety
    /// The machine has `self.isa`, and `row.y` may be written at the blocks' channels of all its pixels.
    unsafe fn row(&self, weights: &Weights, row: &Row<'_>, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: by the caller's promise.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::row(row, weights, &self.epilogue, blocks, scratch),
                #[cfg(target_arch = "x86_64")]
                Isa::AvxVnni => avx2::row_vnni(row, weights, &self.epilogue, blocks, scratch),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => neon::row(row, weights, &self.epilogue, blocks, scratch),
                #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
                Isa::Simd128 => wasm::row(row, weights, &self.epilogue, blocks, scratch),
                _ => unreachable!("{:?} has no vector kernel", self.isa),
            }
        }
    }
}

impl Weights {
    fn pack(isa: Isa, g: &ConvGeometry, weights: &[i8], bias: &[i32], scale: &[f32]) -> Weights {
        let place: fn(usize) -> usize = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => avx2::place,
            Isa::Scalar => {
                let (bias, scale) = (bias.to_vec(), scale.to_vec());
                return Weights { packed: Aligned::from(weights), bias, scale };
            }
            _ => |channel| channel,
        };
        let padded = g.in_c.next_multiple_of(BLOCK);
        let (mut packed_bias, mut packed_scale) = (vec![0; padded], vec![0.0; padded]);
        let mut packed = Vec::new();
        for c in 0..g.in_c {
            let to = c / BLOCK * BLOCK + place(c % BLOCK);
            (packed_bias[to], packed_scale[to]) = (bias[c], scale[c]);
        }
        // The channel that takes each place.
        let mut channel_at = [0; BLOCK];
        (0..BLOCK).for_each(|c| channel_at[place(c)] = c);
        let [rows, columns] = g.kernel;
        let at = |first: usize, place: usize, row: usize, column: usize| {
            let c = first + channel_at[place];
            let known = c < g.in_c && row < rows && column < columns;
            if known { weights[(c * rows + row) * columns + column] } else { 0 }
        };
        for first in (0..padded).step_by(BLOCK) {
            #[cfg(target_arch = "x86_64")]
            avx2::pack(isa == Isa::AvxVnni, &mut packed, g.kernel, |place, row, column| at(first, place, row, column));
            #[cfg(not(target_arch = "x86_64"))]
            walk::pack(isa == Isa::Simd128, &mut packed, rows * columns, |place, tap| {
                at(first, place, tap / columns, tap % columns)
            });
        }
        Weights { packed: Aligned::from(&packed[..]), bias: packed_bias, scale: packed_scale }
    }
}

//! Convolutions and products of floats whose factors are rounded to bfloat16: twice the multiplications per instruction, half the bytes
//! of weights, and eight significant bits instead of 24. Sums are 32-bit floats. Only for those who ask for it.
//!
//! Rounding is to nearest even; what is smaller than the least normal float counts as zero (both as AVX-512 BF16 does it). A row of the
//! input, gathered over the taps of its window, is rounded once into scratch and then meets all panels of weights. Where weights come with
//! every run, as in training, whole images are rounded instead (`windows`), and so are both factors of the gradient of
//! weights (`pixels`). Integers of no more than eight bits are not changed by rounding: their sums are exact.

#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
mod avx512;
pub(super) mod pixels;
pub(super) mod windows;

use super::Clamp;
use super::winograd::Winograd;
use crate::aligned::Aligned;
use crate::cpu::has_bf16;
use crate::pool::SharedMut;
use crate::prepacked::Tag;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// Output channels of a panel.
const LANES: usize = 16;
/// Factors that one step adds to each lane.
const PAIR: usize = 2;
/// Bytes of a step's weights.
const LINE: usize = 2 * PAIR * LANES;
/// Bytes of rounded rows that one block works on: they stay in the second-level cache beside the weights.
const BLOCK_BYTES: usize = 160 * 1024;
/// Rows below which a block is not cut, since each block streams all weights once.
const MIN_ROWS: usize = 48;
/// Products per output below which rounding takes longer than it saves.
const MIN_DEPTH: usize = 16;

/// A dense convolution of floats with weights in bfloat16.
#[derive(Debug, Clone)]
pub struct Bf16Conv {
    geometry: ConvGeometry,
    clamp: Clamp,
    /// `[panel][pair of the depth][column of 16][two]`.
    weights: Aligned<i8>,
    /// Padded to whole panels.
    bias: Aligned<f32>,
}

/// How the work is cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    rows: usize,
    row_blocks: usize,
    panels: usize,
    panel_blocks: usize,
}

impl Bf16Conv {
    /// Whether this machine has the instructions and the layer is one to gain from them: not grouped, and not one whose transform
    /// saves more multiplications than half of them. [`Bf16Conv::pack`] gives nothing for others.
    #[must_use]
    pub fn pays(isa: Isa, geometry: &ConvGeometry) -> bool {
        isa == Isa::Avx512
            && has_bf16()
            && geometry.groups == 1
            && geometry.depth() >= MIN_DEPTH
            && !Winograd::pays(isa, geometry)
    }

    /// Packs `weights`, `[out_c, kernel[0], kernel[1], in_c]`, and `bias`, `[out_c]`, or gives `None` where [`Bf16Conv::pays`] does not hold.
    ///
    /// # Errors
    /// [`KernelError`] when the geometry contradicts itself or an argument has another length than it says.
    pub fn pack(
        isa: Isa,
        geometry: ConvGeometry,
        weights: &[f32],
        bias: Option<&[f32]>,
        clamp: Clamp,
    ) -> Result<Option<Bf16Conv>, KernelError> {
        geometry.check()?;
        expect_len("weights", weights.len(), geometry.weights_len())?;
        bias.map_or(Ok(()), |bias| expect_len("bias", bias.len(), geometry.out_c))?;
        if !Bf16Conv::pays(isa.or_supported(), &geometry) {
            return Ok(None);
        }
        let (columns, depth) = (geometry.out_c, geometry.depth());
        let (panels, steps) = (columns.div_ceil(LANES), depth.div_ceil(PAIR));
        let tag = Tag::new("conv bf16", &[columns, depth]);
        let packed = Aligned::packed(tag, panels * steps * LINE, |packed| {
            for (column, from) in weights.chunks_exact(depth).enumerate() {
                let panel = &mut packed[column / LANES * steps * LINE..][..steps * LINE];
                for (line, pair) in panel.chunks_exact_mut(LINE).zip(from.chunks(PAIR)) {
                    for (i, value) in pair.iter().enumerate() {
                        let at = 2 * (PAIR * (column % LANES) + i);
                        let [low, high] = rounded(*value).to_le_bytes();
                        (line[at], line[at + 1]) = (low as i8, high as i8);
                    }
                }
            }
        });
        let mut biases = Aligned::zeros(panels * LANES);
        if let Some(bias) = bias {
            biases[..columns].copy_from_slice(bias);
        }
        Ok(Some(Bf16Conv { geometry, clamp, weights: packed, bias: biases }))
    }

    /// The geometry it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// Bytes of the packed weights.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weights.len()
    }

    /// Bytes of a rounded row: whole pairs. Rows a large power of two apart would compete for the same cache lines.
    fn stride(&self) -> usize {
        let bytes = 2 * self.geometry.depth().next_multiple_of(PAIR);
        if bytes.is_multiple_of(512) { bytes + 64 } else { bytes }
    }

    fn cut(&self, threads: usize) -> Cut {
        let (total, panels) = (self.geometry.out_pixels(), self.geometry.out_c.div_ceil(LANES));
        // Twice as many blocks as threads, so that a thread that is held up costs half a share.
        let share = if threads == 1 { 1 } else { 2 * threads };
        let most = (BLOCK_BYTES / self.stride()).clamp(MIN_ROWS, total.max(MIN_ROWS));
        let rows = if total >= share * MIN_ROWS { most.min(total.div_ceil(share)) } else { most };
        let rows = total.div_ceil(total.div_ceil(rows));
        let row_blocks = total.div_ceil(rows);
        // Few rows: cut the columns, so that each thread reads its own part of the weights.
        let pieces = share.div_ceil(row_blocks).min(panels.div_ceil(2));
        let panels_each = panels.div_ceil(pieces).next_multiple_of(2);
        Cut { rows, row_blocks, panels: panels_each, panel_blocks: panels.div_ceil(panels_each) }
    }

    /// Bytes of scratch that [`Bf16Conv::run`] needs on a pool of at most so many threads.
    #[must_use]
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        (1..=threads).map(|threads| threads * self.cut(threads).rows * self.stride()).max().unwrap_or(0)
    }

    /// Computes `y = clamp(conv(x) + bias + residual)` for `x` `[batch, in_h, in_w, in_c]` and `y` and `residual`
    /// `[batch, out_h, out_w, out_c]`. `scratch` has at least [`Bf16Conv::scratch_bytes`] bytes. Allocates nothing. Results do not depend on the
    /// number of threads.
    ///
    /// # Errors
    /// [`KernelError::Length`] when a slice does not have the length the geometry implies.
    pub fn run(
        &self,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [u8],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let g = &self.geometry;
        expect_len("input", x.len(), g.input_len())?;
        expect_len("output", y.len(), g.output_len())?;
        if let Some(residual) = residual {
            expect_len("residual", residual.len(), y.len())?;
        }
        let (cut, stride, total) = (self.cut(pool.threads()), self.stride(), g.out_pixels());
        let need = pool.threads() * cut.rows * stride;
        if scratch.len() < need {
            expect_len("scratch", scratch.len(), need)?;
        }
        let (y, scratch) = (SharedMut::new(y), SharedMut::new(scratch));
        pool.run_indexed(cut.row_blocks * cut.panel_blocks, &|worker, block| {
            let first = block / cut.panel_blocks * cut.rows;
            let count = cut.rows.min(total - first);
            let start = worker * cut.rows * stride;
            // SAFETY: a worker runs one block at a time and its range is its own.
            let rows = unsafe { scratch.slice(start..start + count * stride) };
            let from = block % cut.panel_blocks * cut.panels * LANES;
            let columns = from..(from + cut.panels * LANES).min(g.out_c);
            self.block(x, residual, &y, first, count, columns, rows);
        });
        Ok(())
    }

    /// Computes `count` rows from row `first` on, the columns of whole panels.
    fn block(
        &self,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &SharedMut<'_, f32>,
        first: usize,
        count: usize,
        columns: std::ops::Range<usize>,
        rows: &mut [u8],
    ) {
        #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
        {
            let (g, stride) = (&self.geometry, self.stride());
            let steps = g.depth().div_ceil(PAIR);
            for (i, row) in rows.chunks_exact_mut(stride).enumerate() {
                self.gather(x, first + i, &mut row[..steps * PAIR * 2]);
            }
            let panel = columns.start / LANES;
            let range = first * g.out_c..(first + count) * g.out_c;
            assert!(range.end <= y.len() && residual.is_none_or(|r| r.len() == y.len()), "a block leaves the output");
            assert!(columns.end.div_ceil(LANES) * steps * LINE <= self.weights.len() && columns.end <= self.bias.len());
            let block = avx512::Block {
                a: rows,
                stride,
                rows: count,
                pieces: 1,
                piece: 0,
                steps,
                three: None,
                weights: &self.weights[panel * steps * LINE..],
                bias: &self.bias[columns.start..],
                clamp: self.clamp,
                columns: columns.len(),
                residual: residual.map(|r| r[range.start + columns.start..].as_ptr()),
                y: y.as_mut_ptr().wrapping_add(range.start + columns.start),
                y_stride: g.out_c,
            };
            // SAFETY: the layer was only packed for a machine with the instructions; the block lies in its slices and in the output, whose
            // columns of these rows no other block writes.
            unsafe { avx512::block(&block) };
        }
        #[cfg(not(all(target_arch = "x86_64", feature = "avx512")))]
        {
            let _ = (x, residual, y, first, count, columns, rows, self.clamp, &self.bias);
            unreachable!("nothing is packed for a machine without the instructions")
        }
    }

    /// Rounds the window of an output pixel into a row.
    #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
    fn gather(&self, x: &[f32], pixel: usize, row: &mut [u8]) {
        let g = &self.geometry;
        let (image, oy, ox) = (pixel / (g.out_h * g.out_w), pixel / g.out_w % g.out_h, pixel % g.out_w);
        let piece = 2 * g.in_c;
        let (taps, rest) = row.split_at_mut(g.taps() * piece);
        rest.fill(0);
        for (tap, to) in taps.chunks_exact_mut(piece).enumerate() {
            let inside = |o: usize, stride: usize, k: usize, dilation: usize, pad: usize, size: usize| {
                (o * stride + k * dilation).checked_sub(pad).filter(|i| *i < size)
            };
            let iy = inside(oy, g.stride[0], tap / g.kernel[1], g.dilation[0], g.pad_top, g.in_h);
            let ix = inside(ox, g.stride[1], tap % g.kernel[1], g.dilation[1], g.pad_left, g.in_w);
            match (iy, ix) {
                (Some(iy), Some(ix)) => {
                    let from = ((image * g.in_h + iy) * g.in_w + ix) * g.in_c;
                    // SAFETY: the machine has the instructions, as the layer was packed.
                    unsafe { avx512::round(&x[from..from + g.in_c], to) };
                }
                _ => to.fill(0),
            }
        }
    }
}

/// The nearest bfloat16 (ties to even), as its bits; subnormal floats are zero. NaN stays one.
fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    if value.is_subnormal() {
        return (bits >> 31 << 15) as u16;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests;

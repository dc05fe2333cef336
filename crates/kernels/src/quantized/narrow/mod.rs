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
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod scalar;
#[cfg(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
mod spread;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

pub use groups::GroupedMatMul;
pub use packed::Width;

use packed::Packed;

use super::IntegerSource;
use super::conv::image::{Image, Matrix};
use super::conv::{After, fold_signed, fold_zero};
use super::epilogue::{Epilogue, Output, Residual};
use super::panelled::{self, Panelled, Weights};
use crate::cpu::{AVX512, Isa};
use crate::error::{KernelError, expect_len};
use crate::geometry::ConvGeometry;
use crate::pool::Pool;
use crate::prepacked::{self, Tag};

/// A dense two-dimensional convolution with weights of few bits.
#[derive(Debug, Clone)]
pub struct NarrowConv {
    conv: Panelled,
    packed: Packed,
    /// Few output channels are computed as by weights of bytes, from the image: the weights are spread to bytes for the time of a run.
    image: Option<Image>,
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
        weights: IntegerSource<'_>,
        bias: Option<&[i32]>,
        x_zero: u8,
        epilogue: Epilogue,
    ) -> Result<Option<NarrowConv>, KernelError> {
        geometry.check()?;
        epilogue.check(geometry.out_c)?;
        let (columns, depth) = (geometry.out_c, geometry.depth());
        let isa = isa.or_supported();
        // The bias, and behind it the weights of a byte, or 0 where there are none that this kernel takes.
        let site = if reads_signed(isa) { "bias of narrow, signed" } else { "bias of narrow" };
        let tag = Tag::new(site, &[x_zero.into(), depth, geometry.groups]);
        let mut bias = prepacked::integers(tag, columns + 1, || {
            expect_len("weights", weights.len(), geometry.weights_len())?;
            let Some(width) = Width::of(weights) else { return Ok(vec![0; columns + 1]) };
            let mut bias = fold_zero(weights, depth, bias, columns, x_zero)?;
            if reads_signed(isa) {
                fold_signed(weights, depth, &mut bias);
            }
            let fits = geometry.groups == 1 && leaves_room(weights, depth);
            bias.push(if fits { width.per_byte() as i32 } else { 0 });
            Ok(bias)
        })?;
        let Some(width) = bias.pop().and_then(Width::holding) else { return Ok(None) };
        if geometry.groups != 1 {
            return Ok(None);
        }
        let packed = Packed::new(isa, width, weights, [columns, depth, depth]);
        let direct = geometry.is_pointwise() && geometry.in_c.is_multiple_of(4);
        let conv = Panelled::new(isa, geometry, bias, x_zero, epilogue, (4 * packed.steps, direct));
        Ok(Some(NarrowConv { conv, packed, image: Image::plain(isa, &geometry) }))
    }

    /// The sizes it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.conv.geometry
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
        self.conv.isa != Isa::AvxVnni || self.conv.geometry.out_pixels() <= 4
    }

    /// Bytes of the packed weights.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// Bytes of scratch that [`NarrowConv::run`] needs on a pool of `threads`.
    #[must_use]
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        let g = &self.conv.geometry;
        self.image.filter(|_| AVX512).map_or_else(
            || self.conv.scratch_bytes(threads),
            |image| self.packed.spread_bytes() + image.scratch_bytes(g, g.out_c, threads),
        )
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
        y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        // Only there are images read.
        let Some(image) = self.image.filter(|_| AVX512) else {
            return self.conv.run(&self.packed, x, residual, y, scratch, pool);
        };
        let Panelled { isa, geometry, x_zero, bias, scale, epilogue, .. } = &self.conv;
        self.conv.check(x, residual, &y, scratch, self.scratch_bytes(pool.threads()))?;
        let (weights, scratch) = scratch.split_at_mut(self.packed.spread_bytes());
        let weights: &mut [i8] = bytemuck::cast_slice_mut(weights);
        self.packed.spread(*isa, weights);
        let saturates = epilogue.saturates();
        let matrix = Matrix { isa: *isa, columns: geometry.out_c, saturates, weights, bias, scale };
        image.run(matrix, geometry, x, *x_zero, epilogue, After { prelu: None, residual }, y, scratch, pool);
        Ok(())
    }
}

impl Weights for Packed {
    unsafe fn block(&self, isa: Isa, block: &panelled::Block<'_>, target: &panelled::Target<'_>) {
        let block = &block::Block::new(self, block);
        block.check(target);
        // SAFETY: by the caller's promise; the block stays in its slices (checked above).
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 if AVX512 => avx512::block(block, target),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 | Isa::AvxVnni => avx2::block(block, target),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => neon::block(block, target),
                #[cfg(target_arch = "aarch64")]
                Isa::NeonDot => neon::block_dot(block, target),
                #[cfg(target_arch = "aarch64")]
                Isa::NeonI8mm => neon::block_i8mm(block, target),
                #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
                Isa::Simd128 => wasm::block(block, target),
                _ => scalar::block(block, target),
            }
        }
    }
}

/// Whether the set's kernel takes 128 from every byte of the input, so that it is signed; the bias makes up for it.
fn reads_signed(isa: Isa) -> bool {
    matches!(isa, Isa::Neon | Isa::NeonDot)
}

/// Whether sums of bytes times these weights, `depth` to a sum, fit 32 bits with the six that kernels may need above.
fn leaves_room(weights: &[i8], depth: usize) -> bool {
    let magnitude = |w: &[i8]| w.iter().map(|w| i64::from(w.unsigned_abs())).sum::<i64>();
    weights.chunks(depth).all(|w| magnitude(w) * 255 < 1 << (31 - 6))
}

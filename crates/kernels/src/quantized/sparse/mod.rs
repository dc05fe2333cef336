//! Convolution and matrix product of bytes by weights most of which are zero.
//!
//! A window of 64 products of sixteen output channels is computed in slots of four products per channel. A **block** slot is four neighbouring
//! inputs that any of the channels needs: what dense kernels do, where they do nothing else. A **pick** slot gives every channel four
//! inputs of its own, wherever they are in the window, by one permutation of bytes; so four of every sixteen weights, or one of
//! every four, take a quarter of the multiplications. Windows are covered by whichever mixture is cheaper.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
mod slots;
#[cfg(test)]
mod tests;

use std::convert::Infallible;

use slots::Slots;

use super::IntegerSource;
use super::conv::fold_zero;
use super::epilogue::{Epilogue, Output, Residual};
use super::panelled::{Block, Panelled, Target, Weights};
use crate::cpu::{AVX512, Isa, has_vbmi};
use crate::error::{KernelError, expect_len};
use crate::geometry::ConvGeometry;
use crate::pool::Pool;
use crate::prepacked::{self, Tag};

/// Part of the time of a dense layer above which a sparse one is not worth having.
const MOST_TIME: f64 = 0.75;
/// Zeros of a hundred weights below which nothing is tried.
const FEWEST_ZEROS: usize = 60;

/// A dense two-dimensional convolution with mostly zeros for weights.
#[derive(Debug, Clone)]
pub struct SparseConv {
    conv: Panelled,
    slots: Slots,
}

impl SparseConv {
    /// Packs `weights`, `[out_c, kernel rows, kernel columns, in_c]`, or gives `None` if there are groups of channels.
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
    ) -> Result<Option<SparseConv>, KernelError> {
        geometry.check()?;
        epilogue.check(geometry.out_c)?;
        if geometry.groups != 1 {
            return Ok(None);
        }
        let weights: &[i8] = weights;
        expect_len("weights", weights.len(), geometry.weights_len())?;
        let (columns, depth) = (geometry.out_c, geometry.depth());
        let bias = fold_zero(weights, depth, bias, columns, x_zero)?;
        let slots = Slots::new(weights, columns, depth);
        let direct = geometry.is_pointwise() && geometry.in_c.is_multiple_of(4);
        let row = depth.next_multiple_of(4);
        let conv = Panelled::new(isa.or_supported(), geometry, bias, x_zero, epilogue, (row, direct));
        Ok(Some(SparseConv { conv, slots }))
    }

    /// Whether weights have so many zeros that [`SparseConv::pays`] may hold once they are packed: cheap to ask.
    #[must_use]
    pub fn may_pay(isa: Isa, weights: IntegerSource<'_>) -> bool {
        if !(AVX512 && isa == Isa::Avx512 && has_vbmi()) {
            return false;
        }
        let enough = || {
            let weights: &[i8] = weights;
            let zeros = weights.iter().filter(|w| **w == 0).count();
            i32::from(100 * zeros >= FEWEST_ZEROS * weights.len())
        };
        let asked = prepacked::integers::<Infallible>(Tag::new("sparse", &[]), 1, || Ok(vec![enough()]));
        asked == Ok(vec![1])
    }

    /// Whether this is the kernel to choose rather than that of eight-bit weights: where it has instructions of its own, and by the
    /// slots it takes.
    #[must_use]
    pub fn pays(&self) -> bool {
        AVX512 && self.conv.isa == Isa::Avx512 && has_vbmi() && self.slots.time() <= MOST_TIME
    }

    /// The sizes it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.conv.geometry
    }

    /// Bytes of the packed weights and of where they belong.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// Weights that are multiplied by, of all there are: those of slots that are zero among them.
    #[must_use]
    pub fn density(&self) -> f64 {
        self.slots.multiplied() as f64 / self.conv.geometry.weights_len() as f64
    }

    /// Bytes of scratch that [`SparseConv::run_adding`] needs on a pool of `threads`.
    #[must_use]
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        self.conv.scratch_bytes(threads)
    }

    /// Convolves `x`, `[batch, in_h, in_w, in_c]`, into `y`, `[batch, out_h, out_w, out_c]`, with values added to the results of a block
    /// while they are in cache.
    ///
    /// `scratch` holds at least [`SparseConv::scratch_bytes`] bytes for the pool's number of threads; what it contains does
    /// not matter. Allocates nothing.
    ///
    /// # Errors
    /// When a length is wrong or `y` is not of the kind the epilogue writes; when the residual has another length than the output, its
    /// constants are out of range, or the results are real numbers.
    pub fn run_adding(
        &self,
        x: &[u8],
        residual: Option<Residual<'_>>,
        y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        self.conv.run(&self.slots, x, residual, y, scratch, pool)
    }
}

impl Weights for Slots {
    unsafe fn block(&self, isa: Isa, block: &Block<'_>, target: &Target<'_>) {
        self.check(block);
        // SAFETY: by the caller's promise; the block stays in its slices (checked above).
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 if AVX512 && has_vbmi() => avx512::block(self, block, target),
                _ => scalar::block(self, block, target),
            }
        }
    }
}

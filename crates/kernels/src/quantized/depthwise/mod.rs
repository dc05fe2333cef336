//! Depthwise convolution: every channel has a kernel of its own.
//!
//! There is no reduction over channels to feed a matrix kernel, so the work runs over channels side by side and
//! is bound by how many bytes move, not by how many products there are.

use super::conv::{fold_zero, scalar};
use super::epilogue::{Epilogue, Output};
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::geometry::ConvGeometry;
use crate::pool::Pool;

/// A depthwise convolution with its weights packed.
#[derive(Debug, Clone)]
pub struct QDepthwise {
    geometry: ConvGeometry,
    x_zero: u8,
    /// `bias[c] − x_zero·Σ w[c]`.
    bias: Vec<i32>,
    epilogue: Epilogue,
    weights: Vec<i8>,
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
        weights: &[i8],
        bias: Option<&[i32]>,
        x_zero: u8,
        epilogue: Epilogue,
    ) -> Result<QDepthwise, KernelError> {
        let _ = isa.or_supported();
        geometry.check()?;
        if !geometry.is_depthwise() {
            return Err(KernelError::Geometry(format!(
                "a depthwise convolution has as many groups and outputs as inputs, got {} inputs, {} outputs, {} groups",
                geometry.in_c, geometry.out_c, geometry.groups
            )));
        }
        expect_len("weights", weights.len(), geometry.weights_len())?;
        epilogue.check(geometry.out_c)?;
        let bias = fold_zero(weights, geometry.depth(), bias, geometry.out_c, x_zero)?;
        Ok(QDepthwise { geometry, x_zero, bias, epilogue, weights: weights.to_vec() })
    }

    /// The sizes it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// Bytes of scratch that [`QDepthwise::run`] needs on a pool of `threads`.
    #[must_use]
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        let _ = threads;
        0
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
        scalar::run(g, x, self.x_zero, &self.weights, &self.bias, &self.epilogue, y, pool);
        Ok(())
    }
}

//! Two-dimensional convolution, dense and grouped.
//!
//! Depthwise convolution has a kernel of its own in [`super::depthwise`].

mod direct;
mod unfold;

use super::Clamp;
use super::winograd::Winograd;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};
use direct::Direct;

/// A convolution with its weights packed for one instruction set.
#[derive(Debug, Clone)]
pub struct Conv {
    geometry: ConvGeometry,
    method: Method,
}

#[derive(Debug, Clone)]
enum Method {
    Direct(Direct),
    Winograd(Winograd),
}

impl Conv {
    /// Packs `weights`, `[out_c, kernel[0], kernel[1], in_c / groups]`, and `bias`, `[out_c]`, for `isa` (or the best set
    /// below it that this machine has). Takes the method that is likely to be the fastest: results of large 3×3 windows may be less
    /// accurate than a plain sum, see [`Conv::pack_exact`].
    ///
    /// # Errors
    /// [`KernelError`] when the geometry contradicts itself, an argument has another length than it says, or an image has 2^28
    /// values or more.
    pub fn pack(
        isa: Isa,
        geometry: ConvGeometry,
        weights: &[f32],
        bias: Option<&[f32]>,
        clamp: Clamp,
    ) -> Result<Conv, KernelError> {
        check(&geometry, weights, bias)?;
        let isa = isa.or_supported();
        if Winograd::pays(isa, &geometry) {
            let method = Method::Winograd(Winograd::pack(isa, geometry, weights, bias, clamp));
            return Ok(Conv { geometry, method });
        }
        Conv::pack_exact(isa, geometry, weights, bias, clamp)
    }

    /// Like [`Conv::pack`], but every result is a plain sum of products: exact for integers while no partial sum reaches 2^24.
    ///
    /// # Errors
    /// As [`Conv::pack`].
    pub fn pack_exact(
        isa: Isa,
        geometry: ConvGeometry,
        weights: &[f32],
        bias: Option<&[f32]>,
        clamp: Clamp,
    ) -> Result<Conv, KernelError> {
        check(&geometry, weights, bias)?;
        let method = Method::Direct(Direct::pack(isa, geometry, weights, bias, clamp)?);
        Ok(Conv { geometry, method })
    }

    /// The geometry it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// How many values of scratch [`Conv::run`] needs on a pool of at most so many threads.
    #[must_use]
    pub fn scratch_len(&self, threads: usize) -> usize {
        match &self.method {
            Method::Direct(_) => 0,
            Method::Winograd(winograd) => winograd.scratch_len(threads),
        }
    }

    /// Computes `y = clamp(conv(x) + bias + residual)` for `x` `[batch, in_h, in_w, in_c]` and `y` and `residual`
    /// `[batch, out_h, out_w, out_c]`. `scratch` has at least [`Conv::scratch_len`] values. Allocates nothing.
    ///
    /// # Errors
    /// [`KernelError::Length`] when a slice does not have the length the geometry implies.
    pub fn run(
        &self,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        match &self.method {
            Method::Direct(direct) => direct.run(x, residual, y, pool),
            Method::Winograd(winograd) => winograd.run(x, residual, y, scratch, pool),
        }
    }
}

fn check(geometry: &ConvGeometry, weights: &[f32], bias: Option<&[f32]>) -> Result<(), KernelError> {
    geometry.check()?;
    expect_len("weights", weights.len(), geometry.weights_len())?;
    bias.map_or(Ok(()), |bias| expect_len("bias", bias.len(), geometry.out_c))
}

#[cfg(test)]
pub(crate) mod tests;

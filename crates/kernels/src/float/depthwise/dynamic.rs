//! Depthwise convolution by weights that come with every run.

use super::{Layer, check, pack, padded};
use crate::aligned::Aligned;
use crate::float::Clamp;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// A depthwise convolution planned for one instruction set, whose weights are packed into scratch by every run.
#[derive(Debug, Clone)]
pub struct DynamicDepthwise {
    isa: Isa,
    geometry: ConvGeometry,
    clamp: Clamp,
    reversed: bool,
    zeros: Aligned<f32>,
}

impl DynamicDepthwise {
    /// For `isa`, or the best set below it that this machine has.
    ///
    /// # Errors
    /// [`KernelError`] when the geometry contradicts itself or is not depthwise.
    pub fn new(isa: Isa, geometry: ConvGeometry, clamp: Clamp) -> Result<DynamicDepthwise, KernelError> {
        DynamicDepthwise::with(isa, geometry, clamp, false)
    }

    /// [`DynamicDepthwise::new`], by windows whose taps are those of the weights in reverse.
    pub(super) fn with(
        isa: Isa,
        geometry: ConvGeometry,
        clamp: Clamp,
        reversed: bool,
    ) -> Result<DynamicDepthwise, KernelError> {
        check(&geometry)?;
        let zeros = Aligned::zeros(padded(&geometry));
        Ok(DynamicDepthwise { isa: isa.or_supported(), geometry, clamp, reversed, zeros })
    }

    /// The geometry it was planned for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// How many values of scratch [`DynamicDepthwise::run`] needs.
    #[must_use]
    pub fn scratch_len(&self) -> usize {
        padded(&self.geometry) * (self.geometry.taps() + 1)
    }

    /// As [`super::Depthwise::run`], with weights `[channels, 1, kernel[0], kernel[1]]` and a bias of `[channels]`.
    ///
    /// # Errors
    /// [`KernelError::Length`] when a slice does not have the length the geometry implies.
    pub fn run(
        &self,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let geometry = &self.geometry;
        expect_len("weights", weights.len(), geometry.weights_len())?;
        bias.map_or(Ok(()), |bias| expect_len("bias", bias.len(), geometry.out_c))?;
        let least = self.scratch_len();
        if scratch.len() < least {
            return Err(KernelError::Length { what: "scratch", expected: least, found: scratch.len() });
        }
        let (packed, biases) = scratch[..least].split_at_mut(least - padded(geometry));
        pack(geometry, weights, self.reversed, packed);
        biases.fill(0.0);
        if let Some(bias) = bias {
            biases[..bias.len()].copy_from_slice(bias);
        }
        let layer = Layer { geometry, clamp: self.clamp, weights: packed, bias: biases, zeros: &self.zeros };
        layer.run(self.isa, x, y, pool)
    }
}

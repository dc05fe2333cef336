//! Convolution by weights that come with every run, as in training.

use super::{FilterLayout, Method, Sums};
use crate::float::Clamp;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// A convolution planned for one instruction set, whose weights are packed into scratch by every run.
#[derive(Debug, Clone)]
pub struct DynamicConv {
    geometry: ConvGeometry,
    layout: FilterLayout,
    method: Method,
}

impl DynamicConv {
    /// For weights that lie as `layout` says.
    ///
    /// # Errors
    /// [`KernelError`] when the geometry contradicts itself or an image has 2^28 values or more.
    pub fn new(
        isa: Isa,
        geometry: ConvGeometry,
        layout: FilterLayout,
        clamp: Clamp,
        sums: Sums,
    ) -> Result<DynamicConv, KernelError> {
        geometry.check()?;
        Ok(DynamicConv { geometry, layout, method: Method::new(isa, geometry, clamp, sums)? })
    }

    /// The geometry it was planned for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// Whether results are those of a transform rather than plain sums.
    #[must_use]
    pub fn is_transformed(&self) -> bool {
        matches!(self.method, Method::Winograd(_))
    }

    /// Whether factors are rounded to bfloat16.
    #[must_use]
    pub fn is_rounded(&self) -> bool {
        matches!(self.method, Method::Rounded(_))
    }

    /// How many values of scratch [`DynamicConv::run`] needs on a pool of at most so many threads.
    #[must_use]
    pub fn scratch_len(&self, threads: usize) -> usize {
        self.weights_len() + self.bias_len() + self.method.scratch_len(threads)
    }

    /// Packed weights, and what keeps what follows on a cache line.
    fn weights_len(&self) -> usize {
        self.method.weights_len().next_multiple_of(16)
    }

    fn bias_len(&self) -> usize {
        self.method.bias_len().next_multiple_of(16)
    }

    /// As [`super::Conv::run`], with weights that lie as was planned and a bias of `[out_c]`.
    ///
    /// # Errors
    /// [`KernelError`] when a slice does not have the length the geometry implies or does not contain the weights.
    pub fn run(
        &self,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        self.layout.check(&self.geometry, weights.len())?;
        bias.map_or(Ok(()), |bias| expect_len("bias", bias.len(), self.geometry.out_c))?;
        let least = self.weights_len() + self.bias_len();
        if scratch.len() < least {
            return Err(KernelError::Length { what: "scratch", expected: least, found: scratch.len() });
        }
        let (packed, scratch) = scratch.split_at_mut(self.weights_len());
        let (biases, scratch) = scratch.split_at_mut(self.bias_len());
        let packed = &mut packed[..self.method.weights_len()];
        match &self.method {
            Method::Direct(direct) => direct.pack_weights(weights, &self.layout, packed, pool),
            Method::Winograd(winograd) => winograd.pack_weights(weights, &self.layout, packed, pool),
            Method::Rounded(windows) => windows.pack_weights(weights, &self.layout, packed, pool),
        }
        let biases = match bias {
            Some(bias) => {
                let biases = &mut biases[..self.method.bias_len()];
                self.method.pack_bias(bias, biases);
                &*biases
            }
            None => &[],
        };
        self.method.run(packed, biases, x, residual, y, scratch, pool)
    }
}

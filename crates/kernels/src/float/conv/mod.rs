//! Two-dimensional convolution, dense and grouped, by weights that are packed once or that come with every run, and the gradient of its
//! weights.
//!
//! Depthwise convolution has a kernel of its own in [`super::depthwise`].

mod direct;
mod dynamic;
mod filters;
mod rows;
mod transposed;
mod unfold;
mod weight_grad;

pub use dynamic::DynamicConv;
pub use filters::FilterLayout;
pub use transposed::TransposedConv;
pub use weight_grad::ConvWeightGrad;

use super::Clamp;
use super::bf16::windows::Windows;
use super::winograd::Winograd;
use crate::aligned::Aligned;
use crate::prepacked::Tag;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};
use direct::Direct;

/// How the products of a convolution are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// By the method that is likely to be the fastest: results of large 3×3 windows may be less accurate than a plain sum.
    Fastest,
    /// Every result is a plain sum of products: exact for integers while no partial sum reaches 2^24.
    Plain,
    /// Plain sums of factors that are rounded to bfloat16, where the machine has instructions for it and gains by them, and that are not
    /// rounded elsewhere. As exact for integers of magnitudes up to 256, which rounding does not change; about 0.4 % off for other factors.
    Rounded,
}

/// A convolution with its weights packed for one instruction set.
#[derive(Debug, Clone)]
pub struct Conv {
    geometry: ConvGeometry,
    method: Method,
    weights: Aligned<f32>,
    /// Padded; empty for none.
    bias: Aligned<f32>,
}

#[derive(Debug, Clone)]
enum Method {
    Direct(Direct),
    Winograd(Winograd),
    Rounded(Windows),
}

impl Method {
    /// The fastest for a checked geometry that gives such sums.
    fn new(isa: Isa, geometry: ConvGeometry, clamp: Clamp, sums: Sums) -> Result<Method, KernelError> {
        let isa = isa.or_supported();
        match sums {
            Sums::Fastest if Winograd::pays(isa, &geometry) => {
                Ok(Method::Winograd(Winograd::new(isa, geometry, clamp)))
            }
            Sums::Rounded if Windows::pays(isa, &geometry) => Ok(Method::Rounded(Windows::new(geometry, clamp))),
            _ => Ok(Method::Direct(Direct::new(isa, geometry, clamp, None)?)),
        }
    }

    fn weights_len(&self) -> usize {
        match self {
            Method::Direct(direct) => direct.weights_len(),
            Method::Winograd(winograd) => winograd.weights_len(),
            Method::Rounded(windows) => windows.weights_len(),
        }
    }

    fn bias_len(&self) -> usize {
        match self {
            Method::Direct(direct) => direct.bias_len(),
            Method::Winograd(winograd) => winograd.bias_len(),
            Method::Rounded(windows) => windows.bias_len(),
        }
    }

    fn pack_bias(&self, bias: &[f32], into: &mut [f32]) {
        match self {
            Method::Direct(direct) => direct.pack_bias(bias, into),
            Method::Winograd(_) | Method::Rounded(_) => {
                into[..bias.len()].copy_from_slice(bias);
                into[bias.len()..].fill(0.0);
            }
        }
    }

    fn scratch_len(&self, threads: usize) -> usize {
        match self {
            Method::Direct(_) => 0,
            Method::Winograd(winograd) => winograd.scratch_len(threads),
            Method::Rounded(windows) => windows.scratch_len(threads),
        }
    }

    /// As [`Conv::run`], with packed weights and bias.
    fn run(
        &self,
        weights: &[f32],
        bias: &[f32],
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        match self {
            Method::Direct(direct) => direct.run(weights, bias, x, residual, y, pool),
            Method::Winograd(winograd) => winograd.run(weights, bias, x, residual, y, scratch, pool),
            Method::Rounded(windows) => windows.run(weights, bias, x, residual, y, scratch, pool),
        }
    }
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
        Conv::with(isa, geometry, weights, bias, clamp, Sums::Fastest)
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
        Conv::with(isa, geometry, weights, bias, clamp, Sums::Plain)
    }

    fn with(
        isa: Isa,
        geometry: ConvGeometry,
        weights: &[f32],
        bias: Option<&[f32]>,
        clamp: Clamp,
        sums: Sums,
    ) -> Result<Conv, KernelError> {
        geometry.check()?;
        expect_len("weights", weights.len(), geometry.weights_len())?;
        bias.map_or(Ok(()), |bias| expect_len("bias", bias.len(), geometry.out_c))?;
        let method = Method::new(isa, geometry, clamp, sums)?;
        let tag = Tag::new(
            "conv f32",
            &[geometry.depth(), geometry.out_c, geometry.groups, usize::from(matches!(method, Method::Winograd(_)))],
        );
        let packed = Aligned::packed(tag, method.weights_len(), |packed| {
            let (layout, pool) = (FilterLayout::channels_last(&geometry), Pool::new(1));
            match &method {
                Method::Direct(direct) => direct.pack_weights(weights, &layout, packed, &pool),
                Method::Winograd(winograd) => winograd.pack_weights_once(weights, packed),
                Method::Rounded(windows) => windows.pack_weights(weights, &layout, packed, &pool),
            }
        });
        let mut biases = Aligned::zeros(bias.map_or(0, |_| method.bias_len()));
        if let Some(bias) = bias {
            method.pack_bias(bias, &mut biases);
        }
        Ok(Conv { geometry, method, weights: packed, bias: biases })
    }

    /// The geometry it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// How many values of scratch [`Conv::run`] needs on a pool of at most so many threads.
    #[must_use]
    pub fn scratch_len(&self, threads: usize) -> usize {
        self.method.scratch_len(threads)
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
        self.method.run(&self.weights, &self.bias, x, residual, y, scratch, pool)
    }
}

#[cfg(test)]
pub(crate) mod tests;

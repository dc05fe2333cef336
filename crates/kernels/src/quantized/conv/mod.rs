//! Convolution and matrix product of bytes by 8-bit weights.
//!
//! A convolution is a matrix product whose left side is never stored: the rows of a block of output pixels are
//! gathered into scratch that stays in cache (`rows.rs`), or read from a padded copy of the image (`image.rs`), and multiplied by
//! panels of weights packed once for the instruction set at hand. A pointwise convolution reads its rows where they lie.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "x86_64")]
mod fold;
pub(super) mod image;
mod layout;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
mod panels;
pub(super) mod rows;
pub(super) mod scalar;
mod walk;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

use panels::Panels;

use super::IntegerSource;
use super::elementwise::QPRelu;
use super::epilogue::{Epilogue, Output, Residual};
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::geometry::ConvGeometry;
use crate::pool::Pool;
use crate::prepacked::{self, Tag};

/// A two-dimensional convolution (dense, pointwise or grouped) with its weights packed.
#[derive(Debug, Clone)]
pub struct QConv {
    geometry: ConvGeometry,
    x_zero: u8,
    /// `bias[c] − x_zero·Σ w[c]`.
    bias: Vec<i32>,
    epilogue: Epilogue,
    /// Applied to the results before anything is added.
    prelu: Option<QPRelu>,
    weights: Weights,
}

#[derive(Debug, Clone)]
enum Weights {
    /// As they came, for the scalar loop.
    Plain(Vec<i8>),
    Panels(Panels),
}

impl QConv {
    /// Packs `weights`, `[out_c, kernel rows, kernel columns, in_c / groups]`, for `isa`.
    ///
    /// `bias` has one value per output channel, in units of `x_scale·w_scale[c]`; `x_zero` is the stored value
    /// that means zero, which taps in the padding read.
    ///
    /// # Errors
    /// When the geometry or a length is inconsistent, a scale is not finite, or the sum of a channel could leave
    /// the range of `i32`. Weights that are not read, because they were packed before ([`crate::prepacked`]), are not checked.
    pub fn pack(
        isa: Isa,
        geometry: ConvGeometry,
        weights: IntegerSource<'_>,
        bias: Option<&[i32]>,
        x_zero: u8,
        epilogue: Epilogue,
    ) -> Result<QConv, KernelError> {
        geometry.check()?;
        epilogue.check(geometry.out_c)?;
        let bias = prepacked::integers(Tag::new("bias u8", &[x_zero.into()]), geometry.out_c, || {
            expect_len("weights", weights.len(), geometry.weights_len())?;
            fold_zero(weights, geometry.depth(), bias, geometry.out_c, x_zero)
        })?;
        let panels = Panels::pack(isa.or_supported(), &geometry, weights, &bias, &epilogue);
        let weights = panels.map_or_else(|| Weights::Plain(weights.to_vec()), Weights::Panels);
        Ok(QConv { geometry, x_zero, bias, epilogue, prelu: None, weights })
    }

    /// The same with a function applied to its results while they are in registers.
    ///
    /// # Errors
    /// When there is not one finite slope per output channel, a clip is empty, or the results are real numbers, go through a
    /// table or have another zero.
    pub fn with_prelu(self, prelu: QPRelu) -> Result<QConv, KernelError> {
        prelu.check(self.geometry.out_c)?;
        if !matches!(&self.epilogue, Epilogue::Requantize(to) if to.table.is_none() && to.zero == prelu.x_zero) {
            return Err(KernelError::Unsupported(
                "a PReLU follows bytes with its zero that go through no table".into(),
            ));
        }
        Ok(QConv { prelu: Some(prelu), ..self })
    }

    /// The sizes it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// Bytes of scratch that [`QConv::run`] needs on a pool of at most `threads`.
    #[must_use]
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        match &self.weights {
            Weights::Plain(_) => 0,
            Weights::Panels(panels) => panels.scratch_bytes(&self.geometry, threads),
        }
    }

    /// Convolves `x`, `[batch, in_h, in_w, in_c]`, into `y`, `[batch, out_h, out_w, out_c]`.
    ///
    /// `scratch` holds at least [`QConv::scratch_bytes`] bytes for the pool's number of threads; what it contains
    /// does not matter. Allocates nothing.
    ///
    /// # Errors
    /// When a length is wrong or `y` is not of the kind the epilogue writes.
    pub fn run(&self, x: &[u8], y: Output<'_>, scratch: &mut [u8], pool: &Pool) -> Result<(), KernelError> {
        self.run_adding(x, None, y, scratch, pool)
    }

    /// [`QConv::run`] with values added to the results while they are in registers.
    ///
    /// # Errors
    /// As [`QConv::run`]; when the residual has another length than the output, its constants are out of range, or the
    /// results are real numbers.
    pub fn run_adding(
        &self,
        x: &[u8],
        residual: Option<Residual<'_>>,
        y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let g = &self.geometry;
        expect_len("input", x.len(), g.input_len())?;
        self.epilogue.check_output(&y, g.output_len())?;
        if let Some(residual) = residual {
            expect_len("residual", residual.values.len(), g.output_len())?;
            residual.add.check()?;
            if matches!(y, Output::F32(_)) {
                return Err(KernelError::Unsupported("quantized values cannot be added to real results".into()));
            }
        }
        let need = self.scratch_bytes(pool.threads());
        if scratch.len() < need {
            expect_len("scratch", scratch.len(), need)?;
        }
        match &self.weights {
            Weights::Plain(weights) => {
                let after = After { prelu: self.prelu.as_ref(), residual };
                scalar::run(g, x, self.x_zero, weights, &self.bias, &self.epilogue, after, y, pool);
            }
            Weights::Panels(panels) => {
                let after = After { prelu: self.prelu.as_ref(), residual };
                panels.run(g, x, self.x_zero, &self.epilogue, after, y, scratch, pool);
            }
        }
        Ok(())
    }
}

/// What becomes of bytes before they are stored.
#[derive(Clone, Copy, Default)]
pub(crate) struct After<'a> {
    pub(crate) prelu: Option<&'a QPRelu>,
    pub(crate) residual: Option<Residual<'a>>,
}

/// Folds the input's zero into the bias, `bias[c] − x_zero·Σ w[c]`, after proving that no sum leaves `i32`.
///
/// `weights` are `depth` values per channel. The folded bias may wrap; so may sums that start from it, and as
/// the true sum fits, the wrapped one is the true one.
pub(crate) fn fold_zero(
    weights: &[i8],
    depth: usize,
    bias: Option<&[i32]>,
    channels: usize,
    x_zero: u8,
) -> Result<Vec<i32>, KernelError> {
    if let Some(bias) = bias {
        expect_len("bias", bias.len(), channels)?;
    }
    let reach = i64::from(x_zero.max(255 - x_zero));
    // What most layers cannot exceed, whatever their weights are.
    let most = (depth as i64).saturating_mul(128 * reach);
    (0..channels)
        .map(|channel| {
            let weights = &weights[channel * depth..(channel + 1) * depth];
            let bias = bias.map_or(0, |bias| i64::from(bias[channel]));
            if most.saturating_add(bias.abs()) > i64::from(i32::MAX) {
                let bound = sum(weights, i32::abs) * reach + bias.abs();
                if bound > i64::from(i32::MAX) {
                    return Err(KernelError::Overflow { channel, bound });
                }
            }
            let shift = if x_zero == 0 { 0 } else { i64::from(x_zero) * sum(weights, |w| w) };
            Ok((bias - shift) as i32)
        })
        .collect()
}

/// Makes up in the bias, one value for each channel of `depth` weights, for 128 that a kernel takes from every byte of the input.
pub(crate) fn fold_signed(weights: &[i8], depth: usize, bias: &mut [i32]) {
    for (bias, weights) in bias.iter_mut().zip(weights.chunks_exact(depth)) {
        let sum: i32 = weights.iter().map(|w| i32::from(*w)).sum();
        *bias = bias.wrapping_add(sum.wrapping_mul(128));
    }
}

/// The sum of a term for each weight, in pieces short enough for sums in 32 bits, of which more fit a register.
fn sum(weights: &[i8], term: impl Fn(i32) -> i32) -> i64 {
    weights.chunks(1 << 20).map(|piece| i64::from(piece.iter().map(|w| term(i32::from(*w))).sum::<i32>())).sum()
}

#[cfg(test)]
mod tests;

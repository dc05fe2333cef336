//! Depthwise convolution: a window of its own for every channel.
//!
//! Vectors run over channels, which lie side by side. A tile is a few output pixels of one row; each input vector it
//! loads serves all the windows that overlap there. Weights are packed once, or by every run, as in training; there is the transpose, which is
//! the gradient of the input, and the gradient of the weights.

mod dynamic;
mod tile;
mod transposed;
mod weight_grad;

pub use dynamic::DynamicDepthwise;
pub use transposed::TransposedDepthwise;
pub use weight_grad::DepthwiseWeightGrad;

use super::Clamp;
use super::simd::{Kernel, Simd, dispatch};
use crate::aligned::Aligned;
use crate::pool::SharedMut;
use crate::prepacked::Tag;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// A depthwise convolution with its weights packed for one instruction set.
#[derive(Debug, Clone)]
pub struct Depthwise {
    isa: Isa,
    geometry: ConvGeometry,
    clamp: Clamp,
    /// For each tap, the weights of all channels, padded to a whole vector.
    weights: Aligned<f32>,
    /// Padded like the weights of one tap; zeros for none.
    bias: Aligned<f32>,
    /// What padding reads: one pixel.
    zeros: Aligned<f32>,
}

/// Channels, padded to whole vectors.
fn padded(geometry: &ConvGeometry) -> usize {
    geometry.in_c.next_multiple_of(16)
}

/// Packs `[channels, taps]` for each tap, or each tap in reverse, zeros where there is no channel.
fn pack(geometry: &ConvGeometry, weights: &[f32], reversed: bool, into: &mut [f32]) {
    let (channels, taps) = (geometry.in_c, geometry.taps());
    for (tap, line) in into.chunks_exact_mut(padded(geometry)).enumerate() {
        let tap = if reversed { taps - 1 - tap } else { tap };
        for (c, value) in line[..channels].iter_mut().enumerate() {
            *value = weights[c * taps + tap];
        }
        line[channels..].fill(0.0);
    }
}

/// That a geometry is consistent and depthwise.
fn check(geometry: &ConvGeometry) -> Result<(), KernelError> {
    geometry.check()?;
    if geometry.is_depthwise() {
        return Ok(());
    }
    Err(KernelError::Geometry(format!(
        "{} groups of {} to {} channels are not depthwise",
        geometry.groups, geometry.in_c, geometry.out_c
    )))
}

/// A layer while it runs: fields as in [`Depthwise`].
#[derive(Clone, Copy)]
struct Layer<'a> {
    geometry: &'a ConvGeometry,
    clamp: Clamp,
    weights: &'a [f32],
    bias: &'a [f32],
    zeros: &'a [f32],
}

impl Layer<'_> {
    /// As [`Depthwise::run`].
    fn run(self, isa: Isa, x: &[f32], y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
        let geometry = self.geometry;
        // Few channels fill narrower vectors better.
        let isa = if isa == Isa::Avx512 && geometry.in_c < 16 { Isa::Avx2.or_supported() } else { isa };
        expect_len("input", x.len(), geometry.input_len())?;
        expect_len("output", y.len(), geometry.output_len())?;
        let rows = geometry.batch * geometry.out_h;
        let row_len = geometry.out_w * geometry.out_c;
        let per_chunk = match pool.threads() {
            1 => rows,
            threads => rows.div_ceil(threads * 3),
        };
        let out = SharedMut::new(y);
        pool.run(rows.div_ceil(per_chunk), &|chunk| {
            let first = chunk * per_chunk;
            let last = (first + per_chunk).min(rows);
            // SAFETY: chunks are distinct ranges of rows.
            let y = unsafe { out.slice(first * row_len..last * row_len) };
            dispatch(isa, OutputRows { layer: self, x, y, first });
        });
        Ok(())
    }
}

impl Depthwise {
    /// Packs `weights`, `[out_c, kernel[0], kernel[1], 1]`, and `bias`, `[out_c]`, for `isa` (or the best set below it that this
    /// machine has).
    ///
    /// # Errors
    /// [`KernelError`] when the geometry contradicts itself or is not depthwise, or an argument has another length than it says.
    pub fn pack(
        isa: Isa,
        geometry: ConvGeometry,
        weights: &[f32],
        bias: Option<&[f32]>,
        clamp: Clamp,
    ) -> Result<Depthwise, KernelError> {
        check(&geometry)?;
        expect_len("weights", weights.len(), geometry.weights_len())?;
        if let Some(bias) = bias {
            expect_len("bias", bias.len(), geometry.out_c)?;
        }
        let isa = isa.or_supported();
        let padded = padded(&geometry);
        let tag = Tag::new("depthwise f32", &[geometry.out_c, geometry.kernel[0], geometry.kernel[1], padded]);
        let packed = Aligned::packed(tag, padded * geometry.taps(), |packed| pack(&geometry, weights, false, packed));
        let mut biases = Aligned::zeros(padded);
        if let Some(bias) = bias {
            biases[..bias.len()].copy_from_slice(bias);
        }
        Ok(Depthwise { isa, geometry, clamp, weights: packed, bias: biases, zeros: Aligned::zeros(padded) })
    }

    /// The geometry it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// Computes `y = clamp(conv(x) + bias)` for `x` `[batch, in_h, in_w, c]` and `y` `[batch, out_h, out_w, c]`. Allocates nothing.
    ///
    /// # Errors
    /// [`KernelError::Length`] when a slice does not have the length the geometry implies.
    pub fn run(&self, x: &[f32], y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
        let Depthwise { isa, geometry, clamp, weights, bias, zeros } = self;
        Layer { geometry, clamp: *clamp, weights, bias, zeros }.run(*isa, x, y, pool)
    }
}

/// Whole rows of results, from row `first` of all images.
struct OutputRows<'a> {
    layer: Layer<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
    first: usize,
}

impl Kernel for OutputRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let geometry = self.layer.geometry;
        let row_len = geometry.out_w * geometry.out_c;
        for (i, y) in self.y.chunks_exact_mut(row_len).enumerate() {
            let row = self.first + i;
            let (image, row) = (row / geometry.out_h, row % geometry.out_h);
            let step = geometry.in_h * geometry.in_w * geometry.in_c;
            let x = &self.x[image * step..][..step];
            tile::row(simd, self.layer, x, row, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::conv::tests::{geometries, reference};
    use crate::float::testing::{assert_close, noise};

    fn compare(geometry: ConvGeometry, clamp: Clamp, with_bias: bool) {
        let x = noise(1, geometry.input_len());
        let weights = noise(2, geometry.weights_len());
        let bias = with_bias.then(|| noise(3, geometry.out_c));
        let (expected, magnitudes) = reference(&geometry, &x, &weights, bias.as_deref(), None, clamp);
        for isa in Isa::available() {
            let layer = Depthwise::pack(isa, geometry, &weights, bias.as_deref(), clamp).unwrap();
            let dynamic = DynamicDepthwise::new(isa, geometry, clamp).unwrap();
            for threads in 1..=3 {
                let mut y = vec![f32::NAN; geometry.output_len()];
                layer.run(&x, &mut y, &Pool::kept(threads)).unwrap();
                assert_close(&y, &expected, &magnitudes, &format!("{} {threads} {geometry:?}", isa.name()));
                let mut again = vec![f32::NAN; geometry.output_len()];
                let mut scratch = vec![f32::NAN; dynamic.scratch_len()];
                dynamic.run(&weights, bias.as_deref(), &x, &mut again, &mut scratch, &Pool::kept(threads)).unwrap();
                assert_eq!(y, again);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_set_agrees_with_the_reference(geometry in geometries(), channels in 1..=70usize, bias: bool, relu: bool) {
            let geometry = ConvGeometry { in_c: channels, out_c: channels, groups: channels, ..geometry };
            compare(geometry, if relu { Clamp::RELU6 } else { Clamp::NONE }, bias);
        }

        #[test]
        fn square_windows_agree_at_every_width(
            width in 1..=20usize, channels in 1..=40usize, kernel in 1..=7usize, stride in 1..=3usize,
        ) {
            let out = |size: usize| (size + 2 * (kernel / 2) - kernel) / stride + 1;
            let geometry = ConvGeometry {
                batch: 1, in_h: 5, in_w: width, in_c: channels, out_h: out(5), out_w: out(width), out_c: channels,
                kernel: [kernel; 2], stride: [stride; 2], dilation: [1, 1], pad_top: kernel / 2, pad_left: kernel / 2, groups: channels,
            };
            compare(geometry, Clamp::RELU, true);
        }
    }

    #[test]
    fn what_is_not_depthwise_is_refused() {
        let geometry = ConvGeometry {
            batch: 1,
            in_h: 3,
            in_w: 3,
            in_c: 4,
            out_h: 3,
            out_w: 3,
            out_c: 8,
            kernel: [1, 1],
            stride: [1, 1],
            dilation: [1, 1],
            pad_top: 0,
            pad_left: 0,
            groups: 4,
        };
        let packed = Depthwise::pack(Isa::Scalar, geometry, &[0.0; 8], None, Clamp::NONE);
        assert!(matches!(packed, Err(KernelError::Geometry(_))));
        let geometry = ConvGeometry { out_c: 4, ..geometry };
        let layer = Depthwise::pack(Isa::Scalar, geometry, &[0.0; 4], None, Clamp::NONE).unwrap();
        assert!(layer.run(&[0.0; 35], &mut [0.0; 36], &Pool::new(1)).is_err());
    }
}

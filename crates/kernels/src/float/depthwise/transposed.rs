//! The transpose of a depthwise convolution by its input: the gradient of its input.
//!
//! With a stride of 1 it is the convolution by the reversed window. Else every result gathers from those taps that met it.

use super::{DynamicDepthwise, check, pack, padded};
use crate::float::Clamp;
use crate::float::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// Taps of the largest window.
const TAPS: usize = 128;

/// The transpose of a depthwise convolution, planned for one instruction set.
#[derive(Debug, Clone)]
pub struct TransposedDepthwise {
    isa: Isa,
    forward: ConvGeometry,
    clamp: Clamp,
    /// With a stride of 1.
    reversed: Option<DynamicDepthwise>,
}

impl TransposedDepthwise {
    /// The transpose of the convolution with geometry `forward`.
    ///
    /// # Errors
    /// [`KernelError`] when the geometry contradicts itself or is not depthwise, or the window has more than 128 taps.
    pub fn new(isa: Isa, forward: ConvGeometry, clamp: Clamp) -> Result<TransposedDepthwise, KernelError> {
        check(&forward)?;
        if forward.taps() > TAPS {
            return Err(KernelError::Unsupported(format!("a window of {} taps, more than {TAPS}", forward.taps())));
        }
        let g = &forward;
        let pad = |axis: usize, pad: usize| ((g.kernel[axis] - 1) * g.dilation[axis]).checked_sub(pad);
        let reversed = match (g.stride, pad(0, g.pad_top), pad(1, g.pad_left)) {
            ([1, 1], Some(pad_top), Some(pad_left)) => {
                let geometry = ConvGeometry {
                    in_h: g.out_h,
                    in_w: g.out_w,
                    out_h: g.in_h,
                    out_w: g.in_w,
                    pad_top,
                    pad_left,
                    ..forward
                };
                Some(DynamicDepthwise::with(isa, geometry, clamp, true)?)
            }
            _ => None,
        };
        Ok(TransposedDepthwise { isa: isa.or_supported(), forward, clamp, reversed })
    }

    /// The geometry of the convolution that is transposed.
    #[must_use]
    pub fn forward(&self) -> &ConvGeometry {
        &self.forward
    }

    /// How many values of scratch [`TransposedDepthwise::run`] needs.
    #[must_use]
    pub fn scratch_len(&self) -> usize {
        padded(&self.forward) * (self.forward.taps() + 1)
    }

    /// Computes `y = clamp(transpose(x) + bias)` for `x` `[batch, out_h, out_w, c]` of the forward convolution, whose weights are `[c, 1, kernel[0],
    /// kernel[1]]`, and `y` `[batch, in_h, in_w, c]`. Allocates nothing.
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
        if let Some(conv) = &self.reversed {
            return conv.run(weights, bias, x, y, scratch, pool);
        }
        let g = &self.forward;
        expect_len("weights", weights.len(), g.weights_len())?;
        bias.map_or(Ok(()), |bias| expect_len("bias", bias.len(), g.in_c))?;
        expect_len("input", x.len(), g.output_len())?;
        expect_len("output", y.len(), g.input_len())?;
        let least = self.scratch_len();
        if scratch.len() < least {
            return Err(KernelError::Length { what: "scratch", expected: least, found: scratch.len() });
        }
        let (packed, biases) = scratch[..least].split_at_mut(least - padded(g));
        pack(g, weights, false, packed);
        biases.fill(0.0);
        if let Some(bias) = bias {
            biases[..bias.len()].copy_from_slice(bias);
        }
        let (packed, biases, out) = (&*packed, &*biases, SharedMut::new(y));
        let row = g.in_w * g.in_c;
        pool.run(g.batch * g.in_h, &|line| {
            // SAFETY: lines are distinct.
            let y = unsafe { out.slice(line * row..(line + 1) * row) };
            dispatch(self.isa, Line { plan: self, weights: packed, bias: biases, x, line, y });
        });
        Ok(())
    }
}

/// One row of results.
struct Line<'a> {
    plan: &'a TransposedDepthwise,
    weights: &'a [f32],
    bias: &'a [f32],
    x: &'a [f32],
    /// Its number among those of all images.
    line: usize,
    y: &'a mut [f32],
}

/// What a tap that meets a result read: a place of the forward convolution's output.
#[inline(always)]
fn met(at: usize, tap: usize, [pad, dilation, stride, size]: [usize; 4]) -> Option<usize> {
    let far = (at + pad).checked_sub(tap * dilation)?;
    (far.is_multiple_of(stride) && far / stride < size).then_some(far / stride)
}

impl Kernel for Line<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Line { plan, weights, bias, x, line, y } = self;
        let g = &plan.forward;
        let (image, row) = (line / g.in_h, line % g.in_h);
        let (lo, hi) = (s.splat(plan.clamp.lo), s.splat(plan.clamp.hi));
        let down_axis = [g.pad_top, g.dilation[0], g.stride[0], g.out_h];
        let right_axis = [g.pad_left, g.dilation[1], g.stride[1], g.out_w];
        for (col, y) in y.chunks_exact_mut(g.in_c).enumerate() {
            // Where each tap that meets this pixel reads, and its weights.
            let (mut taps, mut count) = ([(0, 0); TAPS], 0);
            for down in 0..g.kernel[0] {
                let Some(from) = met(row, down, down_axis) else { continue };
                for right in 0..g.kernel[1] {
                    let Some(column) = met(col, right, right_axis) else { continue };
                    let pixel = (image * g.out_h + from) * g.out_w + column;
                    taps[count] = (pixel * g.out_c, (down * g.kernel[1] + right) * bias.len());
                    count += 1;
                }
            }
            for (block, y) in y.chunks_mut(S::LANES).enumerate() {
                let c = block * S::LANES;
                let mut sum = s.load(&bias[c..]);
                for (pixel, tap) in &taps[..count] {
                    let from = &x[pixel + c..][..y.len()];
                    let value = if from.len() == S::LANES { s.load(from) } else { s.load_tail(from) };
                    sum = s.fma(value, s.load(&weights[tap + c..]), sum);
                }
                s.store_tail(y, s.clamp(sum, lo, hi));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::conv::tests::{geometries, transposed};
    use crate::float::testing::{assert_close, noise};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_set_agrees_with_the_reference(geometry in geometries(), channels in 1..=70usize, with_bias: bool) {
            let g = ConvGeometry { in_c: channels, out_c: channels, groups: channels, ..geometry };
            let (x, weights) = (noise(1, g.output_len()), noise(2, g.weights_len()));
            let bias = with_bias.then(|| noise(3, channels));
            let (expected, magnitudes) = transposed(&g, &x, &weights, bias.as_deref(), None);
            for isa in Isa::available() {
                let plan = TransposedDepthwise::new(isa, g, Clamp::NONE).unwrap();
                for threads in 1..=3 {
                    let mut y = vec![f32::NAN; g.input_len()];
                    let mut scratch = vec![f32::NAN; plan.scratch_len()];
                    plan.run(&weights, bias.as_deref(), &x, &mut y, &mut scratch, &Pool::kept(threads)).unwrap();
                    assert_close(&y, &expected, &magnitudes, &format!("{} {threads} {g:?}", isa.name()));
                }
            }
        }
    }
}

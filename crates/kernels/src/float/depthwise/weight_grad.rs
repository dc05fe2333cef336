//! The gradient of a depthwise convolution by its weights: for every channel and tap the product of the gradient with what the tap saw, summed over
//! the pixels of all images.
//!
//! All taps of a vector of channels are summed in registers. Images are cut into parts by their number alone, which are added in order: results
//! do not depend on the threads.

use std::ops::Range;

use super::{check, padded};
use crate::float::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// Parts of the images at most.
const PARTS: usize = 8;
/// Channels of a task.
const CHANNELS: usize = 64;

/// The gradient of the weights of a depthwise convolution, planned for one instruction set.
#[derive(Debug, Clone)]
pub struct DepthwiseWeightGrad {
    isa: Isa,
    geometry: ConvGeometry,
}

impl DepthwiseWeightGrad {
    /// For `isa`, or the best set below it that this machine has.
    ///
    /// # Errors
    /// [`KernelError`] when the geometry contradicts itself or is not depthwise.
    pub fn new(isa: Isa, geometry: ConvGeometry) -> Result<DepthwiseWeightGrad, KernelError> {
        check(&geometry)?;
        Ok(DepthwiseWeightGrad { isa: isa.or_supported(), geometry })
    }

    /// The geometry of the convolution.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// How many values of scratch [`DepthwiseWeightGrad::run`] needs.
    #[must_use]
    pub fn scratch_len(&self) -> usize {
        self.parts() * padded(&self.geometry) * self.geometry.taps()
    }

    fn parts(&self) -> usize {
        self.geometry.batch.min(PARTS)
    }

    /// Computes the gradient `dw`, `[c, 1, kernel[0], kernel[1]]`, from the input `x`, `[batch, in_h, in_w, c]`, and the gradient of the output `dy`,
    /// `[batch, out_h, out_w, c]`. Allocates nothing.
    ///
    /// # Errors
    /// [`KernelError::Length`] when a slice does not have the length the geometry implies.
    pub fn run(
        &self,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let g = &self.geometry;
        expect_len("input", x.len(), g.input_len())?;
        expect_len("gradient of the output", dy.len(), g.output_len())?;
        expect_len("gradient of the weights", dw.len(), g.weights_len())?;
        let least = self.scratch_len();
        if scratch.len() < least {
            return Err(KernelError::Length { what: "scratch", expected: least, found: scratch.len() });
        }
        let (parts, blocks, len) = (self.parts(), g.in_c.div_ceil(CHANNELS), padded(g) * g.taps());
        let partials = SharedMut::new(&mut scratch[..least]);
        pool.run(parts * blocks, &|task| {
            let (part, block) = (task / blocks, task % blocks * CHANNELS);
            let images = part * g.batch / parts..(part + 1) * g.batch / parts;
            let channels = block..g.in_c.min(block + CHANNELS);
            dispatch(self.isa, Sums { geometry: g, x, dy, images, channels, partials: &partials, at: part * len });
        });
        let partials = &scratch[..least];
        for (i, value) in dw.iter_mut().enumerate() {
            let (c, tap) = (i / g.taps(), i % g.taps());
            *value = partials.chunks_exact(len).map(|part| part[tap * padded(g) + c]).sum();
        }
        Ok(())
    }
}

/// The sums of some images for some channels.
struct Sums<'a> {
    geometry: &'a ConvGeometry,
    x: &'a [f32],
    dy: &'a [f32],
    images: Range<usize>,
    channels: Range<usize>,
    partials: &'a SharedMut<'a, f32>,
    /// Where the part's results are: for each tap all channels, padded.
    at: usize,
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for c in self.channels.clone().step_by(S::LANES) {
            match self.geometry.kernel {
                [3, 3] => s.vectorize(Vector::<3, 3> { sums: &self, c, taps: [0, 0] }),
                [1, 3] => s.vectorize(Vector::<1, 3> { sums: &self, c, taps: [0, 0] }),
                [3, 1] => s.vectorize(Vector::<3, 1> { sums: &self, c, taps: [0, 0] }),
                [kernel_h, kernel_w] => {
                    for (down, right) in (0..kernel_h).flat_map(|d| (0..kernel_w).map(move |r| (d, r))) {
                        s.vectorize(Vector::<1, 1> { sums: &self, c, taps: [down, right] });
                    }
                }
            }
        }
    }
}

/// One vector of channels for `KH` × `KW` taps.
struct Vector<'a, const KH: usize, const KW: usize> {
    sums: &'a Sums<'a>,
    c: usize,
    /// The first taps.
    taps: [usize; 2],
}

impl<const KH: usize, const KW: usize> Kernel for Vector<'_, KH, KW> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sums { geometry: g, x, dy, images, channels, partials, at } = self.sums;
        let (c, [top, left]) = (self.c, self.taps);
        let count = S::LANES.min(channels.end - c);
        let load = |from: &[f32], at: usize| {
            let from = &from[at..at + count];
            if count == S::LANES { s.load(from) } else { s.load_tail(from) }
        };
        let mut acc = [[s.splat(0.0); KW]; KH];
        for image in images.clone() {
            for row in 0..g.out_h {
                let mut rows = [None; KH];
                for (down, place) in rows.iter_mut().enumerate() {
                    *place = g.input_row(row, top + down).map(|r| (image * g.in_h + r) * g.in_w);
                }
                for col in 0..g.out_w {
                    let value = load(dy, ((image * g.out_h + row) * g.out_w + col) * g.out_c + c);
                    let mut cols = [None; KW];
                    for (right, place) in cols.iter_mut().enumerate() {
                        *place = g.input_col(col, left + right);
                    }
                    for down in 0..KH {
                        for right in 0..KW {
                            if let (Some(row), Some(col)) = (rows[down], cols[right]) {
                                acc[down][right] = s.fma(value, load(x, (row + col) * g.in_c + c), acc[down][right]);
                            }
                        }
                    }
                }
            }
        }
        for (down, line) in acc.into_iter().enumerate() {
            for (right, sum) in line.into_iter().enumerate() {
                let to = at + ((top + down) * g.kernel[1] + left + right) * padded(g) + c;
                // SAFETY: tasks have parts or channels of their own.
                s.store_tail(unsafe { partials.slice(to..to + count) }, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::conv::tests::geometries;
    use crate::float::conv::{ConvWeightGrad, FilterLayout, Sums};
    use crate::float::testing::noise;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_set_agrees_with_the_grouped_gradient(
            geometry in geometries(), channels in 1..=80usize, batch in 1..=9usize, three: bool,
        ) {
            let g = ConvGeometry { in_c: channels, out_c: channels, groups: channels, batch, ..geometry };
            let g = if three { ConvGeometry { kernel: [3, 3], ..g } } else { g };
            let (x, dy) = (noise(1, g.input_len()), noise(2, g.output_len()));
            let mut want = vec![f32::NAN; g.weights_len()];
            let grouped = ConvWeightGrad::new(Isa::Scalar, g, FilterLayout::planar(&g), Sums::Plain).unwrap();
            let mut scratch = vec![f32::NAN; grouped.scratch_len(1)];
            grouped.run(&x, &dy, &mut want, &mut scratch, &Pool::new(1)).unwrap();
            let most = g.batch as f32 * (g.out_h * g.out_w) as f32;
            for isa in Isa::available() {
                let plan = DepthwiseWeightGrad::new(isa, g).unwrap();
                let mut first: Option<Vec<f32>> = None;
                for threads in [1, 2, 5] {
                    let mut dw = vec![f32::NAN; g.weights_len()];
                    let mut scratch = vec![f32::NAN; plan.scratch_len()];
                    plan.run(&x, &dy, &mut dw, &mut scratch, &Pool::kept(threads)).unwrap();
                    for (found, want) in dw.iter().zip(&want) {
                        prop_assert!((found - want).abs() <= 1e-6 * most, "{} {found}, not {want} {g:?}", isa.name());
                    }
                    prop_assert_eq!(first.get_or_insert_with(|| dw.clone()), &dw);
                }
            }
        }
    }
}

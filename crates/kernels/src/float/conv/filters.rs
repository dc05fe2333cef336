//! Where the weights of a convolution lie: in the order of a model, reversed for a transposed convolution, or every other tap of that.

use crate::{ConvGeometry, KernelError};

/// The place of every weight in a slice: that of group `g`, output channel `o` and input channel `i` of the group, and the tap
/// `down`, `right` is at `offset + g·steps[0] + o·steps[1] + i·steps[2] + down·steps[3] + right·steps[4]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterLayout {
    /// The first weight.
    pub offset: usize,
    /// From one group, output channel, input channel, row and column of the window to the next.
    pub steps: [isize; 5],
}

impl FilterLayout {
    /// `[out_c, kernel[0], kernel[1], in_c / groups]`, the order that kernels are packed from.
    #[must_use]
    pub fn channels_last(g: &ConvGeometry) -> FilterLayout {
        let (inputs, width) = (g.group_in() as isize, g.kernel[1] as isize);
        let filter = g.depth() as isize;
        FilterLayout { offset: 0, steps: [g.group_out() as isize * filter, filter, 1, width * inputs, inputs] }
    }

    /// `[out_c, in_c / groups, kernel[0], kernel[1]]`, the order of models.
    #[must_use]
    pub fn planar(g: &ConvGeometry) -> FilterLayout {
        let (taps, filter) = (g.taps() as isize, g.depth() as isize);
        FilterLayout { offset: 0, steps: [g.group_out() as isize * filter, filter, taps, g.kernel[1] as isize, 1] }
    }

    /// Checks that a slice of `len` values contains every weight of a geometry.
    ///
    /// # Errors
    /// [`KernelError::Geometry`] when it does not.
    pub fn check(&self, g: &ConvGeometry, len: usize) -> Result<(), KernelError> {
        let counts = [g.groups, g.group_out(), g.group_in(), g.kernel[0], g.kernel[1]];
        if counts.contains(&0) {
            return Ok(());
        }
        let (mut least, mut most) = (self.offset as i128, self.offset as i128);
        for (step, count) in self.steps.iter().zip(counts) {
            let far = *step as i128 * (count as i128 - 1);
            least += far.min(0);
            most += far.max(0);
        }
        if least < 0 || most >= len as i128 {
            return Err(KernelError::Geometry(format!(
                "weights at {least} to {most} are not in a slice of {len} values"
            )));
        }
        Ok(())
    }

    /// The index of a weight; one that [`FilterLayout::check`] was satisfied with is in its slice.
    #[inline(always)]
    #[must_use]
    pub fn at(&self, group: usize, output: usize, input: usize, down: usize, right: usize) -> usize {
        let [a, b, c, d, e] = self.steps;
        let far =
            group as isize * a + output as isize * b + input as isize * c + down as isize * d + right as isize * e;
        self.offset.wrapping_add_signed(far)
    }
}

//! Sizes of a two-dimensional sliding window, shared by float and integer kernels.

use std::ops::Range;

use crate::KernelError;

/// The shape of a convolution or pooling over channels-last images.
///
/// Input is `[batch, in_h, in_w, in_c]`, output `[batch, out_h, out_w, out_c]`, weights
/// `[out_c, kernel[0], kernel[1], in_c / groups]`. What the window reads beyond the input counts as zero
/// (for pooling: is left out), so padding below and to the right needs no number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    /// Images per run.
    pub batch: usize,
    /// Input rows.
    pub in_h: usize,
    /// Input columns.
    pub in_w: usize,
    /// Input channels.
    pub in_c: usize,
    /// Output rows.
    pub out_h: usize,
    /// Output columns.
    pub out_w: usize,
    /// Output channels.
    pub out_c: usize,
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Steps of the window, down and right.
    pub stride: [usize; 2],
    /// Distance between neighbouring taps, down and right.
    pub dilation: [usize; 2],
    /// Rows of padding above the input.
    pub pad_top: usize,
    /// Columns of padding left of the input.
    pub pad_left: usize,
    /// Groups that channels fall into; 1 for a dense convolution.
    pub groups: usize,
}

impl ConvGeometry {
    /// The product `[rows, depth] × [depth, columns]` as a pointwise convolution.
    #[must_use]
    pub fn matmul(rows: usize, depth: usize, columns: usize) -> ConvGeometry {
        ConvGeometry {
            batch: 1,
            in_h: 1,
            in_w: rows,
            in_c: depth,
            out_h: 1,
            out_w: rows,
            out_c: columns,
            kernel: [1, 1],
            stride: [1, 1],
            dilation: [1, 1],
            pad_top: 0,
            pad_left: 0,
            groups: 1,
        }
    }

    /// Checks that the numbers agree with each other and that no size overflows.
    ///
    /// # Errors
    /// [`KernelError::Geometry`] with the first contradiction found.
    pub fn check(&self) -> Result<(), KernelError> {
        let fail = |why: String| Err(KernelError::Geometry(why));
        let positive = [
            ("batch", self.batch),
            ("in_h", self.in_h),
            ("in_w", self.in_w),
            ("in_c", self.in_c),
            ("out_h", self.out_h),
            ("out_w", self.out_w),
            ("out_c", self.out_c),
            ("kernel height", self.kernel[0]),
            ("kernel width", self.kernel[1]),
            ("stride down", self.stride[0]),
            ("stride right", self.stride[1]),
            ("dilation down", self.dilation[0]),
            ("dilation right", self.dilation[1]),
            ("groups", self.groups),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return fail(format!("{name} is 0"));
        }
        if !self.in_c.is_multiple_of(self.groups) || !self.out_c.is_multiple_of(self.groups) {
            return fail(format!(
                "{} input and {} output channels do not divide into {} groups",
                self.in_c, self.out_c, self.groups
            ));
        }
        let product = |sizes: &[usize]| {
            sizes
                .iter()
                .try_fold(1usize, |all, size| all.checked_mul(*size))
                .filter(|all| *all <= isize::MAX as usize / 8)
        };
        let sizes = [
            product(&[self.batch, self.in_h, self.in_w, self.in_c]),
            product(&[self.batch, self.out_h, self.out_w, self.out_c]),
            product(&[self.out_c, self.kernel[0], self.kernel[1], self.in_c / self.groups]),
            product(&[self.out_h, self.stride[0]]),
            product(&[self.out_w, self.stride[1]]),
            product(&[self.kernel[0], self.dilation[0]]),
            product(&[self.kernel[1], self.dilation[1]]),
        ];
        let small = [self.pad_top, self.pad_left].iter().all(|pad| *pad <= isize::MAX as usize / 8);
        if sizes.iter().any(Option::is_none) || !small {
            return fail("a size does not fit the address space".to_owned());
        }
        Ok(())
    }

    /// Values in the input.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.batch * self.in_h * self.in_w * self.in_c
    }

    /// Values in the output.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.batch * self.out_h * self.out_w * self.out_c
    }

    /// Values in the weights.
    #[must_use]
    pub fn weights_len(&self) -> usize {
        self.out_c * self.taps() * self.group_in()
    }

    /// Output pixels over the whole batch: the rows of the equivalent matrix product.
    #[must_use]
    pub fn out_pixels(&self) -> usize {
        self.batch * self.out_h * self.out_w
    }

    /// Products in one output value: taps times input channels of a group.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.taps() * self.group_in()
    }

    /// Positions in the window.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Input channels of one group.
    #[must_use]
    pub fn group_in(&self) -> usize {
        self.in_c / self.groups
    }

    /// Output channels of one group.
    #[must_use]
    pub fn group_out(&self) -> usize {
        self.out_c / self.groups
    }

    /// Whether every channel is convolved with a window of its own and nothing else.
    #[must_use]
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.in_c && self.out_c == self.in_c
    }

    /// Whether each output pixel reads exactly the input pixel at its own place.
    #[must_use]
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.stride == [1, 1]
            && (self.pad_top, self.pad_left) == (0, 0)
            && (self.in_h, self.in_w) == (self.out_h, self.out_w)
    }

    /// Multiply–accumulates of one run, padding included.
    #[must_use]
    pub fn macs(&self) -> usize {
        self.output_len() * self.taps() * self.group_in()
    }

    /// How many rows of the input, with those of padding, windows of `rows` rows of the output read.
    pub(crate) fn rows_under(&self, rows: usize) -> usize {
        (rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1
    }

    /// Rows of the output that are computed together: bands of about equal heights, the highest that fit; 1 if none does.
    pub(crate) fn band(&self, fits: impl Fn(usize) -> bool) -> usize {
        let most = (1..=self.out_h).rev().find(|rows| fits(*rows)).unwrap_or(1);
        self.out_h.div_ceil(self.out_h.div_ceil(most))
    }

    /// The input row that tap `tap` of output row `out` reads, if it is not padding.
    #[must_use]
    pub fn input_row(&self, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride[0] + tap * self.dilation[0]).checked_sub(self.pad_top).filter(|row| *row < self.in_h)
    }

    /// The input column that tap `tap` of output column `out` reads, if it is not padding.
    #[must_use]
    pub fn input_col(&self, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride[1] + tap * self.dilation[1]).checked_sub(self.pad_left).filter(|col| *col < self.in_w)
    }

    /// The taps of output row `out` that are not padding.
    #[must_use]
    pub fn row_taps(&self, out: usize) -> Range<usize> {
        taps_inside(out * self.stride[0], self.pad_top, self.in_h, self.dilation[0], self.kernel[0])
    }

    /// The taps of output column `out` that are not padding.
    #[must_use]
    pub fn col_taps(&self, out: usize) -> Range<usize> {
        taps_inside(out * self.stride[1], self.pad_left, self.in_w, self.dilation[1], self.kernel[1])
    }
}

/// The taps, of a window that starts at `start` of an axis with `pad` values before its `size`, that are on the axis.
fn taps_inside(start: usize, pad: usize, size: usize, dilation: usize, kernel: usize) -> Range<usize> {
    let first = pad.saturating_sub(start).div_ceil(dilation).min(kernel);
    let last = (pad + size).saturating_sub(start).div_ceil(dilation).min(kernel);
    first..last.max(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ConvGeometry = ConvGeometry {
        batch: 1,
        in_h: 5,
        in_w: 4,
        in_c: 6,
        out_h: 5,
        out_w: 4,
        out_c: 4,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pad_top: 1,
        pad_left: 1,
        groups: 2,
    };

    #[test]
    fn taps_in_the_padding_read_nothing() {
        assert_eq!(PLAIN.input_row(0, 0), None);
        assert_eq!(PLAIN.input_row(0, 1), Some(0));
        assert_eq!(PLAIN.input_row(4, 2), None);
        assert_eq!(PLAIN.input_col(3, 1), Some(3));
        assert_eq!(PLAIN.macs(), 5 * 4 * 4 * 9 * 3);
    }

    #[test]
    fn ranges_of_taps_are_those_that_read_something() {
        for i in 0..3 * 3 * 4 * 4 * 6 {
            let g = ConvGeometry {
                stride: [i % 3 + 1; 2],
                dilation: [i / 3 % 3 + 1; 2],
                pad_top: i / 9 % 4,
                pad_left: i / 9 % 4 + 1,
                kernel: [i / 36 % 4 + 1; 2],
                in_h: i / 144 + 1,
                ..PLAIN
            };
            for out in 0..9 {
                let rows: Vec<usize> = (0..g.kernel[0]).filter(|tap| g.input_row(out, *tap).is_some()).collect();
                assert_eq!(g.row_taps(out).collect::<Vec<_>>(), rows, "{g:?} row {out}");
                let cols: Vec<usize> = (0..g.kernel[1]).filter(|tap| g.input_col(out, *tap).is_some()).collect();
                assert_eq!(g.col_taps(out).collect::<Vec<_>>(), cols, "{g:?} column {out}");
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(PLAIN.check(), Ok(()));
        let cases = [
            ConvGeometry { groups: 4, ..PLAIN },
            ConvGeometry { stride: [0, 1], ..PLAIN },
            ConvGeometry { in_h: usize::MAX, ..PLAIN },
            ConvGeometry { pad_left: usize::MAX, ..PLAIN },
        ];
        for case in cases {
            assert!(matches!(case.check(), Err(KernelError::Geometry(_))), "{case:?}");
        }
    }
}

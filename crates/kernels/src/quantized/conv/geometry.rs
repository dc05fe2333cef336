//! The shape of a two-dimensional convolution.

use crate::error::KernelError;

/// Sizes of a convolution over `[batch, in_h, in_w, in_c]` giving `[batch, out_h, out_w, out_c]`.
///
/// Padding at the bottom and right is whatever the output size implies. A matrix product is the case with
/// one pixel per row and a 1×1 kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Images.
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
    /// Kernel rows and columns.
    pub kernel: [usize; 2],
    /// Step between neighbouring outputs, rows and columns.
    pub stride: [usize; 2],
    /// Step between neighbouring taps, rows and columns.
    pub dilation: [usize; 2],
    /// Rows of padding above the input.
    pub pad_top: usize,
    /// Columns of padding left of the input.
    pub pad_left: usize,
    /// Independent groups of channels; input and output channels are divided evenly among them.
    pub groups: usize,
}

impl ConvGeometry {
    /// The product `[rows, k] × [k, columns]` as a pointwise convolution.
    #[must_use]
    pub fn matmul(rows: usize, k: usize, columns: usize) -> ConvGeometry {
        ConvGeometry {
            batch: 1,
            in_h: 1,
            in_w: rows,
            in_c: k,
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

    /// Values in the input.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.batch * self.in_h * self.in_w * self.in_c
    }

    /// Values in the output.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.out_pixels() * self.out_c
    }

    /// Output pixels over the whole batch: the rows of the matrix product.
    #[must_use]
    pub fn out_pixels(&self) -> usize {
        self.batch * self.out_h * self.out_w
    }

    /// Values in the weights.
    #[must_use]
    pub fn weights_len(&self) -> usize {
        self.out_c * self.depth()
    }

    /// Products in one output value: taps times input channels of a group.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.kernel[0] * self.kernel[1] * (self.in_c / self.groups)
    }

    /// Multiply–accumulates of one run, those with padding included.
    #[must_use]
    pub fn macs(&self) -> usize {
        self.output_len() * self.depth()
    }

    /// Whether output pixel `i` reads exactly input pixel `i`.
    #[must_use]
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.stride == [1, 1]
            && self.pad_top == 0
            && self.pad_left == 0
            && self.in_h == self.out_h
            && self.in_w == self.out_w
    }

    /// Whether every input channel makes its own output channel and no other.
    #[must_use]
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.in_c && self.in_c == self.out_c
    }

    /// Checks that no size is zero, the groups divide the channels, and no product of sizes overflows.
    ///
    /// # Errors
    /// [`KernelError::Geometry`] naming the field at fault.
    pub fn check(&self) -> Result<(), KernelError> {
        let positive = [
            ("batch", self.batch),
            ("in_h", self.in_h),
            ("in_w", self.in_w),
            ("in_c", self.in_c),
            ("out_h", self.out_h),
            ("out_w", self.out_w),
            ("out_c", self.out_c),
            ("kernel rows", self.kernel[0]),
            ("kernel columns", self.kernel[1]),
            ("row stride", self.stride[0]),
            ("column stride", self.stride[1]),
            ("row dilation", self.dilation[0]),
            ("column dilation", self.dilation[1]),
            ("groups", self.groups),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(KernelError::Geometry(format!("{name} is 0")));
        }
        for (name, channels) in [("in_c", self.in_c), ("out_c", self.out_c)] {
            if !channels.is_multiple_of(self.groups) {
                return Err(KernelError::Geometry(format!(
                    "{name} {channels} is not divisible by {} groups",
                    self.groups
                )));
            }
        }
        let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
        let far = |out: usize, stride: usize, kernel: usize, dilation: usize| {
            product(&[out, stride])?.checked_add(product(&[kernel, dilation])?)
        };
        let fits = [
            product(&[self.batch, self.in_h, self.in_w, self.in_c]),
            product(&[self.batch, self.out_h, self.out_w, self.out_c]),
            product(&[self.out_c, self.kernel[0], self.kernel[1], self.in_c]),
            far(self.out_h, self.stride[0], self.kernel[0], self.dilation[0]),
            far(self.out_w, self.stride[1], self.kernel[1], self.dilation[1]),
            Some(self.pad_top),
            Some(self.pad_left),
        ];
        if fits.iter().any(|size| size.is_none_or(|size| size > isize::MAX as usize / 8)) {
            return Err(KernelError::Geometry(format!("sizes overflow: {self:?}")));
        }
        Ok(())
    }

    /// The input row that tap `tap` of output row `out` reads, unless it lies in the padding.
    #[must_use]
    pub fn input_row(&self, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride[0] + tap * self.dilation[0]).checked_sub(self.pad_top).filter(|row| *row < self.in_h)
    }

    /// The input column that tap `tap` of output column `out` reads, unless it lies in the padding.
    #[must_use]
    pub fn input_column(&self, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride[1] + tap * self.dilation[1]).checked_sub(self.pad_left).filter(|column| *column < self.in_w)
    }
}

//! What the kernel of an instruction set computes at a time: some rows by some panels of columns.

use super::packed::{BUNDLE, LANES, Packed, TAPS};
use crate::quantized::epilogue::Requantize;

/// Rows of the left matrix and panels of the right one.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// Rows, `stride` bytes apart.
    pub(super) a: &'a [u8],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) packed: &'a Packed,
    /// Panels to compute; the first one starts a bundle.
    pub(super) panel: usize,
    pub(super) panels: usize,
    /// Columns of the product.
    pub(super) columns: usize,
    /// As [`Packed::place`] says.
    pub(super) bias: &'a [i32],
    /// As [`Packed::place`] says.
    pub(super) scale: &'a [f32],
}

/// Where a block writes: its first row, its first column. Rows are `stride` values apart.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    U8 {
        y: *mut u8,
        stride: usize,
        to: &'a Requantize,
    },
    /// `Σ f32(sum of a group) ⊗ scale`, in the order of the groups.
    F32 {
        y: *mut f32,
        stride: usize,
    },
}

impl Block<'_> {
    /// Bytes from a group's part of a row to the next one's.
    pub(super) fn group_step(&self) -> usize {
        TAPS * self.packed.steps
    }

    /// Columns to compute.
    pub(super) fn width(&self) -> usize {
        (self.columns - self.panel * LANES).min(self.panels * LANES)
    }

    /// Checks that kernels that trust the block stay inside its slices.
    pub(super) fn check(&self, target: &Target<'_>) {
        let p = self.packed;
        assert!(
            self.rows > 0 && self.panels > 0 && self.panel.is_multiple_of(BUNDLE) && self.panel * LANES < self.columns
        );
        assert!((self.panel + self.panels) * LANES <= p.padded() && self.columns <= p.padded());
        assert!((self.rows - 1) * self.stride + p.groups * self.group_step() <= self.a.len());
        assert!(self.bias.len() == p.groups * p.padded() && self.scale.len() == p.groups * p.padded());
        assert!(p.groups == 1 || matches!(target, Target::F32 { .. }), "sums of groups are real numbers");
    }
}

//! What the kernel of an instruction set computes at a time: some rows by some panels of columns.

use super::packed::{BUNDLE, LANES, Packed, TAPS};
use crate::quantized::panelled;
pub(super) use crate::quantized::panelled::Target;

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

impl<'a> Block<'a> {
    /// A block of packed weights.
    pub(super) fn new(packed: &'a Packed, block: &panelled::Block<'a>) -> Block<'a> {
        let panelled::Block { a, stride, rows, panel, panels, columns, bias, scale } = *block;
        Block { a, stride, rows, packed, panel, panels, columns, bias, scale }
    }

    /// Bytes from a group's part of a row to the next one's.
    pub(super) fn group_step(&self) -> usize {
        TAPS * self.packed.steps
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

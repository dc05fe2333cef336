//! How the right operand of a product is packed.
//!
//! Columns are cut into panels of two vectors; what is left over at the end is a panel of one vector if that is enough.
//! A panel holds, for each step along the reduction, its columns side by side, zeros where there are none.

use crate::Isa;
use crate::float::simd::{Kernel, Simd, dispatch};

/// Steps that are packed at a time.
const STEPS: usize = 16;

/// The shape of a packed right operand for one instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panels {
    depth: usize,
    cols: usize,
    lanes: usize,
    rows: usize,
}

struct Sizes;

impl Kernel for Sizes {
    type Output = (usize, usize);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, usize) {
        (S::LANES, S::ROWS)
    }
}

impl Panels {
    /// The layout of `depth` × `cols` values.
    pub(crate) fn new(isa: Isa, depth: usize, cols: usize) -> Panels {
        let (lanes, rows) = dispatch(isa, Sizes);
        Panels { depth, cols, lanes, rows }
    }

    /// [`Panels::new`] inside a kernel.
    #[inline(always)]
    pub(crate) fn new_inside<S: Simd>(_: S, depth: usize, cols: usize) -> Panels {
        Panels { depth, cols, lanes: S::LANES, rows: S::ROWS }
    }

    /// Floats in a vector.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Rows of results that one tile computes.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.cols.div_ceil(2 * self.lanes)
    }

    /// First column of a panel.
    pub(crate) fn column(&self, panel: usize) -> usize {
        panel * 2 * self.lanes
    }

    /// Columns of a panel that exist.
    pub(crate) fn cols(&self, panel: usize) -> usize {
        (self.cols - self.column(panel)).min(2 * self.lanes)
    }

    /// Columns of a panel in memory.
    pub(crate) fn width(&self, panel: usize) -> usize {
        self.cols(panel).next_multiple_of(self.lanes)
    }

    /// Where a panel starts in the packed operand.
    pub(crate) fn offset(&self, panel: usize) -> usize {
        self.column(panel) * self.depth
    }

    /// Columns in memory.
    pub(crate) fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(self.lanes)
    }

    /// Values in the packed operand.
    pub(crate) fn len(&self) -> usize {
        self.padded_cols() * self.depth
    }

    /// Packs one panel of the matrix whose value at step `k` and column `c` is `from[k * step + c * column]`.
    pub(crate) fn pack(&self, panel: usize, from: &[f32], step: usize, column: usize, into: &mut [f32]) {
        let (first, cols, width) = (self.column(panel), self.cols(panel), self.width(panel));
        let into = &mut into[..width * self.depth];
        if column == 1 {
            for (k, line) in into.chunks_exact_mut(width).enumerate() {
                line[..cols].copy_from_slice(&from[k * step + first..][..cols]);
                line[cols..].fill(0.0);
            }
        } else {
            // A few steps of all columns at a time: the lines written to stay in cache until they are full.
            for (block, lines) in into.chunks_mut(width * STEPS).enumerate() {
                for c in 0..width {
                    let source = from.get((first + c) * column + block * STEPS * step..).unwrap_or_default();
                    for (k, line) in lines.chunks_exact_mut(width).enumerate() {
                        line[c] = if c < cols { source[k * step] } else { 0.0 };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_puts_each_value_where_the_tile_reads_it() {
        for isa in Isa::available() {
            for (depth, cols) in [(1, 1), (3, 5), (4, 16), (2, 33), (5, 70), (33, 20)] {
                let from: Vec<f32> = (0..depth * cols).map(|i| i as f32 + 1.0).collect();
                let flipped: Vec<f32> = (0..depth * cols).map(|i| from[i % depth * cols + i / depth]).collect();
                let panels = Panels::new(isa, depth, cols);
                let mut seen = 0;
                for panel in 0..panels.count() {
                    let width = panels.width(panel);
                    let mut packed = vec![f32::NAN; width * depth];
                    panels.pack(panel, &from, cols, 1, &mut packed);
                    let mut again = vec![f32::NAN; width * depth];
                    panels.pack(panel, &flipped, 1, depth, &mut again);
                    assert_eq!(packed, again);
                    for k in 0..depth {
                        for c in 0..width {
                            let column = panels.column(panel) + c;
                            let expected = if column < cols { from[k * cols + column] } else { 0.0 };
                            assert_eq!(packed[k * width + c], expected, "{} {depth}x{cols}", isa.name());
                            seen += usize::from(column < cols);
                        }
                    }
                    assert!(panels.offset(panel) + packed.len() <= panels.len());
                }
                assert_eq!(seen, depth * cols);
            }
        }
    }
}

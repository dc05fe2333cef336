//! The matrix product under convolution and matrix multiplication.
//!
//! The right operand is packed into panels a few vectors wide ([`panels`]); the left one is read where it lies, each row through an
//! offset, so that a convolution is a product without ever being unfolded in memory (the indirection buffer of
//! Dukhan, "The Indirect Convolution Algorithm", 2019). [`tile`] keeps a block of results in registers.

pub(crate) mod panels;
mod tile;

use std::ops::Range;

use super::Clamp;
use super::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Pool};
use panels::Panels;
use tile::Tile;

/// The offset of a row of zeros, which is what padding reads.
pub(crate) const PADDING: u32 = u32::MAX;

/// The largest [`Simd::ROWS`].
pub(crate) const MAX_ROWS: usize = 14;

/// Bytes of left operand that one task goes over again for every panel: about what a core's second-level cache keeps
/// beside the panel.
const BLOCK_BYTES: usize = 256 << 10;

/// Rows of a tile of a product of `count` rows: as many as the registers hold, or as few less as make the last tile about as high as the
/// others.
pub(crate) fn tile_rows(count: usize, most: usize) -> usize {
    count.div_ceil(count.div_ceil(most).max(1)).max(1)
}

/// Where the rows of the left operand are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Row `i` starts at `i * stride`.
    Strided(usize),
    /// For each tile (the last may have fewer rows), for each tap, for each row: its offset or [`PADDING`].
    Table(&'a [u32]),
}

/// `out = clamp(left · right + bias + residual)`, where the rows of `left` are `taps` pieces of `depth` values each.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    /// Start of the left operand.
    pub(crate) left: *const f32,
    /// Its rows.
    pub(crate) rows: Rows<'a>,
    /// How many.
    pub(crate) count: usize,
    /// How many of them a tile has: [`tile_rows`] of `count`.
    pub(crate) tile_rows: usize,
    /// Pieces of a row.
    pub(crate) taps: usize,
    /// Values of a piece.
    pub(crate) depth: usize,
    /// `depth` zeros, if any offset is [`PADDING`].
    pub(crate) zeros: &'a [f32],
    /// Layout of the right operand.
    pub(crate) panels: Panels,
    /// Packed right operand.
    pub(crate) right: &'a [f32],
    /// Bias, one value per column, padded as [`Panels::padded_cols`] says; empty for none.
    pub(crate) bias: &'a [f32],
    /// Limits of the result.
    pub(crate) clamp: Clamp,
    /// Whether results must not depend on how many rows there are: slower where there is only one.
    pub(crate) in_order: bool,
    /// First result.
    pub(crate) out: *mut f32,
    /// What is added before the clamp, laid out like the results; may be null.
    pub(crate) residual: *const f32,
    /// Distance between rows of the results.
    pub(crate) stride: usize,
}

// SAFETY: the pointers are only followed by `run_part`, whose contract covers other threads.
unsafe impl Send for Product<'_> {}
// SAFETY: as above.
unsafe impl Sync for Product<'_> {}

/// Parts of a product that threads can do independently.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    tiles: usize,
    tile_step: usize,
    panels: usize,
    panel_step: usize,
}

impl Parts {
    /// Cuts a product of `rows` rows into parts that suit the cache and keep `wanted` threads busy.
    pub(crate) fn new(rows: usize, bytes_per_row: usize, panels: &Panels, wanted: usize) -> Parts {
        let tiles = rows.div_ceil(tile_rows(rows, panels.rows()));
        let cached = (BLOCK_BYTES / (panels.rows() * bytes_per_row).max(1)).max(4);
        let shared = tiles.div_ceil(wanted.max(1)).max(4);
        let tile_step = cached.min(shared).min(tiles).max(1);
        let blocks = tiles.div_ceil(tile_step).max(1);
        let groups = wanted.div_ceil(blocks).clamp(1, panels.count().max(1));
        let panel_step = panels.count().div_ceil(groups).max(1);
        Parts { tiles, tile_step, panels: panels.count(), panel_step }
    }

    /// How many parts.
    pub(crate) fn count(&self) -> usize {
        self.tiles.div_ceil(self.tile_step) * self.panels.div_ceil(self.panel_step)
    }

    /// The tiles and panels of a part.
    pub(crate) fn get(&self, part: usize) -> (Range<usize>, Range<usize>) {
        let groups = self.panels.div_ceil(self.panel_step);
        let (tile, panel) = (part / groups * self.tile_step, part % groups * self.panel_step);
        (tile..(tile + self.tile_step).min(self.tiles), panel..(panel + self.panel_step).min(self.panels))
    }

    /// How many parts are worth having for the threads of a pool.
    pub(crate) fn wanted(pool: &Pool) -> usize {
        match pool.threads() {
            1 => 1,
            threads => threads * 3,
        }
    }
}

impl Product<'_> {
    /// Computes the results in `tiles` × `panels`.
    ///
    /// # Safety
    /// Every row must be readable, the results (and residual) of all rows and columns must be writable (readable), and no
    /// other thread may touch the results of the same tiles and panels meanwhile. `panels` must have been made for `isa`.
    pub(crate) unsafe fn run_part(&self, isa: Isa, tiles: Range<usize>, panels: Range<usize>) {
        dispatch(isa, Part { product: self, tiles, panels });
    }

    /// [`Product::run_part`] inside a kernel.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(crate) unsafe fn run_inside<S: Simd>(&self, simd: S, tiles: Range<usize>, panels: Range<usize>) {
        debug_assert_eq!((self.panels.lanes(), self.panels.rows()), (S::LANES, S::ROWS));
        let mut strided = [0u32; MAX_ROWS];
        if let Rows::Strided(stride) = self.rows {
            for (i, offset) in strided.iter_mut().enumerate().take(self.tile_rows) {
                *offset = (i * stride) as u32;
            }
        }
        for panel in panels {
            let column = self.panels.column(panel);
            let right = &self.right[self.panels.offset(panel)..];
            let size = self.panels.width(panel) * self.taps * self.depth;
            // Every tile fetches its share of the panel that comes next.
            let share = size.div_ceil(tiles.len().max(1));
            for (turn, index) in tiles.clone().enumerate() {
                let first = index * self.tile_rows;
                let rows = self.tile_rows.min(self.count - first);
                // SAFETY: all offsets stay inside the operands by the contract of `run_part`.
                let tile = unsafe {
                    let (left, offsets) = match self.rows {
                        Rows::Strided(stride) => (self.left.add(first * stride), strided.as_ptr()),
                        Rows::Table(table) => (self.left, table[first * self.taps..].as_ptr()),
                    };
                    Tile {
                        left,
                        offsets,
                        zeros: self.zeros.as_ptr(),
                        taps: self.taps,
                        depth: self.depth,
                        right: right.as_ptr(),
                        ahead: right.as_ptr().wrapping_add(size + turn * share),
                        ahead_step: share.div_ceil((self.taps * self.depth).max(1)),
                        bias: if self.bias.is_empty() { std::ptr::null() } else { self.bias[column..].as_ptr() },
                        out: self.out.add(first * self.stride + column),
                        residual: if self.residual.is_null() {
                            self.residual
                        } else {
                            self.residual.add(first * self.stride + column)
                        },
                        stride: self.stride,
                        cols: self.panels.cols(panel),
                        clamp: self.clamp,
                        in_order: self.in_order,
                    }
                };
                // SAFETY: the tile was made of this product's operands.
                unsafe { tile.run(simd, rows) };
            }
        }
    }
}

struct Part<'a> {
    product: &'a Product<'a>,
    tiles: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: made by `run_part` only, under the same contract.
        unsafe { self.product.run_inside(simd, self.tiles, self.panels) };
    }
}

//! The walk over a block, tile by tile, that the kernels of most instruction sets share.

use super::panels::{Block, Target};

/// What an instruction set brings to the walk.
pub(super) trait Micro {
    /// Rows of sums that fit the registers beside two vectors of columns; at most 8.
    const ROWS: usize;
    /// See [`super::layout::Layout`], as for the other constants.
    const LANES: usize;
    /// Bytes of packed weights of a column and step.
    const WEIGHT: usize;

    /// Computes and stores a tile of `M` rows and `N` vectors of columns.
    ///
    /// # Safety
    /// They lie inside the block that the tile was made of, and the machine has the instructions.
    unsafe fn tile<const M: usize, const N: usize>(tile: &Tile<'_>);
}

/// A tile of a block: addresses of its first row and column.
pub(super) struct Tile<'a> {
    pub a: *const u8,
    pub stride: usize,
    pub steps: usize,
    pub weights: *const i8,
    pub bias: *const i32,
    pub scale: *const f32,
    /// Columns from here to the end of the block.
    pub columns: usize,
    pub y: Target<'a>,
    pub y_stride: usize,
}

/// Computes a block. Inlined into a function that is compiled for the set.
///
/// # Safety
/// The machine has the instructions of `K`; the block's slices hold what its sizes say; `y` may be written at the
/// block's columns of each of its rows, `y_stride` apart.
#[inline(always)]
pub(super) unsafe fn block<K: Micro>(b: &Block<'_>, y: Target<'_>, y_stride: usize) {
    const { assert!(K::ROWS <= 8) };
    let tiles = b.rows.div_ceil(K::ROWS);
    let mut column = b.from;
    while column < b.to {
        let wide = b.bias.len() - column >= 2 * K::LANES;
        let mut row = 0;
        for tile in 0..tiles {
            // Tiles of nearly equal height: a last tile of one row would leave the multipliers waiting.
            let rows = (b.rows - row).div_ceil(tiles - tile);
            // SAFETY: `row` and `column` lie inside the block.
            unsafe {
                let tile = Tile {
                    a: b.a.as_ptr().add(row * b.stride),
                    stride: b.stride,
                    steps: b.steps,
                    weights: b.weights.as_ptr().add(column * K::WEIGHT * b.steps),
                    bias: b.bias.as_ptr().add(column),
                    scale: b.scale.as_ptr().add(column),
                    columns: b.to - column,
                    y: y.add(row * y_stride + (column - b.from)),
                    y_stride,
                };
                macro_rules! with {
                    ($($m:literal)*) => {
                        match (rows, wide) {
                            $(($m, true) if $m <= K::ROWS => K::tile::<$m, 2>(&tile),
                            ($m, false) if $m <= K::ROWS => K::tile::<$m, 1>(&tile),)*
                            _ => unreachable!("a tile of {rows} rows"),
                        }
                    };
                }
                with!(1 2 3 4 5 6 7 8);
            }
            row += rows;
        }
        column += if wide { 2 * K::LANES } else { K::LANES };
    }
}

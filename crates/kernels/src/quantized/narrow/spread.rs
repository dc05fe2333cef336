//! The walk over a block that the kernels of NEON and WebAssembly share.
//!
//! A product with few rows takes its weights out of their bytes in registers: they come from memory and are used once. With
//! more rows a stretch of a panel's weights is *spread* to what the instruction set multiplies, once for all rows of a batch,
//! and stays in the first-level cache while these are multiplied by it; sums wait in memory meanwhile.

use super::block::{Block, Target};
use super::packed::{LANES, Width};
use crate::quantized::epilogue::Requantize;

pub(super) const FOUR: usize = 0;
pub(super) const TWO: usize = 1;
pub(super) const TERNARY: usize = 2;

/// Weights in a byte.
pub(super) const fn per_byte(width: usize) -> usize {
    [2, 4, 5][width]
}

/// Steps of a stretch: whole lines of every width, and pairs of steps.
pub(super) const STRETCH: usize = 60;
/// Most rows of a batch. With their part of a stretch and its weights they fill the first-level cache.
const BATCH: usize = 96;

/// Rows of the left matrix, from the place where the products of `steps` steps start.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) a: *const u8,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    pub(super) steps: usize,
}

/// Packed weights of a panel.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub(super) first: *const i8,
    /// Bytes from one line to the next.
    pub(super) step: usize,
}

/// What an instruction set brings to the walk. `W` is one of the widths above; all pointers are to as much as is said, and the
/// machine has the instructions.
pub(super) trait Multiply {
    /// Most rows for which weights are taken out of their bytes in registers, up to 4.
    const FEW: usize;
    /// Rows multiplied at a time, up to 4.
    const ROWS: usize;
    /// Bytes of the spread weights of a step.
    const STEP: usize;
    /// For each width, by how many bits sums are too large.
    const DOWN: [u32; 3];

    /// Sums of `M` rows by a panel.
    unsafe fn few<const M: usize, const W: usize>(rows: Rows, lines: Lines) -> [[i32; LANES]; M];

    /// Spreads whole lines of at least `steps` steps; `to` has room for a stretch.
    unsafe fn spread<const W: usize>(lines: Lines, steps: usize, to: *mut i8);

    /// Adds the products of `M` rows and spread weights to sums.
    unsafe fn add<const M: usize, const W: usize>(rows: Rows, weights: *const i8, sums: *mut [i32; LANES]);

    /// Adds `f32(sum) ⊗ scale`.
    unsafe fn reals(sums: &[i32; LANES], scale: *const f32, reals: &mut [f32; LANES]);

    /// Requantizes.
    unsafe fn bytes(sums: &[i32; LANES], scale: *const f32, to: &Requantize) -> [u8; LANES];
}

/// What a batch works in.
#[repr(align(64))]
struct Room<const BYTES: usize> {
    weights: [i8; BYTES],
    sums: [[i32; LANES]; BATCH],
    reals: [[f32; LANES]; BATCH],
}

/// Computes a block. `BYTES` is that of a stretch of spread weights.
///
/// # Safety
/// The machine has the instructions of `K`; the block has been checked; `target` may be written at the block's columns of
/// each of its rows.
pub(super) unsafe fn block<K: Multiply, const BYTES: usize>(b: &Block<'_>, target: &Target<'_>) {
    const { assert!(BYTES == STRETCH * K::STEP && K::FEW <= 4 && K::ROWS <= 4) };
    // SAFETY: by the caller's promise.
    unsafe {
        match b.packed.width {
            Width::Four => block_of::<K, FOUR, BYTES>(b, target),
            Width::Two => block_of::<K, TWO, BYTES>(b, target),
            Width::Ternary => block_of::<K, TERNARY, BYTES>(b, target),
        }
    }
}

unsafe fn block_of<K: Multiply, const W: usize, const BYTES: usize>(b: &Block<'_>, target: &Target<'_>) {
    // SAFETY: panels and rows lie inside the block.
    unsafe {
        if b.rows <= K::FEW {
            for panel in 0..b.panels {
                match b.rows {
                    1 => few::<K, W, 1>(b, target, panel),
                    2 if K::FEW >= 2 => few::<K, W, 2>(b, target, panel),
                    3 if K::FEW >= 3 => few::<K, W, 3>(b, target, panel),
                    _ if K::FEW >= 4 => few::<K, W, 4>(b, target, panel),
                    rows => unreachable!("{rows} rows are not few"),
                }
            }
            return;
        }
        let mut room = Room { weights: [0; BYTES], sums: [[0; LANES]; BATCH], reals: [[0.0; LANES]; BATCH] };
        let batches = b.rows.div_ceil(BATCH);
        for panel in 0..b.panels {
            let mut row = 0;
            for batch in 0..batches {
                let rows = (b.rows - row).div_ceil(batches - batch);
                many::<K, W, BYTES>(b, target, panel, row, rows, &mut room);
                row += rows;
            }
        }
    }
}

/// Where a group's rows and weights start: row `row` and panel `panel` of the block.
fn group(b: &Block<'_>, panel: usize, row: usize, group: usize) -> (Rows, Lines) {
    let p = b.packed;
    let step = p.line_step(b.panel + panel);
    let lines = &p.panels(b.panel + panel, 1)[group * p.lines * step..];
    let a = &b.a[row * b.stride + group * b.group_step()..];
    (Rows { a: a.as_ptr(), stride: b.stride, steps: p.steps }, Lines { first: lines.as_ptr(), step })
}

/// The product of all `M` rows of a block and a panel.
unsafe fn few<K: Multiply, const W: usize, const M: usize>(b: &Block<'_>, target: &Target<'_>, panel: usize) {
    let mut reals = [[0.0; LANES]; M];
    for g in 0..b.packed.groups {
        let (rows, lines) = group(b, panel, 0, g);
        // SAFETY: the block has `M` rows of as many steps, and the panel the lines of the group.
        unsafe {
            let mut sums = K::few::<M, W>(rows, lines);
            finish::<K, W>(b, target, [panel, 0, g], &mut sums, &mut reals);
        }
    }
}

/// The product of some rows, at most a batch, and a panel.
unsafe fn many<K: Multiply, const W: usize, const BYTES: usize>(
    b: &Block<'_>,
    target: &Target<'_>,
    panel: usize,
    row: usize,
    count: usize,
    room: &mut Room<BYTES>,
) {
    let (sums, reals) = (&mut room.sums[..count], &mut room.reals[..count]);
    reals.fill([0.0; LANES]);
    for g in 0..b.packed.groups {
        let (rows, lines) = group(b, panel, row, g);
        sums.fill([0; LANES]);
        for first in (0..rows.steps).step_by(STRETCH) {
            let steps = STRETCH.min(rows.steps - first);
            // SAFETY: stretches are of whole lines; rows have as many steps.
            unsafe {
                let lines = Lines { first: lines.first.add(first / per_byte(W) * lines.step), ..lines };
                K::spread::<W>(lines, steps, room.weights.as_mut_ptr());
                let mut at = 0;
                while at < count {
                    let rows = Rows { a: rows.a.add(at * rows.stride + 4 * first), stride: rows.stride, steps };
                    let (weights, sums) = (room.weights.as_ptr(), sums[at..].as_mut_ptr());
                    at += match (count - at).min(K::ROWS) {
                        4 => tile::<K, 4, W>(rows, weights, sums),
                        3 => tile::<K, 3, W>(rows, weights, sums),
                        2 => tile::<K, 2, W>(rows, weights, sums),
                        _ => tile::<K, 1, W>(rows, weights, sums),
                    };
                }
            }
        }
        // SAFETY: the rows and the panel lie inside the block.
        unsafe { finish::<K, W>(b, target, [panel, row, g], sums, reals) };
    }
}

#[inline(always)]
unsafe fn tile<K: Multiply, const M: usize, const W: usize>(
    rows: Rows,
    weights: *const i8,
    sums: *mut [i32; LANES],
) -> usize {
    // SAFETY: by the caller's promise.
    unsafe { K::add::<M, W>(rows, weights, sums) };
    M
}

/// Brings the sums of a group, without the bias, to where they are wanted: bytes at once, real numbers after the last group.
unsafe fn finish<K: Multiply, const W: usize>(
    b: &Block<'_>,
    target: &Target<'_>,
    [panel, row, group]: [usize; 3],
    sums: &mut [[i32; LANES]],
    reals: &mut [[f32; LANES]],
) {
    let p = b.packed;
    let column = (b.panel + panel) * LANES;
    let columns = (b.columns - column).min(LANES);
    let at = p.place(group, column);
    let (bias, scale) = (&b.bias[at..at + LANES], b.scale[at..at + LANES].as_ptr());
    for (m, (sums, reals)) in sums.iter_mut().zip(reals).enumerate() {
        for (sum, bias) in sums.iter_mut().zip(bias) {
            *sum = (*sum >> K::DOWN[W]).wrapping_add(*bias);
        }
        // SAFETY: the row and its columns are the block's.
        unsafe {
            match *target {
                Target::U8 { y, stride, to } => {
                    let bytes = K::bytes(sums, scale, to);
                    store(&bytes, y.add((row + m) * stride + panel * LANES), columns);
                }
                Target::F32 { y, stride } => {
                    K::reals(sums, scale, reals);
                    if group + 1 == p.groups {
                        store(reals, y.add((row + m) * stride + panel * LANES), columns);
                    }
                }
            }
        }
    }
}

/// Writes the first columns, nearly always all.
#[inline(always)]
unsafe fn store<T: Copy>(values: &[T; LANES], to: *mut T, columns: usize) {
    // SAFETY: by the caller's promise.
    unsafe {
        if columns == LANES {
            to.cast::<[T; LANES]>().write_unaligned(*values);
        } else {
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, columns);
        }
    }
}

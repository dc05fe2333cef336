//! The kernel in plain Rust.

use super::block::{Block, Target};
use super::packed::{LANES, LINE, TAPS};
use crate::quantized::epilogue::requantize;

/// Rows that share the work of taking weights out of their bytes.
const ROWS: usize = 8;

/// Computes a block.
///
/// # Safety
/// `target` may be written at the block's columns of each of its rows.
pub(super) unsafe fn block(b: &Block<'_>, target: &Target<'_>) {
    for panel in b.panel..b.panel + b.panels {
        for row in (0..b.rows).step_by(ROWS) {
            // SAFETY: by the caller's promise.
            unsafe { tile(b, target, panel, row, ROWS.min(b.rows - row)) };
        }
    }
}

unsafe fn tile(b: &Block<'_>, target: &Target<'_>, panel: usize, row: usize, rows: usize) {
    let p = b.packed;
    let (weights, line_step) = (p.panels(panel, 1), p.line_step(panel));
    let columns = (b.columns - panel * LANES).min(LANES);
    let first = (panel - b.panel) * LANES;
    let mut reals = [[0f32; LANES]; ROWS];
    for group in 0..p.groups {
        let mut sums = [[0i32; LANES]; ROWS];
        let at = p.place(group, panel * LANES);
        let (bias, scale) = (&b.bias[at..at + LANES], &b.scale[at..at + LANES]);
        for line in 0..p.lines {
            let bytes = &weights[(group * p.lines + line) * line_step..];
            let mut bytes: [u8; LINE] = std::array::from_fn(|i| bytes[i] as u8);
            for step in line * p.width.per_byte()..((line + 1) * p.width.per_byte()).min(p.steps) {
                let w: [i32; LINE] = std::array::from_fn(|i| i32::from(p.width.take(&mut bytes[i])));
                for (r, sums) in sums[..rows].iter_mut().enumerate() {
                    let start = (row + r) * b.stride + group * b.group_step() + step * TAPS;
                    let x: [i32; TAPS] = std::array::from_fn(|i| i32::from(b.a[start + i]));
                    for (sum, w) in sums.iter_mut().zip(w.chunks_exact(TAPS)) {
                        *sum = sum.wrapping_add(w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3]);
                    }
                }
            }
        }
        for r in 0..rows {
            for c in 0..columns {
                let sum = sums[r][c].wrapping_add(bias[c]);
                match target {
                    // SAFETY: the column is one of the block's.
                    Target::U8 { y, stride, to } => unsafe {
                        *y.add((row + r) * stride + first + c) = requantize(sum, scale[c], to.zero, to.lo, to.hi);
                    },
                    Target::F32 { .. } => reals[r][c] += sum as f32 * scale[c],
                }
            }
        }
    }
    if let Target::F32 { y, stride } = target {
        for (r, reals) in reals[..rows].iter().enumerate() {
            // SAFETY: as above.
            let to = unsafe { std::slice::from_raw_parts_mut(y.add((row + r) * stride + first), columns) };
            to.copy_from_slice(&reals[..columns]);
        }
    }
}

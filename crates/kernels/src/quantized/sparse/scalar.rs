//! The kernel in plain Rust.

use super::super::epilogue::requantize;
use super::super::panelled::{Block, LANES, Target};
use super::slots::{LINE, Slots, TAPS, WINDOW};

/// Computes a block.
///
/// # Safety
/// `target` may be written at the block's columns of each of its rows.
pub(super) unsafe fn block(slots: &Slots, b: &Block<'_>, target: &Target<'_>) {
    for (panel, row) in (b.panel..b.panel + b.panels).flat_map(|panel| (0..b.rows).map(move |row| (panel, row))) {
        let x = &b.a[row * b.stride..][..slots.row];
        let mut sums = [0i32; LANES];
        for (window, x) in slots.windows(panel).iter().zip(x.chunks(WINDOW)) {
            let (blocks, picks) = slots.lines(window).split_at(LINE * usize::from(window.blocks));
            let mut add = |weights: &[i8], place: &dyn Fn(usize) -> usize| {
                for (i, w) in weights.iter().enumerate() {
                    let x = x.get(place(i)).copied().unwrap_or(0);
                    sums[i / TAPS] = sums[i / TAPS].wrapping_add(i32::from(x) * i32::from(*w));
                }
            };
            for (group, weights) in slots.blocks(window).iter().zip(blocks.chunks_exact(LINE)) {
                add(weights, &|i| usize::from(*group) * TAPS + i % TAPS);
            }
            for slot in picks.chunks_exact(2 * LINE) {
                let (places, weights) = slot.split_at(LINE);
                add(weights, &|i| places[i] as usize);
            }
        }
        let first = (panel - b.panel) * LANES;
        for c in 0..LANES.min(b.columns - panel * LANES) {
            let (sum, scale) = (sums[c].wrapping_add(b.bias[panel * LANES + c]), b.scale[panel * LANES + c]);
            // SAFETY: the column is one of the block's.
            unsafe {
                match target {
                    Target::U8 { y, stride, to } => {
                        *y.add(row * stride + first + c) = requantize(sum, scale, to.zero, to.lo, to.hi);
                    }
                    Target::F32 { y, stride } => *y.add(row * stride + first + c) = sum as f32 * scale,
                }
            }
        }
    }
}

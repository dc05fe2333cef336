//! The kernel in plain Rust: one pixel, one column at a time.

use super::digits::LANES;
use super::strip::{Strip, Target};
use crate::quantized::epilogue::requantize;

/// Computes a strip.
///
/// # Safety
/// The strip has been checked; `target` may be written at the columns of its panels, for each of its pixels.
pub(super) unsafe fn strip(s: &Strip<'_>, target: &Target<'_>) {
    let columns = (LANES * s.panels()).min(s.columns - s.column);
    for pixel in 0..s.count {
        // SAFETY: the bias reaches over all padded columns.
        let bias = unsafe { std::slice::from_raw_parts(s.bias_of(pixel), columns) };
        let scale = &s.scale[s.column..][..columns];
        let mut words = [0u32; 4];
        for (column, (bias, scale)) in bias.iter().zip(scale).enumerate() {
            let sum = sum(s, pixel, s.column + column).wrapping_add(*bias);
            // SAFETY: `column` is one of the strip's columns.
            unsafe {
                match target {
                    Target::U8 { y, stride, to } => {
                        *y.add(pixel * stride + column) = requantize(sum, *scale, to.zero, to.lo, to.hi);
                    }
                    Target::F32 { y, stride } => *y.add(pixel * stride + column) = sum as f32 * scale,
                    Target::Planes { planes, to, .. } => {
                        let code = requantize(sum, *scale, to.zero, to.lo, to.hi);
                        for (plane, word) in words[..*planes].iter_mut().enumerate() {
                            *word |= u32::from(code >> plane & 1) << column;
                        }
                    }
                }
            }
        }
        if let Target::Planes { y, stride, plane, planes, .. } = target {
            for (i, word) in words[..*planes].iter().enumerate() {
                // SAFETY: two panels are one word of every plane.
                unsafe { y.add(pixel * stride + i * plane).cast::<u32>().write_unaligned(*word) };
            }
        }
    }
}

fn sum(s: &Strip<'_>, pixel: usize, column: usize) -> i32 {
    let d = s.digits;
    let (panel, lane) = (column / LANES, column % LANES);
    // SAFETY: one panel lies here.
    let panel = unsafe { std::slice::from_raw_parts(d.panel_words(panel), d.panel_len()) };
    let mut sum = 0i32;
    for pass in s.passes {
        sum <<= pass.shift;
        let mut weights = panel[pass.digit * d.digit_len()..].chunks_exact(d.step_len());
        let start = s.start + pass.plane * s.plane + pixel * s.step;
        for segment in s.segments {
            for (x, w) in s.x[start + segment..][..s.run].iter().zip(&mut weights) {
                let differ = x ^ w[lane];
                let counted = if d.ternary { differ & w[LANES + lane] } else { differ };
                sum = sum.wrapping_add(counted.count_ones() as i32);
            }
        }
    }
    sum << s.scale_shift
}

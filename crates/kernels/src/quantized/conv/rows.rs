//! Input pixels gathered into the rows of a matrix, one row an output pixel.
//!
//! A row holds the taps in the order of the weights, `[kernel rows, kernel columns, channels]`. Because channels
//! come last, the taps of one kernel row lie side by side in the input and are copied in one go.

use crate::geometry::ConvGeometry;

/// Bytes that may be read and written past the end of a short copy, so that it becomes a few whole registers.
const SLACK: usize = 64;

/// Writes the rows of output pixels `first..first + count` of `group` into `rows`, `stride` bytes apart.
///
/// Bytes between the end of a row and the next one are left with arbitrary values.
pub(super) fn gather(
    g: &ConvGeometry,
    group: usize,
    x: &[u8],
    x_zero: u8,
    first: usize,
    count: usize,
    rows: &mut [u8],
    stride: usize,
) {
    let channels = g.in_c / g.groups;
    let run = g.kernel[1] * channels;
    let side_by_side = g.groups == 1 && g.dilation[1] == 1;
    let (mut ox, mut oy, mut n) = (first % g.out_w, first / g.out_w % g.out_h, first / g.out_w / g.out_h);
    for row in 0..count {
        let left = (ox * g.stride[1]).checked_sub(g.pad_left);
        let whole = left.filter(|left| side_by_side && left + g.kernel[1] <= g.in_w);
        for ky in 0..g.kernel[0] {
            let to = row * stride + ky * run;
            let Some(iy) = g.input_row(oy, ky) else {
                rows[to..to + run].fill(x_zero);
                continue;
            };
            let line = (n * g.in_h + iy) * g.in_w;
            if let Some(left) = whole {
                copy(x, (line + left) * channels, rows, to, run);
                continue;
            }
            for kx in 0..g.kernel[1] {
                let to = to + kx * channels;
                match g.input_col(ox, kx) {
                    Some(ix) => {
                        let from = (line + ix) * g.in_c + group * channels;
                        copy(x, from, rows, to, channels);
                    }
                    None => rows[to..to + channels].fill(x_zero),
                }
            }
        }
        ox += 1;
        if ox == g.out_w {
            (ox, oy) = (0, oy + 1);
            if oy == g.out_h {
                (oy, n) = (0, n + 1);
            }
        }
    }
}

/// Copies `len` bytes; may overwrite up to [`SLACK`] bytes after them, which a later copy fills in.
#[inline(always)]
fn copy(from: &[u8], at: usize, to: &mut [u8], start: usize, len: usize) {
    // Short copies by a call to `memcpy` cost more than the arithmetic on what they bring.
    if len <= 2 * SLACK && at + len + SLACK <= from.len() && start + len + SLACK <= to.len() {
        let step = if len <= 16 { 16 } else { 32 };
        let mut done = 0;
        while done < len {
            if step == 16 {
                let piece: [u8; 16] = from[at..at + 16].try_into().unwrap_or([0; 16]);
                to[start..start + 16].copy_from_slice(&piece);
            } else {
                to[start + done..start + done + 32].copy_from_slice(&from[at + done..at + done + 32]);
            }
            done += step;
        }
    } else {
        to[start..start + len].copy_from_slice(&from[at..at + len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_the_taps_in_the_order_of_the_weights() {
        let g = ConvGeometry {
            batch: 1,
            in_h: 3,
            in_w: 3,
            in_c: 2,
            out_h: 3,
            out_w: 3,
            out_c: 1,
            kernel: [2, 2],
            stride: [1, 1],
            dilation: [1, 1],
            pad_top: 1,
            pad_left: 1,
            groups: 1,
        };
        let x: Vec<u8> = (0..18).collect();
        let mut rows = vec![0; 9 * 8];
        gather(&g, 0, &x, 99, 0, 9, &mut rows, 8);
        assert_eq!(rows[..8], [99, 99, 99, 99, 99, 99, 0, 1]);
        assert_eq!(rows[8..16], [99, 99, 99, 99, 0, 1, 2, 3]);
        assert_eq!(rows[8 * 8..9 * 8], [8, 9, 10, 11, 14, 15, 16, 17]);
    }
}

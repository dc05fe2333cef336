//! Input pixels gathered into the rows of a matrix, one row an output pixel.
//!
//! A row holds the taps in the order of the weights, `[kernel rows, kernel columns, channels]`. Because channels
//! come last, the taps of one kernel row lie side by side in the input and are copied in one go.

use crate::geometry::ConvGeometry;
use crate::quantized::versions::per_isa;

/// Kernel rows up to which a stretch of output pixels is copied by the fast loop.
const MOST_ROWS: usize = 16;
/// Bytes of the zeros that kernel rows in the padding are copied from; longer runs take the slow path.
const ZEROS: usize = 1024;

/// What kernel row `ky` of neighbouring output pixels is copied from: the first one's address, and the bytes from
/// one pixel to the next.
#[derive(Clone, Copy)]
struct Source {
    start: *const u8,
    step: usize,
}

per_isa! {
    /// Writes the rows of output pixels `first..first + count` of `group` into `rows`, `stride` bytes apart; `wide` ones have every
    /// byte as a 16-bit number.
    ///
    /// Bytes between the end of a row and the next one are left with arbitrary values.
    pub(in crate::quantized) fn gather(
        g: &ConvGeometry,
        group: usize,
        x: &[u8],
        x_zero: u8,
        first: usize,
        count: usize,
        rows: &mut [u8],
        stride: usize,
        wide: bool,
    ) {
        if wide {
            all::<true>(g, group, x, x_zero, first, count, rows, stride);
        } else {
            all::<false>(g, group, x, x_zero, first, count, rows, stride);
        }
    }
}

/// Bytes of a gathered number.
const fn size(wide: bool) -> usize {
    if wide { 2 } else { 1 }
}

#[inline(always)]
fn all<const WIDE: bool>(
    g: &ConvGeometry,
    group: usize,
    x: &[u8],
    x_zero: u8,
    first: usize,
    count: usize,
    rows: &mut [u8],
    stride: usize,
) {
    let run = g.kernel[1] * g.group_in();
    // The outputs of a row whose kernel lies inside the image from left to right.
    let left = g.pad_left.div_ceil(g.stride[1]);
    let right = match (g.in_w + g.pad_left).checked_sub(g.kernel[1]) {
        Some(room) => (room / g.stride[1] + 1).min(g.out_w),
        None => 0,
    };
    let fast = g.groups == 1 && g.dilation[1] == 1 && g.kernel[0] <= MOST_ROWS && run <= ZEROS - 64;
    let zeros = [x_zero; ZEROS];
    let mut row = 0;
    while row < count {
        let pixel = first + row;
        let (ox, oy, n) = (pixel % g.out_w, pixel / g.out_w % g.out_h, pixel / g.out_w / g.out_h);
        if fast && ox >= left && ox < right {
            let pixels = (right - ox).min(count - row);
            let done = stretch::<WIDE>(g, x, &zeros, (n, oy, ox), pixels, &mut rows[row * stride..], stride, run);
            if done > 0 {
                row += done;
                continue;
            }
        }
        one::<WIDE>(g, group, x, x_zero, (n, oy, ox), &mut rows[row * stride..], run);
        row += 1;
    }
}

/// Copies the rows of up to `pixels` neighbouring outputs from `(n, oy, ox)` on and returns how many: fewer where a
/// copy in whole registers would leave the input or `rows`.
#[inline(always)]
fn stretch<const WIDE: bool>(
    g: &ConvGeometry,
    x: &[u8],
    zeros: &[u8; ZEROS],
    (n, oy, ox): (usize, usize, usize),
    pixels: usize,
    rows: &mut [u8],
    stride: usize,
    run: usize,
) -> usize {
    let width = match run {
        0..=16 => 16,
        17..=32 => 32,
        _ => 64,
    };
    // Bytes that a copy of one kernel row reads and writes.
    let reach = run.next_multiple_of(width);
    let step = g.stride[1] * g.in_c;
    let mut sources = [Source { start: zeros.as_ptr(), step: 0 }; MOST_ROWS];
    let mut pixels = pixels;
    for ky in 0..g.kernel[0] {
        if let Some(iy) = g.input_row(oy, ky) {
            let from = ((n * g.in_h + iy) * g.in_w + ox * g.stride[1] - g.pad_left) * g.in_c;
            let room = (x.len() - from).checked_sub(reach).map_or(0, |room| room / step + 1);
            pixels = pixels.min(room);
            sources[ky] = Source { start: x[from..].as_ptr(), step };
        }
    }
    let past = size(WIDE) * ((g.kernel[0] - 1) * run + reach);
    pixels = pixels.min(rows.len().checked_sub(past).map_or(0, |room| room / stride + 1));
    let to = rows.as_mut_ptr();
    // SAFETY: `pixels` was limited so that the last copy of the last pixel ends inside `x` and inside `rows`; zeros
    // are longer than any copy. Copies that write past their run are followed by the one that belongs there.
    unsafe {
        match width {
            16 => copy_all::<16, WIDE>(&sources[..g.kernel[0]], pixels, to, stride, run),
            32 => copy_all::<32, WIDE>(&sources[..g.kernel[0]], pixels, to, stride, run),
            _ => copy_all::<64, WIDE>(&sources[..g.kernel[0]], pixels, to, stride, run),
        }
    }
    pixels
}

/// # Safety
/// For every pixel and source, `run` numbers rounded up to a multiple of `W` can be read and written.
#[inline(always)]
unsafe fn copy_all<const W: usize, const WIDE: bool>(
    sources: &[Source],
    pixels: usize,
    to: *mut u8,
    stride: usize,
    run: usize,
) {
    for pixel in 0..pixels {
        for (ky, source) in sources.iter().enumerate() {
            // SAFETY: by the caller's promise.
            unsafe {
                let from = source.start.add(pixel * source.step);
                let to = to.add(pixel * stride + ky * run * size(WIDE));
                let mut done = 0;
                loop {
                    let piece = from.add(done).cast::<[u8; W]>().read();
                    if WIDE {
                        to.add(2 * done).cast::<[u16; W]>().write_unaligned(piece.map(u16::from));
                    } else {
                        to.add(done).cast::<[u8; W]>().write(piece);
                    }
                    done += W;
                    if done >= run {
                        break;
                    }
                }
            }
        }
    }
}

/// Writes the row of one output pixel, whatever its place and the kernel's shape.
#[inline(always)]
fn one<const WIDE: bool>(
    g: &ConvGeometry,
    group: usize,
    x: &[u8],
    x_zero: u8,
    (n, oy, ox): (usize, usize, usize),
    row: &mut [u8],
    run: usize,
) {
    let channels = g.group_in();
    // Where neighbouring taps are neighbours in the image, those inside it are one piece.
    let pieces = if g.groups == 1 && g.dilation[1] == 1 { 1 } else { g.kernel[1] };
    let taps = g.kernel[1] / pieces;
    let left = g.pad_left.saturating_sub(ox * g.stride[1]).min(taps);
    let right = (g.in_w + g.pad_left).saturating_sub(ox * g.stride[1]).clamp(left, taps);
    for ky in 0..g.kernel[0] {
        let line = g.input_row(oy, ky).map(|iy| (n * g.in_h + iy) * g.in_w);
        for kx in 0..pieces {
            let to = &mut row[size(WIDE) * (ky * run + kx * channels)..][..size(WIDE) * taps * channels];
            let inside = if pieces == 1 { (left, right) } else { (0, 1) };
            let from = line.zip(g.input_col(ox, kx + inside.0)).filter(|_| inside.0 < inside.1);
            let Some((line, ix)) = from else {
                fill::<WIDE>(to, x_zero);
                continue;
            };
            let (before, rest) = to.split_at_mut(size(WIDE) * inside.0 * channels);
            let (to, behind) = rest.split_at_mut(size(WIDE) * (inside.1 - inside.0) * channels);
            fill::<WIDE>(before, x_zero);
            copy::<WIDE>(&x[(line + ix) * g.in_c + group * channels..], to);
            fill::<WIDE>(behind, x_zero);
        }
    }
}

/// Fills `to` with numbers from the beginning of `from`.
#[inline(always)]
fn copy<const WIDE: bool>(from: &[u8], to: &mut [u8]) {
    if WIDE {
        let (to, _) = to.as_chunks_mut::<2>();
        to.iter_mut().zip(from).for_each(|(to, from)| *to = u16::from(*from).to_ne_bytes());
    } else {
        to.copy_from_slice(&from[..to.len()]);
    }
}

#[inline(always)]
fn fill<const WIDE: bool>(to: &mut [u8], x_zero: u8) {
    if WIDE {
        let (to, _) = to.as_chunks_mut::<2>();
        to.fill(u16::from(x_zero).to_ne_bytes());
    } else {
        to.fill(x_zero);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

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
        for isa in Isa::available() {
            let mut rows = vec![0; 9 * 8];
            gather(isa, &g, 0, &x, 99, 0, 9, &mut rows, 8, false);
            assert_eq!(rows[..8], [99, 99, 99, 99, 99, 99, 0, 1]);
            assert_eq!(rows[8..16], [99, 99, 99, 99, 0, 1, 2, 3]);
            assert_eq!(rows[8 * 8..9 * 8], [8, 9, 10, 11, 14, 15, 16, 17]);
            let mut wide = vec![0; 2 * 9 * 8];
            gather(isa, &g, 0, &x, 99, 0, 9, &mut wide, 16, true);
            let narrowed: Vec<u8> = wide.chunks_exact(2).map(|n| u16::from_ne_bytes([n[0], n[1]]) as u8).collect();
            assert_eq!(narrowed, rows);
        }
    }
}

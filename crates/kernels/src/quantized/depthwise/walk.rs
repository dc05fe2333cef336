//! The walk along a row of output, pixel by pixel and block by block of channels, that the kernels of most instruction
//! sets share.
//!
//! For each pixel the addresses of its taps are written down once; every block then reads its channels from there. Taps
//! in the padding lead to a pixel of zeros, so that kernels need no cases.

use std::ops::Range;

use super::{Pixels, Row, Weights};
use crate::quantized::epilogue::{Epilogue, Requantize};

/// Channels of a block.
pub(super) const BLOCK: usize = 16;
/// Addresses written down at a time; larger kernels write them down for every block again.
const TABLE: usize = 64;

/// What an instruction set brings to the walk. Methods are inlined into a function compiled for the set.
///
/// # Safety
/// Of all methods: the machine has the instructions, and the pointers lead to what the method says.
pub(super) trait Micro {
    /// Taps added at a time; 1 or 2.
    const TAPS: usize;
    /// The sums of a block.
    type Sums: Copy;

    /// The sums before the first tap: 16 values.
    unsafe fn start(bias: *const i32) -> Self::Sums;

    /// Adds `TAPS` taps of 16 bytes each times their weights, 16-bit numbers in the order of [`pack`].
    unsafe fn add(sums: &mut Self::Sums, taps: &[*const u8], weights: *const i8);

    /// Requantizes with 16 factors and writes `count` bytes.
    unsafe fn store_u8(sums: Self::Sums, scale: *const f32, to: &Requantize, y: *mut u8, count: usize);

    /// Multiplies by 16 factors and writes `count` floats.
    unsafe fn store_f32(sums: Self::Sums, scale: *const f32, y: *mut f32, count: usize);
}

/// Appends the weights of a block, `weight(channel, tap)`, 0 beyond the kernel: 16-bit numbers `[tap][channel]` as bytes, or,
/// in pairs, `[pair of taps][channel][tap]`.
pub(super) fn pack(pairs: bool, packed: &mut Vec<i8>, taps: usize, weight: impl Fn(usize, usize) -> i8) {
    let some = if pairs { 2 } else { 1 };
    for first in (0..taps).step_by(some) {
        for channel in 0..BLOCK {
            for tap in first..first + some {
                let [low, high] = i16::from(weight(channel, tap)).to_le_bytes();
                packed.extend([low as i8, high as i8]);
            }
        }
    }
}

/// Bytes of scratch of one thread: a pixel of zeros.
pub(super) fn scratch_bytes(channels: usize) -> usize {
    channels.next_multiple_of(BLOCK)
}

/// Computes blocks `blocks` of one row of output.
///
/// # Safety
/// The machine has the instructions of `K`. `row.y` may be written at the blocks' channels of each of its pixels.
#[inline(always)]
pub(super) unsafe fn row<K: Micro>(
    row: &Row<'_>,
    weights: &Weights,
    epilogue: &Epilogue,
    blocks: Range<usize>,
    scratch: &mut [u8],
) {
    let window = row.window;
    let taps = window.kernel[0] * window.kernel[1];
    let groups = taps.div_ceil(K::TAPS);
    // A tap takes two bytes for each channel.
    let block_bytes = groups * K::TAPS * 2 * BLOCK;
    let zeros = &mut scratch[..scratch_bytes(window.channels)];
    zeros.fill(row.x_zero);
    let zeros = &*zeros;
    assert!(blocks.end * block_bytes <= weights.packed.len());
    assert!(blocks.end * BLOCK <= weights.bias.len().min(weights.scale.len()));
    let mut table = [zeros.as_ptr(); TABLE];
    for output in 0..window.out_w {
        let mut known = 0..0;
        for block in blocks.clone() {
            let channel = block * BLOCK;
            let count = (window.channels - channel).min(BLOCK);
            // SAFETY: lengths of weights, bias and scale were checked above. An address in the table is that of a pixel
            // of the image or of the zeros, which have the block's channels; the output is the caller's promise.
            unsafe {
                let mut sums = K::start(weights.bias.as_ptr().add(channel));
                let packed = weights.packed.as_ptr().add(block * block_bytes);
                for first in (0..taps).step_by(TABLE) {
                    let some = first..(first + TABLE).min(taps);
                    if known != some {
                        write_down(row, output, some.clone(), zeros, &mut table);
                        known = some.clone();
                    }
                    for tap in some.clone().step_by(K::TAPS) {
                        let mut group = [zeros.as_ptr(); 2];
                        for i in 0..K::TAPS.min(some.end - tap) {
                            group[i] = table[(tap - first + i) % TABLE].add(channel);
                        }
                        let weights = packed.add(tap * 2 * BLOCK);
                        if count == BLOCK {
                            K::add(&mut sums, &group[..K::TAPS], weights);
                        } else {
                            let mut padded = [[0u8; BLOCK]; 2];
                            for (to, from) in padded.iter_mut().zip(group).take(K::TAPS) {
                                std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), count);
                            }
                            let group = [padded[0].as_ptr(), padded[1].as_ptr()];
                            K::add(&mut sums, &group[..K::TAPS], weights);
                        }
                    }
                }
                let offset = output * window.channels + channel;
                let scale = weights.scale.as_ptr().add(channel);
                match (epilogue, row.y) {
                    (Epilogue::Requantize(to), Pixels::U8(y)) => K::store_u8(sums, scale, to, y.add(offset), count),
                    (Epilogue::Dequantize { .. }, Pixels::F32(y)) => K::store_f32(sums, scale, y.add(offset), count),
                    _ => unreachable!("the output was checked against the epilogue"),
                }
            }
        }
    }
}

/// Writes the addresses of taps `taps` of an output pixel into `table`.
#[inline(always)]
fn write_down(row: &Row<'_>, output: usize, taps: Range<usize>, zeros: &[u8], table: &mut [*const u8; TABLE]) {
    let window = row.window;
    let columns = window.kernel[1];
    let (mut ky, mut kx) = (taps.start / columns, taps.start % columns);
    let mut line = row.line(ky);
    for to in &mut table[..taps.len()] {
        let column = (output * window.step + kx * window.dilation).wrapping_sub(window.pad_left);
        *to = match line {
            Some(line) if column < window.in_w => {
                line[column * window.channels..(column + 1) * window.channels].as_ptr()
            }
            _ => zeros.as_ptr(),
        };
        kx += 1;
        if kx == columns {
            (ky, kx) = (ky + 1, 0);
            line = row.line(ky);
        }
    }
}

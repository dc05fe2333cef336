//! From bytes to planes, and planes surrounded by padding.

use super::BitInput;
#[cfg(target_arch = "x86_64")]
use crate::cpu::AVX512;
use crate::cpu::Isa;
use crate::geometry::ConvGeometry;
use crate::pool::{Pool, SharedMut};
use crate::quantized::epilogue::Requantize;

/// Pixels that one piece of the work on bytes handles.
const CHUNK: usize = 128;

/// Which stored bytes occur, and what code each is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// Stored byte of code 0.
    pub lo: u8,
    /// From one code's byte to the next one's: 1, or 2 for bipolar values, stored as 127 and 129.
    pub step: u8,
    /// Bits of a code: how many planes there are, at most 4.
    pub planes: usize,
}

impl Codes {
    /// Whether the numbers make sense and are few enough for planes.
    pub(super) fn is_valid(self) -> bool {
        let top = usize::from(self.lo) + usize::from(self.step) * ((1 << self.planes.min(8)) - 1);
        (1..=4).contains(&self.planes) && (1..=2).contains(&self.step) && top <= 255
    }

    /// Whether everything a requantization without a table gives has a code.
    pub(super) fn holds(self, to: &Requantize) -> bool {
        let top = usize::from(self.lo) + (1 << self.planes) - 1;
        let inside = |v: u8| v >= self.lo && usize::from(v) <= top;
        to.table.is_none() && inside(to.zero) && inside(to.lo) && inside(to.hi)
    }

    /// The lowest bit of `byte − lo` that belongs to the code.
    fn shift(self) -> usize {
        usize::from(self.step - 1)
    }
}

/// Words of a pixel in one plane.
#[must_use]
pub fn plane_words(channels: usize) -> usize {
    channels.div_ceil(32)
}

/// Bytes of a value of `pixels` times `channels` as planes.
#[must_use]
pub fn plane_bytes(pixels: usize, channels: usize, planes: usize) -> usize {
    4 * planes * pixels * plane_words(channels)
}

/// Cuts the bytes of pixels of `channels` values into planes.
pub(super) fn split(isa: Isa, codes: Codes, x: &[u8], channels: usize, y: &mut [u32], pool: &Pool) {
    let words = plane_words(channels);
    let pixels = x.len() / channels;
    let y = SharedMut::new(y);
    pool.run(pixels.div_ceil(CHUNK), &|chunk| {
        let first = chunk * CHUNK;
        let count = CHUNK.min(pixels - first);
        let x = &x[first * channels..(first + count) * channels];
        for_planes(codes, pixels * words, first * words, count * words, &y, |to| {
            pixels_to(isa, codes, x, channels, to);
        });
    });
}

/// Hands out the same range of every plane. The ranges of two chunks never overlap.
fn for_planes(
    codes: Codes,
    plane: usize,
    start: usize,
    len: usize,
    y: &SharedMut<'_, u32>,
    f: impl FnOnce(&mut [&mut [u32]]),
) {
    let mut parts: [&mut [u32]; 4] = [&mut [], &mut [], &mut [], &mut []];
    for (i, part) in parts[..codes.planes].iter_mut().enumerate() {
        // SAFETY: planes are apart, and no other piece of the work has the same range of pixels.
        *part = unsafe { y.slice(i * plane + start..i * plane + start + len) };
    }
    f(&mut parts[..codes.planes]);
}

/// Writes what the windows reach over: `size` is images, rows and columns, from the top left of the padding on.
pub(super) fn pad(
    isa: Isa,
    g: &ConvGeometry,
    x: BitInput<'_>,
    codes: Codes,
    pad: u8,
    size: [usize; 3],
    image: &mut [u32],
    pool: &Pool,
) {
    let [batch, height, width] = size;
    let words = plane_words(g.in_c);
    let plane = batch * height * width * words;
    let last = 32 * words - g.in_c;
    let image = SharedMut::new(image);
    let left = g.pad_left.min(width);
    let inside = g.in_w.min(width - left);
    let rows = batch * height;
    // A few rows at a time: a row can be shorter than what it costs to hand it out.
    let each = (CHUNK / width.max(1)).max(1);
    let fill = |to: &mut [&mut [u32]], from: usize, count: usize| {
        for (i, to) in to.iter_mut().enumerate() {
            let ones = if pad >> i & 1 == 1 { u32::MAX } else { 0 };
            for pixel in to[from * words..(from + count) * words].chunks_exact_mut(words) {
                pixel.fill(ones);
                pixel[words - 1] = ones >> last;
            }
        }
    };
    pool.run(rows.div_ceil(each), &|chunk| {
        for row in chunk * each..((chunk + 1) * each).min(rows) {
            let (n, line) = (row / height, row % height);
            for_planes(codes, plane, row * width * words, width * words, &image, |to| {
                let source = line.checked_sub(g.pad_top).filter(|iy| *iy < g.in_h);
                let Some(iy) = source else { return fill(to, 0, width) };
                fill(to, 0, left);
                fill(to, left + inside, width - left - inside);
                let first = (n * g.in_h + iy) * g.in_w;
                match x {
                    BitInput::Planes(x) => {
                        let whole = g.batch * g.in_h * g.in_w * words;
                        for (i, to) in to.iter_mut().enumerate() {
                            let from = i * whole + first * words;
                            to[left * words..(left + inside) * words].copy_from_slice(&x[from..from + inside * words]);
                        }
                    }
                    BitInput::Bytes(x) => {
                        let x = &x[first * g.in_c..(first + inside) * g.in_c];
                        let mut parts: [&mut [u32]; 4] = [&mut [], &mut [], &mut [], &mut []];
                        for (part, to) in parts.iter_mut().zip(to) {
                            *part = &mut to[left * words..(left + inside) * words];
                        }
                        pixels_to(isa, codes, x, g.in_c, &mut parts[..codes.planes]);
                    }
                }
            });
        }
    });
}

/// For every pixel and word, the word, that of the next pixel, and the exclusive or of both and the next one's. The last
/// two pixels have no such neighbours, and nothing is written for them.
pub(super) fn triples(isa: Isa, planes: &[u32], words: usize, y: &mut [u32], pool: &Pool) {
    const PIECE: usize = 4096;
    let count = planes.len().saturating_sub(2 * words);
    assert!(y.len() >= 3 * count);
    let y = SharedMut::new(y);
    pool.run(count.div_ceil(PIECE), &|piece| {
        let range = piece * PIECE..((piece + 1) * PIECE).min(count);
        // SAFETY: pieces do not overlap.
        let y = unsafe { y.slice(3 * range.start..3 * range.end) };
        three(isa, &planes[range.start..range.end + 2 * words], words, y);
    });
}

/// `x` is two pixels longer than what is written.
fn three(isa: Isa, x: &[u32], words: usize, y: &mut [u32]) {
    let (b, c) = (&x[words..], &x[2 * words..]);
    #[cfg(target_arch = "x86_64")]
    let done = if AVX512 && isa.or_supported() == Isa::Avx512 { c.len() / 16 * 16 } else { 0 };
    #[cfg(target_arch = "x86_64")]
    if done > 0 {
        // SAFETY: the machine has the instructions; slices have the lengths that are said.
        unsafe { three_by_sixteen(&x[..done], &b[..done], &c[..done], &mut y[..3 * done]) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let (done, _) = (0, isa);
    let rest = y[3 * done..].chunks_exact_mut(3).zip(&x[done..]).zip(&b[done..]).zip(&c[done..]);
    for (((y, a), b), c) in rest {
        y.copy_from_slice(&[*a, *b, a ^ b ^ c]);
    }
}

/// # Safety
/// The machine has AVX-512 F; `a`, `b` and `c` are of the same length, a multiple of 16, and `y` is three times as long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn three_by_sixteen(a: &[u32], b: &[u32], c: &[u32], y: &mut [u32]) {
    use std::arch::x86_64::*;
    // Output word `i` is word `i / 3` of `a`, `b` or the exclusive or.
    let orders: [[[i32; 16]; 2]; 3] = std::array::from_fn(|register| {
        let at = |lane: usize| ((16 * register + lane) / 3, (16 * register + lane) % 3);
        let first = std::array::from_fn(|lane| at(lane).0 as i32 + if at(lane).1 == 1 { 16 } else { 0 });
        let then = std::array::from_fn(|lane| if at(lane).1 == 2 { at(lane).0 as i32 + 16 } else { lane as i32 });
        [first, then]
    });
    // SAFETY: by the caller's promise.
    unsafe {
        let orders = orders.map(|pair| pair.map(|order| _mm512_loadu_si512(order.as_ptr().cast())));
        for i in (0..a.len()).step_by(16) {
            let load = |x: &[u32]| _mm512_loadu_si512(x.as_ptr().add(i).cast());
            let (a, b, c) = (load(a), load(b), load(c));
            let all = _mm512_ternarylogic_epi32::<0x96>(a, b, c);
            for (register, [first, then]) in orders.iter().enumerate() {
                let two = _mm512_permutex2var_epi32(a, *first, b);
                let three = _mm512_permutex2var_epi32(two, *then, all);
                _mm512_storeu_si512(y.as_mut_ptr().add(3 * i + 16 * register).cast(), three);
            }
        }
    }
}

/// Cuts neighbouring pixels into planes, each slice of `to` holding the words of the pixels in one plane.
fn pixels_to(isa: Isa, codes: Codes, x: &[u8], channels: usize, to: &mut [&mut [u32]]) {
    let words = plane_words(channels);
    let pixels = x.len() / channels;
    assert!(to.iter().all(|plane| plane.len() == pixels * words) && x.len() == pixels * channels);
    match isa.or_supported() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the instructions, and lengths were compared above.
        Isa::Avx512 if AVX512 => unsafe { avx512(codes, x, channels, to) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2(codes, x, channels, to) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => unsafe { neon(codes, x, channels, to) },
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => simd128(codes, x, channels, to),
        _ => {
            for (i, plane) in to.iter_mut().enumerate() {
                for (pixel, words) in x.chunks_exact(channels).zip(plane.chunks_exact_mut(words)) {
                    scalar(codes, i, pixel, words);
                }
            }
        }
    }
}

/// One pixel, one plane: the definition.
fn scalar(codes: Codes, plane: usize, pixel: &[u8], words: &mut [u32]) {
    let bit = plane + codes.shift();
    for (values, word) in pixel.chunks(32).zip(words) {
        *word = values.iter().rev().fold(0, |word, v| word << 1 | u32::from(v.wrapping_sub(codes.lo) >> bit & 1));
    }
}

/// # Safety
/// The machine has AVX-512 F and BW; slices are of whole pixels.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(codes: Codes, x: &[u8], channels: usize, to: &mut [&mut [u32]]) {
    use std::arch::x86_64::*;
    let words = plane_words(channels);
    let lo = _mm512_set1_epi8(codes.lo as i8);
    for (i, pixel) in x.chunks_exact(channels).enumerate() {
        for (j, values) in pixel.chunks(64).enumerate() {
            // SAFETY: the masked load reads only the chunk.
            let codes_of = unsafe {
                let mask = u64::MAX >> (64 - values.len());
                _mm512_maskz_sub_epi8(mask, _mm512_maskz_loadu_epi8(mask, values.as_ptr().cast()), lo)
            };
            for (plane, to) in to.iter_mut().enumerate() {
                let bits = _mm512_test_epi8_mask(codes_of, _mm512_set1_epi8(1 << (plane + codes.shift())));
                let to = &mut to[i * words + 2 * j..(i + 1) * words];
                to[0] = bits as u32;
                if let Some(high) = to.get_mut(1) {
                    *high = (bits >> 32) as u32;
                }
            }
        }
    }
}

/// # Safety
/// The machine has AVX2; slices are of whole pixels.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(codes: Codes, x: &[u8], channels: usize, to: &mut [&mut [u32]]) {
    use std::arch::x86_64::*;
    let words = plane_words(channels);
    let lo = _mm256_set1_epi8(codes.lo as i8);
    for (i, pixel) in x.chunks_exact(channels).enumerate() {
        for (j, values) in pixel.chunks(32).enumerate() {
            let Some(whole) = values.first_chunk::<32>() else {
                for (plane, to) in to.iter_mut().enumerate() {
                    scalar(codes, plane, values, &mut to[i * words + j..i * words + j + 1]);
                }
                continue;
            };
            // SAFETY: 32 bytes are read from an array of 32.
            let values = unsafe { _mm256_sub_epi8(_mm256_loadu_si256(whole.as_ptr().cast()), lo) };
            for (plane, to) in to.iter_mut().enumerate() {
                // The wanted bit moves to the top of its byte; what comes over from the byte below stays under it.
                let count = _mm_cvtsi32_si128((7 - plane - codes.shift()) as i32);
                to[i * words + j] = _mm256_movemask_epi8(_mm256_sll_epi16(values, count)) as u32;
            }
        }
    }
}

/// # Safety
/// The machine has NEON; slices are of whole pixels.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(codes: Codes, x: &[u8], channels: usize, to: &mut [&mut [u32]]) {
    use std::arch::aarch64::*;
    let lo = vdupq_n_u8(codes.lo);
    in_words(codes, x, channels, to, |values, words| {
        // SAFETY: 32 bytes are read from an array of 32.
        let codes_of = [0, 16].map(|at| unsafe { vsubq_u8(vld1q_u8(values.as_ptr().add(at)), lo) });
        for (plane, word) in words.iter_mut().enumerate() {
            let bit = vdupq_n_u8(1 << (plane + codes.shift()));
            *word = super::neon::word([vtstq_u8(codes_of[0], bit), vtstq_u8(codes_of[1], bit)]);
        }
    });
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
fn simd128(codes: Codes, x: &[u8], channels: usize, to: &mut [&mut [u32]]) {
    use std::arch::wasm32::*;
    let lo = u8x16_splat(codes.lo);
    in_words(codes, x, channels, to, |values, words| {
        // SAFETY: 32 bytes are read from an array of 32.
        let codes_of = [0, 16].map(|at| unsafe { u8x16_sub(v128_load(values.as_ptr().add(at).cast()), lo) });
        for (plane, word) in words.iter_mut().enumerate() {
            // The wanted bit moves to the top of its byte; what comes over from the byte below stays under it.
            let count = (7 - plane - codes.shift()) as u32;
            let [low, high] = codes_of.map(|codes| u32::from(i8x16_bitmask(i16x8_shl(codes, count))));
            *word = low | high << 16;
        }
    });
}

/// Hands out 32 channels at a time and the word of each plane that they become. The last ones of a pixel may be fewer.
#[cfg(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
fn in_words(codes: Codes, x: &[u8], channels: usize, to: &mut [&mut [u32]], whole: impl Fn(&[u8; 32], &mut [u32])) {
    let words = plane_words(channels);
    for (i, pixel) in x.chunks_exact(channels).enumerate() {
        for (j, values) in pixel.chunks(32).enumerate() {
            let at = i * words + j;
            let Some(values) = values.first_chunk::<32>() else {
                for (plane, to) in to.iter_mut().enumerate() {
                    scalar(codes, plane, values, &mut to[at..at + 1]);
                }
                continue;
            };
            let mut all = [0; 4];
            let all = &mut all[..to.len()];
            whole(values, all);
            for (to, word) in to.iter_mut().zip(all) {
                to[at] = *word;
            }
        }
    }
}

//! Convolution and matrix product of few-bit values by few-bit weights, as logic and population counts over bit planes.
//!
//! An activation of `p` bits is held as `p` images of one bit per value, its *planes*; a weight as one or more *digits*
//! of −1, 0 and +1 with powers of two as factors. One digit times one plane of 32 channels is a logic operation, a
//! population count and an addition, whatever the digit: with `n` the channels whose digit is negative and `z` those
//! where it is not zero, `Σ t·x = popcount(z & (x ^ n)) − popcount(n)`, and the last term goes into the bias. A layer
//! takes as many such passes as it has digits times planes ([`BitConv::passes`]).
//!
//! Planes are laid out `[plane][pixel][word]`, 32 channels to a word, the first channel in the lowest bit; bits beyond the
//! last channel are 0. A layer writes planes itself where its only readers want them, so that between two such layers
//! no value ever takes a byte.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_triples;
mod digits;
#[cfg(target_arch = "aarch64")]
mod neon;
mod planes;
mod scalar;
mod strip;
#[cfg_attr(
    not(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128"))),
    path = "tables/none.rs"
)]
mod tables;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

pub use planes::{Codes, plane_bytes, plane_words};

use digits::Digits;
use strip::{Pass, Strip, Target};
use tables::Tables;

use super::IntegerSource;
use super::conv::fold_zero;
use super::elementwise;
use super::epilogue::{Epilogue, Requantize, Residual};
use super::lookup;
#[cfg(target_arch = "x86_64")]
use crate::cpu::AVX512;
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::geometry::ConvGeometry;
use crate::pool::{Pool, SharedMut};

/// What a [`BitConv`] reads.
#[derive(Debug, Clone, Copy)]
pub enum BitInput<'a> {
    /// Stored bytes, the channel last: they are cut into planes first.
    Bytes(&'a [u8]),
    /// Planes.
    Planes(&'a [u32]),
}

/// Where a [`BitConv`] writes: what its epilogue gives.
#[derive(Debug)]
pub enum BitOutput<'a> {
    /// Stored bytes.
    U8(&'a mut [u8]),
    /// Real numbers.
    F32(&'a mut [f32]),
    /// Planes of the codes given to [`BitConv::pack`].
    Planes(&'a mut [u32]),
}

/// A dense two-dimensional convolution with weights of few bits, over activations of few bits.
#[derive(Debug, Clone)]
pub struct BitConv {
    /// The instruction set asked for, and that of the kernel.
    asked: Isa,
    isa: Isa,
    /// As given.
    geometry: ConvGeometry,
    /// As computed: a pointwise convolution is one row of pixels.
    flat: ConvGeometry,
    codes: Codes,
    /// The code that taps in the padding read.
    pad: u8,
    digits: Digits,
    passes: Vec<Pass>,
    /// What takes the place of digits where sums are looked up.
    tables: Option<Tables>,
    /// `[class][column]`: bias, the input's zero, and what the planes count too much.
    bias: Vec<i32>,
    /// Rows and columns of output pixels that read the same taps; all 0 where padding is a code like any other.
    row_class: Vec<u16>,
    col_class: Vec<u16>,
    scale: Vec<f32>,
    epilogue: Epilogue,
    /// The requantization to codes, where planes are written.
    to_planes: Option<(Codes, Requantize)>,
}

impl BitConv {
    /// Packs `weights`, `[out_c, kernel rows, kernel columns, in_c]`, or gives `None` where they or the geometry are not
    /// for this kernel: weights beyond ±7, more than four planes, groups.
    ///
    /// `bias` has one value per output channel, in units of `x_scale·w_scale[c]`; `x_zero` is the stored value that means
    /// zero. With `out_codes`, the layer can write planes of these codes.
    ///
    /// # Errors
    /// When the geometry or a length is inconsistent, a scale is not finite, or the sum of a channel could leave
    /// the range of `i32`.
    pub fn pack(
        isa: Isa,
        geometry: ConvGeometry,
        weights: IntegerSource<'_>,
        bias: Option<&[i32]>,
        (codes, x_zero): (Codes, u8),
        epilogue: Epilogue,
        out_codes: Option<Codes>,
    ) -> Result<Option<BitConv>, KernelError> {
        BitConv::pack_for(isa, geometry, weights, bias, (codes, x_zero), epilogue, out_codes, tables::LEAST_USES)
    }

    /// [`BitConv::pack`]; sums are looked up where tables are used so often.
    fn pack_for(
        isa: Isa,
        geometry: ConvGeometry,
        weights: IntegerSource<'_>,
        bias: Option<&[i32]>,
        (codes, x_zero): (Codes, u8),
        epilogue: Epilogue,
        out_codes: Option<Codes>,
        least_uses: usize,
    ) -> Result<Option<BitConv>, KernelError> {
        geometry.check()?;
        let weights: &[i8] = weights;
        expect_len("weights", weights.len(), geometry.weights_len())?;
        epilogue.check(geometry.out_c)?;
        let taken = geometry.groups == 1 && geometry.taps() <= strip::MOST_SEGMENTS && codes.is_valid();
        if !taken || weights.iter().any(|w| w.unsigned_abs() > digits::MOST) {
            return Ok(None);
        }
        // The same proof as for bytes, so that a layer is refused whatever computes it.
        fold_zero(weights, geometry.depth(), bias, geometry.out_c, x_zero)?;
        let flat = if geometry.is_pointwise() {
            ConvGeometry::matmul(geometry.out_pixels(), geometry.in_c, geometry.out_c)
        } else {
            geometry
        };
        let (asked, isa) = (isa.or_supported(), kernel_isa(isa));
        let neighbours = flat.kernel[1] == 3 && flat.dilation[1] == 1;
        let Some(mut digits) = Digits::pack(&flat, weights, isa == Isa::Avx512 && neighbours) else { return Ok(None) };
        let tables = Tables::pack(isa, &flat, weights, least_uses);
        if let Some(tables) = &tables {
            digits.leave_words(tables.signs());
        }
        let to_planes = match (out_codes, &epilogue) {
            (Some(out), Epilogue::Requantize(to)) if out.is_valid() && out.step == 1 => {
                // With a table, bytes are written first and cut afterwards.
                if to.table.is_some() {
                    Some((out, to.clone()))
                } else {
                    out.holds(to).then(|| {
                        let code = |v: u8| v - out.lo;
                        let (zero, lo, hi) = (code(to.zero), code(to.lo), code(to.hi));
                        (out, Requantize { scale: vec![], zero, lo, hi, table: None })
                    })
                }
            }
            _ => None,
        };
        let passes = strip::passes(digits.count, codes.planes);
        let step = i32::from(codes.step);
        let offset = i32::from(codes.lo) - i32::from(x_zero);
        let distance = i32::from(x_zero) - i32::from(codes.lo);
        let top = (1 << codes.planes) - 1;
        let exact = distance >= 0 && distance % step == 0 && distance / step <= top;
        let (row_class, row_taps) = classes(flat.out_h, exact, |oy| flat.row_taps(oy));
        let (col_class, col_taps) = classes(flat.out_w, exact, |ox| flat.col_taps(ox));
        let padded = digits.padded();
        let mut folded = Vec::with_capacity(row_taps.len() * col_taps.len() * padded);
        let sum = |column: usize, inside: &dyn Fn(usize, usize) -> bool| -> i32 {
            let [rows, cols] = flat.kernel;
            let taps = (0..rows).flat_map(|ky| (0..cols).map(move |kx| (ky, kx))).filter(|(ky, kx)| inside(*ky, *kx));
            taps.map(|(ky, kx)| {
                let first = ((column * rows + ky) * cols + kx) * flat.in_c;
                weights[first..first + flat.in_c].iter().map(|w| i32::from(*w)).sum::<i32>()
            })
            .fold(0, i32::wrapping_add)
        };
        for rows in &row_taps {
            for cols in &col_taps {
                for column in 0..padded {
                    if column >= flat.out_c {
                        folded.push(0);
                        continue;
                    }
                    // `x − zero = step·code + offset` inside, 0 in the padding, where the planes hold code 0.
                    let read = sum(column, &|ky, kx| exact || (rows.contains(&ky) && cols.contains(&kx)));
                    let negatives = digits.negatives[column].wrapping_mul(top).wrapping_mul(step);
                    let bias = bias.map_or(0, |bias| bias[column]);
                    folded.push(bias.wrapping_add(offset.wrapping_mul(read)).wrapping_sub(negatives));
                }
            }
        }
        let row_class = row_class.iter().map(|class| class * col_taps.len() as u16).collect();
        let mut scale = epilogue.scale().to_vec();
        scale.resize(padded, 0.0);
        let pad = if exact { (distance / step) as u8 } else { 0 };
        Ok(Some(BitConv {
            asked,
            isa,
            geometry,
            flat,
            codes,
            pad,
            digits,
            passes,
            tables,
            bias: folded,
            row_class,
            col_class,
            scale,
            epilogue,
            to_planes,
        }))
    }

    /// The sizes it was packed for.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// Passes over the bits of a window: digits of a weight times planes of an activation.
    #[must_use]
    pub fn passes(&self) -> usize {
        self.passes.len()
    }

    /// Bytes of the packed weights.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.tables.as_ref().map_or(self.digits.bytes(), Tables::bytes)
    }

    /// Whether it can write planes.
    #[must_use]
    pub fn writes_planes(&self) -> bool {
        self.to_planes.is_some()
    }

    /// Bytes of scratch that [`BitConv::run`] needs on a pool of `threads`, whatever its input and output.
    #[must_use]
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        let tables = self.tables.as_ref().map_or(0, |t| t.scratch_bytes(&self.flat, self.codes.planes, threads));
        self.image_bytes() + tables + if self.through_bytes() { self.flat.output_len() } else { 0 }
    }

    /// Whether this is the kernel to choose, by what `bench_lowbit` measured on 3×3 layers of 64 to 512 channels: beside
    /// eight-bit weights one pass was 4.1 to 5.4 times as fast with AVX-512 and 4.2 to 5.0 times with AVX2, and time grows
    /// with the passes; beside [`super::NarrowConv`], which takes up to four bits, two passes are faster with AVX2 and four
    /// with AVX-512, with NEON and in WebAssembly. Dot products of bytes leave less to gain, by the cycles that `bench/lowbit neon`
    /// estimates: one pass pays from 128 channels on, two from 256, and beside matrix products of bytes one alone. Channels that leave
    /// words half empty count as if they were there.
    #[must_use]
    pub fn pays(&self) -> bool {
        let channels = self.flat.in_c;
        let most = match self.asked {
            Isa::NeonDot => (channels / 128).min(2),
            Isa::NeonI8mm => (channels / 128).min(1),
            Isa::Avx512 if self.isa == Isa::Avx512 => 4,
            Isa::Avx2 => 2,
            // Eight-bit multiplications in one instruction are faster than counts by table.
            Isa::Avx512 | Isa::AvxVnni => 0,
            _ => 4,
        };
        self.passes() * 32 * self.words() <= most * channels
    }

    /// Convolves `x`, `[batch, in_h, in_w, in_c]`, into `y`, `[batch, out_h, out_w, out_c]`, either of them as planes or not.
    ///
    /// `scratch` is 4-byte aligned and holds at least [`BitConv::scratch_bytes`] bytes; what it contains does not matter.
    /// Allocates nothing.
    ///
    /// # Errors
    /// When a length is wrong or `y` is not of the kind the epilogue writes.
    pub fn run(&self, x: BitInput<'_>, y: BitOutput<'_>, scratch: &mut [u8], pool: &Pool) -> Result<(), KernelError> {
        self.run_adding(x, None, y, scratch, pool)
    }

    /// [`BitConv::run`] with values added to the results, which must be stored bytes.
    ///
    /// # Errors
    /// As [`BitConv::run`]; when the residual has another length than the output, its constants are out of range, or the
    /// results are no bytes.
    pub fn run_adding(
        &self,
        x: BitInput<'_>,
        residual: Option<Residual<'_>>,
        y: BitOutput<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let g = &self.flat;
        self.check(&x, &y)?;
        if let Some(residual) = residual {
            expect_len("residual", residual.values.len(), g.output_len())?;
            residual.add.check()?;
            if !matches!(y, BitOutput::U8(_)) {
                return Err(KernelError::Unsupported("values can be added to results of whole bytes alone".into()));
            }
        }
        let need = self.scratch_bytes(pool.threads());
        if scratch.len() < need {
            expect_len("scratch", scratch.len(), need)?;
        }
        let (image, rest) = scratch[..need].split_at_mut(self.image_bytes());
        let (bytes, tables) = rest.split_at_mut(if self.through_bytes() { g.output_len() } else { 0 });
        // SAFETY: any four bytes are a `u32`; what lies before the first aligned one must be nothing.
        let (before, image, _) = unsafe { image.align_to_mut::<u32>() };
        if !before.is_empty() {
            return Err(KernelError::Unsupported("scratch must be aligned to four bytes".into()));
        }
        let [batch, height, width] = self.reach();
        let words = self.words();
        let whole = (g.pad_top, g.pad_left) == (0, 0) && height <= g.in_h && width <= g.in_w && !self.digits.triples;
        let (image, threes) = image.split_at_mut(self.codes.planes * batch * height * width * words);
        let (planes, pitch, rows): (&[u32], usize, usize) = match x {
            BitInput::Planes(planes) if whole => (planes, g.in_w, g.in_h),
            x => {
                let size = [batch, height, width];
                planes::pad(self.isa, g, x, self.codes, self.pad, size, image, pool);
                (image, width, height)
            }
        };
        let (planes, words) = if self.digits.triples {
            planes::triples(self.isa, planes, words, threes, pool);
            (&*threes, 3 * words)
        } else {
            (planes, words)
        };
        let pitch = pitch * words;
        let place = Place { planes, words, pitch, image: rows * pitch, plane: batch * rows * pitch };
        match (y, &self.epilogue, &self.to_planes) {
            (BitOutput::U8(y), Epilogue::Requantize(to), _) => {
                self.bytes(&place, tables, y, to, pool);
                if let Some(Residual { values, add }) = residual {
                    const CHUNK: usize = 16 * 1024;
                    pool.for_each_chunk_mut(y, CHUNK, |chunk, y| {
                        elementwise::add_in_place(self.isa, add, y, &values[chunk * CHUNK..][..y.len()]);
                    });
                }
            }
            (BitOutput::F32(y), Epilogue::Dequantize { .. }, _) => {
                let y = SharedMut::new(y);
                self.sweep(&place, tables, pool, &|pixel, column| Target::F32 {
                    y: y.as_mut_ptr().wrapping_add(pixel * g.out_c + column),
                    stride: g.out_c,
                });
            }
            (BitOutput::Planes(y), Epilogue::Requantize(own), Some((codes, to))) => {
                if own.table.is_some() {
                    self.bytes(&place, tables, bytes, own, pool);
                    planes::split(self.isa, *codes, bytes, g.out_c, y, pool);
                    return Ok(());
                }
                let words = plane_words(g.out_c);
                let plane = g.out_pixels() * words;
                let y = SharedMut::new(y);
                self.sweep(&place, tables, pool, &|pixel, column| Target::Planes {
                    y: y.as_mut_ptr().wrapping_add(pixel * words).cast::<u16>().wrapping_add(column / 16),
                    stride: 2 * words,
                    plane: 2 * plane,
                    planes: codes.planes,
                    to,
                });
            }
            _ => unreachable!("the output was checked against the epilogue"),
        }
        Ok(())
    }

    /// Writes stored bytes.
    fn bytes(&self, place: &Place<'_>, tables: &mut [u8], y: &mut [u8], to: &Requantize, pool: &Pool) {
        let stride = self.flat.out_c;
        let shared = SharedMut::new(y);
        self.sweep(place, tables, pool, &|pixel, column| Target::U8 {
            y: shared.as_mut_ptr().wrapping_add(pixel * stride + column),
            stride,
            to,
        });
        if let Some(table) = &to.table {
            pool.for_each_chunk_mut(y, 32 * 1024, |_, y| lookup::in_place(self.isa, table, y));
        }
    }

    /// Images, rows and columns that the windows reach over, padding included.
    fn reach(&self) -> [usize; 3] {
        let g = &self.flat;
        let axis = |out: usize, axis: usize| (out - 1) * g.stride[axis] + (g.kernel[axis] - 1) * g.dilation[axis] + 1;
        [g.batch, axis(g.out_h, 0), axis(g.out_w, 1)]
    }

    fn words(&self) -> usize {
        plane_words(self.flat.in_c)
    }

    /// Bytes of the planes with their padding, and of their triples.
    fn image_bytes(&self) -> usize {
        let planes = self.codes.planes * self.reach().iter().product::<usize>() * self.words();
        (4 * planes * if self.digits.triples { 4 } else { 1 }).next_multiple_of(64)
    }

    /// Whether planes are written by way of bytes, for a table between.
    fn through_bytes(&self) -> bool {
        self.to_planes.is_some() && matches!(&self.epilogue, Epilogue::Requantize(to) if to.table.is_some())
    }

    fn check(&self, x: &BitInput<'_>, y: &BitOutput<'_>) -> Result<(), KernelError> {
        let g = &self.geometry;
        let pixels = g.batch * g.in_h * g.in_w;
        match x {
            BitInput::Bytes(x) => expect_len("input", x.len(), g.input_len())?,
            BitInput::Planes(x) => {
                expect_len("input planes", x.len(), self.codes.planes * pixels * plane_words(g.in_c))?;
            }
        }
        match (y, &self.epilogue, &self.to_planes) {
            (BitOutput::U8(y), Epilogue::Requantize(_), _) => expect_len("output", y.len(), g.output_len()),
            (BitOutput::F32(y), Epilogue::Dequantize { .. }, _) => expect_len("output", y.len(), g.output_len()),
            (BitOutput::Planes(y), _, Some((codes, _))) => {
                expect_len("output planes", y.len(), codes.planes * g.out_pixels() * plane_words(g.out_c))
            }
            _ => Err(KernelError::Unsupported("the output is not of the kind the epilogue writes".into())),
        }
    }

    /// Computes all outputs; `target` says where the results of a pixel go, from a column on.
    fn sweep<'t>(
        &self,
        place: &Place<'_>,
        tables: &mut [u8],
        pool: &Pool,
        target: &(dyn Fn(usize, usize) -> Target<'t> + Sync),
    ) {
        if let Some(own) = &self.tables {
            return own.sweep(self, place, tables, pool, target);
        }
        let g = &self.flat;
        let words = self.words();
        let panels = self.digits.padded() / digits::LANES;
        // Pieces of a row: long rows (products) are cut so that threads share them.
        let share = if pool.threads() == 1 { 1 } else { 2 * pool.threads() };
        let rows = g.batch * g.out_h;
        let piece = if rows >= share { g.out_w } else { g.out_w.div_ceil(share.div_ceil(rows)).max(8).min(g.out_w) };
        let pieces = g.out_w.div_ceil(piece);
        let strips = rows * pieces;
        let pairs = panels.div_ceil(2);
        let row_jobs = share.min(strips);
        let column_jobs = if row_jobs >= share { 1 } else { share.div_ceil(row_jobs).min(pairs) };
        let (strips_each, pairs_each) = (strips.div_ceil(row_jobs), pairs.div_ceil(column_jobs));
        let mut offsets = [0; strip::MOST_SEGMENTS];
        let (segments, run) = strip::segments(g, place.pitch, words, &mut offsets);
        pool.run(row_jobs * column_jobs, &|job| {
            let (rows_of, columns_of) = (job / column_jobs, job % column_jobs);
            for pair in columns_of * pairs_each..((columns_of + 1) * pairs_each).min(pairs) {
                let column = pair * 2 * digits::LANES;
                for at in rows_of * strips_each..((rows_of + 1) * strips_each).min(strips) {
                    let (row, first) = (at / pieces, at % pieces * piece);
                    let (n, oy) = (row / g.out_h, row % g.out_h);
                    let count = piece.min(g.out_w - first);
                    let start = n * place.image + oy * g.stride[0] * place.pitch + first * g.stride[1] * place.words;
                    let strip = Strip {
                        x: place.planes,
                        start,
                        step: g.stride[1] * place.words,
                        plane: place.plane,
                        segments,
                        run,
                        passes: &self.passes,
                        scale_shift: u32::from(self.codes.step == 2),
                        digits: &self.digits,
                        column,
                        columns: g.out_c,
                        bias: &self.bias,
                        classes: &self.col_class[first..first + count],
                        row_class: usize::from(self.row_class[oy]),
                        scale: &self.scale,
                        count,
                    };
                    let target = target(row * g.out_w + first, column);
                    strip.check();
                    // SAFETY: the strip reads inside its slices (checked above), `target` points to what no other job
                    // writes: the columns from `column` on, at most two panels, of `count` pixels; `isa` was limited
                    // to what the machine has.
                    unsafe {
                        match self.isa {
                            #[cfg(target_arch = "x86_64")]
                            Isa::Avx512 if AVX512 && self.digits.triples => avx512_triples::strip(&strip, &target),
                            #[cfg(target_arch = "x86_64")]
                            Isa::Avx512 if AVX512 => avx512::strip(&strip, &target),
                            #[cfg(target_arch = "x86_64")]
                            Isa::Avx2 => avx2::strip(&strip, &target),
                            #[cfg(target_arch = "aarch64")]
                            Isa::Neon => neon::strip::<false>(&strip, &target),
                            #[cfg(target_arch = "aarch64")]
                            Isa::NeonDot | Isa::NeonI8mm => neon::strip::<true>(&strip, &target),
                            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
                            Isa::Simd128 => wasm::strip(&strip, &target),
                            _ => scalar::strip(&strip, &target),
                        }
                    }
                }
            }
        });
    }
}

/// Planes as the windows find them.
struct Place<'a> {
    planes: &'a [u32],
    /// Words from one pixel to the next.
    words: usize,
    /// Words from one row to the next.
    pitch: usize,
    /// Words from one image to the next.
    image: usize,
    /// Words from one plane to the next.
    plane: usize,
}

/// The number of the class of every position, and the taps each class reads; one class if `all` is true.
fn classes(
    count: usize,
    all: bool,
    taps: impl Fn(usize) -> std::ops::Range<usize>,
) -> (Vec<u16>, Vec<std::ops::Range<usize>>) {
    if all {
        return (vec![0; count], vec![std::ops::Range::default()]);
    }
    let mut ranges: Vec<std::ops::Range<usize>> = vec![];
    let class = (0..count)
        .map(|i| {
            let range = taps(i);
            ranges.iter().position(|r| *r == range).unwrap_or_else(|| {
                ranges.push(range);
                ranges.len() - 1
            }) as u16
        })
        .collect();
    (class, ranges)
}

/// The instruction set whose kernel runs: AVX-512 only with its population counts.
fn kernel_isa(isa: Isa) -> Isa {
    match isa.or_supported() {
        Isa::Avx512 if !crate::cpu::has_vpopcnt() => Isa::Avx2,
        Isa::AvxVnni => Isa::Avx2,
        isa => isa,
    }
}

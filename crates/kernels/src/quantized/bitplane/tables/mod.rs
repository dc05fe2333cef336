//! Sums of few channels looked up in tables, for instruction sets that look up sixteen bytes at once.
//!
//! One bit of the weights of a few neighbouring channels is an index. What a pixel adds for each index is a table, made of the
//! bits of its planes. One instruction looks up sixteen output channels, which is as many products as they times the channels
//! of an index; counting the bits of a logic operation takes three for what is not twice as many. And sums of so few
//! channels fit four bits, so that a byte of a table serves two pixels, one in each half; the halves are taken apart after
//! the sums of bytes have been added, `high` by a shift of what is added and `low` as what `high` leaves of all of it.
//!
//! Two pixels whose windows are half a row apart share their tables, so that no table is made twice. Tables of the input
//! rows that a window reaches over are kept in scratch, one set a thread, and each row is made once on the way down.

#[cfg(target_arch = "aarch64")]
#[path = "neon.rs"]
mod simd;
#[cfg(target_arch = "wasm32")]
#[path = "wasm.rs"]
mod simd;

use super::digits::LANES;
use super::strip::Target;
use super::{BitConv, Place, plane_words};
use crate::aligned::Aligned;
use crate::cpu::Isa;
use crate::geometry::ConvGeometry;
use crate::pool::{Pool, SharedMut};

/// Channels of an index: a table has a byte for each of its values.
const CHANNELS: usize = if cfg!(target_arch = "aarch64") { 5 } else { 4 };
const ENTRIES: usize = 1 << CHANNELS;
/// Panels computed at a time where there are so many, else two.
const PANELS: usize = simd::PANELS;
/// Pairs of pixels computed at a time.
const PAIRS: usize = 2;
/// Pairs of pixels whose tables lie side by side: longer rows are cut.
const PIECE: usize = 64;
/// Products that tables take part in at least, times panels, for it to pay to make them.
pub(super) const LEAST_USES: usize = 24;
/// What a sum of 16 bits holds of the products of a pixel.
const MOST_STEPS: usize = 65535 / (3 * CHANNELS);

/// Weights as indices.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    /// `[panel][digit][kernel row, kernel column, channels][column of 16]`
    indices: Aligned<i8>,
    digits: usize,
    /// Whether digits are ±1, and an index says where they are negative; else they are the bits of weights, the last of which
    /// counts negative.
    signs: bool,
    /// Indices of the channels of a tap.
    groups: usize,
    /// Indices of a column and digit.
    steps: usize,
    /// An even number.
    panels: usize,
    /// For the first plane and pixel, the second plane, and the same of the second pixel: what the channels' bits add for each index.
    parts: [Vec<[u8; ENTRIES]>; 4],
}

/// Sums of up to two pairs of pixels by panels: `[pair][pixel of the pair][panel][column]`.
type Sums<T> = [[[[T; LANES]; PANELS]; 2]; PAIRS];

/// What is computed at a time.
struct Tile<'a> {
    /// The tables of the first pair's window, in runs of `run` tables.
    segments: &'a [*const u8],
    run: usize,
    /// Bytes to the tables of the next pair.
    step: usize,
    /// Indices of the first panel, and bytes to those of the next.
    indices: *const u8,
    panel: usize,
}

/// Tables of the rows that a window reaches over, for some pixels of a row.
struct Window<'a> {
    /// `[planes in pairs][row]`
    tables: &'a mut [[u8; ENTRIES]],
    /// Tables of a row.
    row: usize,
    /// Rows.
    span: usize,
}

impl Tables {
    /// Packs `weights`, `[out_c, taps, in_c]`, or gives `None` where the set has no kernel, weights need more than four bits, a sum may
    /// be too large, or tables would take part in fewer than `least_uses` products times panels.
    pub(super) fn pack(isa: Isa, g: &ConvGeometry, weights: &[i8], least_uses: usize) -> Option<Tables> {
        if isa == Isa::Scalar {
            return None;
        }
        let groups = g.in_c.div_ceil(CHANNELS);
        let (taps, panels) = (g.taps(), g.out_c.div_ceil(2 * LANES) * 2);
        let steps = taps * groups;
        let (low, high) = weights.iter().fold((0, 0), |(low, high), w| (low.min(*w), high.max(*w)));
        let odd = weights.iter().all(|w| w % 2 != 0) && low >= -3 && high <= 3;
        let digits = if odd {
            if low >= -1 && high <= 1 { 1 } else { 2 }
        } else {
            (1..=4).find(|bits| low >= -1 << (bits - 1) && high < 1 << (bits - 1))?
        };
        if steps > MOST_STEPS || taps * panels < least_uses {
            return None;
        }
        let bit = |w: i8, digit: usize| -> usize {
            let negative = match (odd, digit) {
                (false, _) => w >> digit & 1 == 1,
                (true, 0) if digits == 2 => w == -3 || w == 1,
                (true, _) => w < 0,
            };
            usize::from(negative)
        };
        let mut indices = Aligned::zeros(panels * digits * steps * LANES);
        for (column, own) in weights.chunks_exact(g.taps() * g.in_c).enumerate() {
            let (panel, lane) = (column / LANES, column % LANES);
            for digit in 0..digits {
                let into = &mut indices[(panel * digits + digit) * steps * LANES..][..steps * LANES];
                for (tap, own) in own.chunks_exact(g.in_c).enumerate() {
                    for (group, channels) in own.chunks(CHANNELS).enumerate() {
                        let index = channels.iter().rev().fold(0, |index, w| index << 1 | bit(*w, digit));
                        into[(tap * groups + group) * LANES + lane] = index as i8;
                    }
                }
            }
        }
        let parts = [1, 2, 16, 32].map(|factor| {
            let entry =
                |bits: usize, index: usize| factor * (if odd { bits ^ index } else { bits & index }).count_ones();
            (0..ENTRIES).map(|bits| std::array::from_fn(|index| entry(bits, index) as u8)).collect()
        });
        Some(Tables { indices, digits, signs: odd, groups, steps, panels, parts })
    }

    /// Bytes of the packed weights.
    pub(super) fn bytes(&self) -> usize {
        self.indices.len()
    }

    /// Whether digits are ±1.
    pub(super) fn signs(&self) -> bool {
        self.signs
    }

    /// Pairs of a piece of a row, and tables of the row of the input below it.
    fn piece(&self, g: &ConvGeometry) -> (usize, usize) {
        let pairs = g.out_w.div_ceil(2).min(PIECE);
        let positions = (pairs - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
        (pairs, positions * self.groups)
    }

    /// Tables of one thread.
    fn tables(&self, g: &ConvGeometry, planes: usize) -> usize {
        planes.div_ceil(2) * span(g) * self.piece(g).1
    }

    /// Bytes of scratch for a pool of so many threads.
    pub(super) fn scratch_bytes(&self, g: &ConvGeometry, planes: usize, threads: usize) -> usize {
        threads * self.tables(g, planes) * ENTRIES
    }

    /// Computes all outputs; `target` says where the results of a pixel go, from a column on.
    pub(super) fn sweep<'t>(
        &self,
        conv: &BitConv,
        place: &Place<'_>,
        scratch: &mut [u8],
        pool: &Pool,
        target: &(dyn Fn(usize, usize) -> Target<'t> + Sync),
    ) {
        let g = &conv.flat;
        let planes = conv.codes.planes;
        let each = self.tables(g, planes);
        let scratch = SharedMut::new(&mut scratch.as_chunks_mut::<ENTRIES>().0[..pool.threads() * each]);
        let rows = g.batch * g.out_h;
        let pieces = g.out_w.div_ceil(2 * PIECE);
        // Rows that follow each other share tables.
        let share = if pool.threads() == 1 { 1 } else { 2 * pool.threads() };
        let row_jobs = share.div_ceil(pieces).min(rows);
        let rows_each = rows.div_ceil(row_jobs);
        pool.run_indexed(row_jobs * pieces, &|worker, job| {
            // SAFETY: a worker runs one job at a time, and its range is its own.
            let tables = unsafe { scratch.slice(worker * each..(worker + 1) * each) };
            let window = Window { tables, row: self.piece(g).1, span: span(g) };
            let (first, last) = (job / pieces * rows_each, ((job / pieces + 1) * rows_each).min(rows));
            let pixel = job % pieces * 2 * PIECE;
            self.piece_of_rows(conv, place, window, first..last, pixel..(pixel + 2 * PIECE).min(g.out_w), target);
        });
    }

    /// Computes the same pixels of some rows, those of all images numbered one after the other.
    fn piece_of_rows<'t>(
        &self,
        conv: &BitConv,
        place: &Place<'_>,
        mut window: Window<'_>,
        rows: std::ops::Range<usize>,
        pixels: std::ops::Range<usize>,
        target: &(dyn Fn(usize, usize) -> Target<'t> + Sync),
    ) {
        let g = &conv.flat;
        let span = window.span;
        let (mut image, mut made) = (usize::MAX, 0);
        for row in rows {
            let (n, oy) = (row / g.out_h, row % g.out_h);
            let top = oy * g.stride[0];
            if n != image {
                (image, made) = (n, 0);
            }
            for y in made.max(top)..top + span {
                self.make(conv, place, &mut window, n * place.image + y * place.pitch, y % span, &pixels);
            }
            made = top + span;
            self.row(conv, &window, top, row, &pixels, target);
        }
    }

    /// Makes the tables of a row of the input, which starts at word `start`, for the window's row `slot`.
    fn make(
        &self,
        conv: &BitConv,
        place: &Place<'_>,
        window: &mut Window<'_>,
        start: usize,
        slot: usize,
        pixels: &std::ops::Range<usize>,
    ) {
        let g = &conv.flat;
        let pairs = pixels.len().div_ceil(2);
        let positions = (pairs - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
        // From the first pixel of a pair to the second, and the end of the row: the last pair may have no second pixel.
        let (apart, end) = (pairs * g.stride[1], place.pitch / place.words);
        let words = plane_words(g.in_c);
        for pair in 0..conv.codes.planes.div_ceil(2) {
            let tables = &mut window.tables[(pair * window.span + slot) * window.row..][..window.row];
            for (i, tables) in tables.chunks_exact_mut(self.groups).take(positions).enumerate() {
                let x = pixels.start * g.stride[1] + i;
                let none: &[u32] = &[];
                let mut of = [[none; 2]; 2];
                for (second, of) in of.iter_mut().enumerate() {
                    let x = x + second * apart;
                    for (plane, of) in of.iter_mut().enumerate() {
                        let plane = 2 * pair + plane;
                        if plane < conv.codes.planes && x < end {
                            *of = &place.planes[plane * place.plane + start + x * place.words..][..words];
                        }
                    }
                }
                for (group, table) in tables.iter_mut().enumerate() {
                    let part =
                        |second: usize, plane: usize| &self.parts[2 * second + plane][bits(of[second][plane], group)];
                    *table = *part(0, 0);
                    if !of[0][1].is_empty() {
                        add(table, part(0, 1));
                    }
                    if !of[1][0].is_empty() {
                        add(table, part(1, 0));
                    }
                    if !of[1][1].is_empty() {
                        add(table, part(1, 1));
                    }
                }
            }
        }
    }

    /// Computes pixels of an output row whose window starts at row `top` of the input.
    fn row<'t>(
        &self,
        conv: &BitConv,
        window: &Window<'_>,
        top: usize,
        row: usize,
        pixels: &std::ops::Range<usize>,
        target: &(dyn Fn(usize, usize) -> Target<'t> + Sync),
    ) {
        let g = &conv.flat;
        let [_, cols] = g.kernel;
        let pairs = pixels.len().div_ceil(2);
        let (runs, run) = if g.dilation[1] == 1 { (1, cols * self.groups) } else { (cols, self.groups) };
        let mut segments = [std::ptr::null(); super::strip::MOST_SEGMENTS];
        let segments = &mut segments[..g.kernel[0] * runs];
        let panel_len = self.digits * self.steps * LANES;
        let mut sums: Sums<u16> = [[[[0; LANES]; PANELS]; 2]; PAIRS];
        let mut panel = 0;
        while panel < self.panels {
            let panels = if self.panels - panel >= PANELS { PANELS } else { 2 };
            for first in (0..pairs).step_by(PAIRS) {
                let count = PAIRS.min(pairs - first);
                let mut totals: Sums<i32> = [[[[0; LANES]; PANELS]; 2]; PAIRS];
                for planes in 0..conv.codes.planes.div_ceil(2) {
                    let two = 2 * planes + 1 < conv.codes.planes;
                    for (i, segment) in segments.iter_mut().enumerate() {
                        let slot = planes * window.span + (top + i / runs * g.dilation[0]) % window.span;
                        let position = first * g.stride[1] + i % runs * g.dilation[1];
                        *segment = window.tables[slot * window.row + position * self.groups..].as_ptr().cast();
                    }
                    for digit in 0..self.digits {
                        let tile = Tile {
                            segments,
                            run,
                            step: g.stride[1] * self.groups * ENTRIES,
                            indices: self.indices[panel * panel_len + digit * self.steps * LANES..].as_ptr().cast(),
                            panel: panel_len,
                        };
                        // SAFETY: the tables of the windows of `count` pairs lie in the window from the segments on, and the
                        // indices of as many panels behind the first ones.
                        unsafe {
                            match (count, panels == PANELS, two) {
                                (2, true, true) => simd::tile::<2, PANELS, true>(&tile, &mut sums),
                                (2, true, false) => simd::tile::<2, PANELS, false>(&tile, &mut sums),
                                (2, false, true) => simd::tile::<2, 2, true>(&tile, &mut sums),
                                (2, false, false) => simd::tile::<2, 2, false>(&tile, &mut sums),
                                (_, true, true) => simd::tile::<1, PANELS, true>(&tile, &mut sums),
                                (_, true, false) => simd::tile::<1, PANELS, false>(&tile, &mut sums),
                                (_, false, true) => simd::tile::<1, 2, true>(&tile, &mut sums),
                                (_, false, false) => simd::tile::<1, 2, false>(&tile, &mut sums),
                            }
                        }
                        let power = (digit + 2 * planes) as u32 + u32::from(conv.codes.step == 2);
                        let negative = !self.signs && digit + 1 == self.digits;
                        for (total, sum) in totals.iter_mut().zip(&sums[..count]) {
                            for (total, sum) in total.iter_mut().flatten().flatten().zip(sum.iter().flatten().flatten())
                            {
                                let value = i32::from(*sum) << power;
                                *total = total.wrapping_add(if negative { -value } else { value });
                            }
                        }
                    }
                }
                self.finish(conv, &totals, [panel, panels, first], row, pixels, target);
            }
            panel += panels;
        }
    }

    /// Brings sums to where they are wanted.
    fn finish<'t>(
        &self,
        conv: &BitConv,
        totals: &Sums<i32>,
        [panel, panels, first]: [usize; 3],
        row: usize,
        pixels: &std::ops::Range<usize>,
        target: &(dyn Fn(usize, usize) -> Target<'t> + Sync),
    ) {
        let g = &conv.flat;
        let padded = conv.digits.padded();
        let pairs = pixels.len().div_ceil(2);
        for (pair, totals) in totals.iter().enumerate().take(pairs - first) {
            for (second, totals) in totals.iter().enumerate() {
                let at = first + pair + second * pairs;
                if at >= pixels.len() {
                    continue;
                }
                let x = pixels.start + at;
                let class = usize::from(conv.row_class[row % g.out_h]) + usize::from(conv.col_class[x]);
                for two in (0..panels).step_by(2) {
                    let column = (panel + two) * LANES;
                    if column >= g.out_c {
                        break;
                    }
                    let mut sums = [totals[two], totals[two + 1]];
                    let mut scale = [[0.0; LANES]; 2];
                    let there = column..(column + 2 * LANES).min(padded);
                    let bias = &conv.bias[class * padded..][there.clone()];
                    sums.as_flattened_mut().iter_mut().zip(bias).for_each(|(sum, bias)| *sum = sum.wrapping_add(*bias));
                    scale.as_flattened_mut()[..there.len()].copy_from_slice(&conv.scale[there]);
                    // SAFETY: the pixel's columns from this one on are no other job's.
                    unsafe { simd::store(&sums, &scale, g.out_c - column, &target(row * g.out_w + x, column)) };
                }
            }
        }
    }
}

/// Rows of the input from the first to the last that a window reads.
fn span(g: &ConvGeometry) -> usize {
    (g.kernel[0] - 1) * g.dilation[0] + 1
}

/// The bits of a group of channels; none where there are no words.
#[inline(always)]
fn bits(words: &[u32], group: usize) -> usize {
    let (word, bit) = (group * CHANNELS / 32, group * CHANNELS % 32);
    let Some(low) = words.get(word) else { return 0 };
    let high = if 32 % CHANNELS == 0 { 0 } else { words.get(word + 1).copied().unwrap_or(0) };
    ((u64::from(high) << 32 | u64::from(*low)) >> bit) as usize % ENTRIES
}

#[inline(always)]
fn add(table: &mut [u8; ENTRIES], part: &[u8; ENTRIES]) {
    for (sum, part) in table.iter_mut().zip(part) {
        *sum += part;
    }
}

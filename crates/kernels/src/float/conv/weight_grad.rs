//! The gradient of a convolution by its weights.
//!
//! It is a product, summed over the pixels of all images: channels of the output's gradient by windows of the input. The taps of a window row lie
//! side by side in an image that has its padding, so one operand is broadcast and the other is read as vectors, whichever fills
//! them better; a block of results stays in registers over the pixels of a band of rows, which stays in the first-level cache.
//! Images are cut into parts by their number alone, and the parts are added in order: results do not depend on the threads.

use std::ops::Range;

use super::{FilterLayout, Sums};
use crate::float::ahead::Ahead;
use crate::float::bf16::pixels::Pixels;
use crate::float::product::tile_rows;
use crate::float::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// Parts of the images at most.
const PARTS: usize = 8;
/// Values of all partial results, about, beyond which there are fewer parts.
const PARTIAL: usize = 2 << 20;
/// Values of a band: what a first-level cache keeps of both operands.
const BAND: usize = 10_752;
/// Vectors of a block at most.
const VECTORS: usize = 3;

/// The gradient of the weights of a dense or grouped convolution, planned for one instruction set.
#[derive(Debug, Clone)]
pub struct ConvWeightGrad {
    isa: Isa,
    geometry: ConvGeometry,
    layout: FilterLayout,
    parts: usize,
    /// Output rows of a band.
    band: usize,
    /// Columns of the images' copies with padding; `None` if windows do not leave images sideways.
    padded: Option<usize>,
    /// Whether taps of a window row are taken together.
    rows: bool,
    /// Whether windows are the vectors, or else channels of the output.
    windows: bool,
    /// With factors that are rounded to bfloat16.
    rounded: Option<Pixels>,
}

impl ConvWeightGrad {
    /// For a gradient that is stored as `layout` says. All sums are plain.
    ///
    /// # Errors
    /// [`KernelError`] when the geometry contradicts itself.
    pub fn new(
        isa: Isa,
        geometry: ConvGeometry,
        layout: FilterLayout,
        sums: Sums,
    ) -> Result<ConvWeightGrad, KernelError> {
        geometry.check()?;
        let isa = isa.or_supported();
        let g = &geometry;
        let width = (g.out_w - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
        let padded = (g.pad_left > 0 || width > g.in_w).then_some(width);
        let rounded = if sums == Sums::Rounded { Pixels::new(isa, g) } else { None };
        let rows = rounded.is_some() || g.groups == 1 && (g.dilation[1] == 1 || g.kernel[1] == 1);
        let window = if rows { g.kernel[1] * g.in_c } else { g.group_in() };
        let lanes = dispatch(isa, Lanes);
        // Multiplications of vectors, a little more expensive where there is one for each broadcast.
        let cost = |vectors: usize, broadcast: usize| {
            let count = vectors.div_ceil(lanes);
            count * broadcast * if count == 1 { 9 } else { 8 }
        };
        let windows = rounded.is_some() || cost(window, g.group_out()) < cost(g.group_out(), window);
        let parts = (PARTIAL / g.weights_len()).clamp(1, PARTS).min(g.batch);
        let row = |count: usize| g.rows_under(count).min(g.in_h);
        let size = |count: usize| row(count) * width.max(g.in_w) * g.in_c + count * g.out_w * g.out_c;
        let band = g.band(|count| size(count) <= BAND);
        Ok(ConvWeightGrad { isa, geometry, layout, parts, band, padded, rows, windows, rounded })
    }

    /// The geometry of the convolution.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// Whether factors are rounded to bfloat16.
    #[must_use]
    pub fn is_rounded(&self) -> bool {
        self.rounded.is_some()
    }

    /// How many values of scratch [`ConvWeightGrad::run`] needs on a pool of at most so many threads.
    #[must_use]
    pub fn scratch_len(&self, threads: usize) -> usize {
        self.parts * self.partial_len() + threads.max(1) * self.copy_len()
    }

    /// Values of one part's results.
    fn partial_len(&self) -> usize {
        self.geometry.weights_len().next_multiple_of(16)
    }

    /// Values of a worker's copies of a band: the padded input rows, or what is rounded.
    fn copy_len(&self) -> usize {
        let g = &self.geometry;
        if let Some(pixels) = self.rounded {
            return pixels.copy_len(g);
        }
        let rows = g.rows_under(self.band).min(g.in_h);
        self.padded.map_or(0, |width| (rows * width * g.in_c).next_multiple_of(16))
    }

    /// Pieces of the window that are one product each: rows of it, or taps of a group.
    fn pieces(&self) -> usize {
        let g = &self.geometry;
        if self.rows { g.kernel[0] } else { g.groups * g.taps() }
    }

    /// Values of a piece of the window.
    fn window(&self) -> usize {
        let g = &self.geometry;
        if self.rows { g.kernel[1] * g.in_c } else { g.group_in() }
    }

    /// Group, row and column of the first tap of a piece.
    fn piece(&self, piece: usize) -> [usize; 3] {
        let g = &self.geometry;
        if self.rows { [0, piece, 0] } else { [piece / g.taps(), piece % g.taps() / g.kernel[1], piece % g.kernel[1]] }
    }

    /// Broadcast values and vector values of a piece.
    fn sides(&self) -> [usize; 2] {
        let sides = [self.geometry.group_out(), self.window()];
        if self.windows { sides } else { [sides[1], sides[0]] }
    }

    /// Computes the gradient `dw` from the input `x`, `[batch, in_h, in_w, in_c]`, and the gradient of the output `dy`, `[batch, out_h, out_w,
    /// out_c]`. Allocates nothing.
    ///
    /// # Errors
    /// [`KernelError`] when a slice does not have the length the geometry implies, or `dw` does not contain the layout.
    pub fn run(
        &self,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let g = &self.geometry;
        expect_len("input", x.len(), g.input_len())?;
        expect_len("gradient of the output", dy.len(), g.output_len())?;
        self.layout.check(g, dw.len())?;
        let least = self.scratch_len(pool.threads());
        if scratch.len() < least {
            return Err(KernelError::Length { what: "scratch", expected: least, found: scratch.len() });
        }
        let (len, copy, pieces) = (self.partial_len(), self.copy_len(), self.pieces());
        let (partials, copies) = scratch.split_at_mut(self.parts * len);
        let size = g.weights_len() / pieces;
        {
            let (partials, copies) = (SharedMut::new(partials), SharedMut::new(copies));
            // Where there are few parts, the pieces of windows are shared, too.
            let groups = if self.parts >= 2 * pool.threads() || pool.threads() == 1 { 1 } else { pieces };
            pool.run_indexed(self.parts * groups, &|worker, chunk| {
                let (part, group) = (chunk / groups, chunk % groups);
                let images = part * g.batch / self.parts..(part + 1) * g.batch / self.parts;
                let pieces = if groups == 1 { 0..pieces } else { group..group + 1 };
                let at = part * len;
                // SAFETY: chunks have parts or pieces of their own, and those that run at the same time different workers.
                let (partial, copy) = unsafe {
                    let partial = partials.slice(at + pieces.start * size..at + pieces.end * size);
                    (partial, copies.slice(worker * copy..(worker + 1) * copy))
                };
                partial.fill(0.0);
                match self.rounded {
                    Some(pixels) => pixels.add(g, [x, dy], images, pieces, partial, copy),
                    None => dispatch(self.isa, Images { plan: self, x, dy, images, pieces, partial, copy }),
                }
            });
        }
        let partials = &*partials;
        let [rows, _] = self.sides();
        let all = pieces * rows;
        let step = if pool.threads() == 1 { all } else { all.div_ceil(2 * pool.threads()) };
        let dw = SharedMut::new(dw);
        pool.run(all.div_ceil(step), &|chunk| {
            let lines = chunk * step..all.min((chunk + 1) * step);
            dispatch(self.isa, Total { plan: self, partials, lines, dw: &dw });
        });
        Ok(())
    }
}

/// Floats in a vector.
struct Lanes;

impl Kernel for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::LANES
    }
}

/// The sums of some images for some pieces of the window.
struct Images<'a> {
    plan: &'a ConvWeightGrad,
    x: &'a [f32],
    dy: &'a [f32],
    images: Range<usize>,
    pieces: Range<usize>,
    /// For each piece: for each broadcast value the vector values.
    partial: &'a mut [f32],
    copy: &'a mut [f32],
}

impl Kernel for Images<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Images { plan, x, dy, images, pieces, partial, copy } = self;
        let g = &plan.geometry;
        let [count, values] = plan.sides();
        let most = |vectors: usize| (2 * S::ROWS / vectors).clamp(1, MAX_BROADCAST);
        copy.fill(0.0);
        // Tiles of a band, each of which fetches its share of the band that comes next.
        let tiles = pieces.len() * values.div_ceil(VECTORS * S::LANES) * count.div_ceil(most(VECTORS));
        for image in images {
            let x = &x[image * g.in_h * g.in_w * g.in_c..][..g.in_h * g.in_w * g.in_c];
            let dy = &dy[image * g.out_h * g.out_w * g.out_c..][..g.out_h * g.out_w * g.out_c];
            for start in (0..g.out_h).step_by(plan.band) {
                let band = start..(start + plan.band).min(g.out_h);
                let top = (band.start * g.stride[0]).saturating_sub(g.pad_top).min(g.in_h);
                let next = [
                    Ahead::new(
                        x,
                        band.end * g.stride[0] * g.in_w * g.in_c,
                        band.len() * g.stride[0] * g.in_w * g.in_c,
                        tiles,
                    ),
                    Ahead::new(dy, band.end * g.out_w * g.out_c, band.len() * g.out_w * g.out_c, tiles),
                ];
                let mut turn = 0;
                // Input rows, where they lie or with their padding.
                let (rows, width) = match plan.padded {
                    Some(width) => {
                        let end = g.rows_under(band.end);
                        let rows = top..end.saturating_sub(g.pad_top).min(g.in_h).max(top);
                        let cols = g.in_w.min(width.saturating_sub(g.pad_left));
                        for (row, to) in rows.zip(copy.chunks_exact_mut(width * g.in_c)) {
                            let from = &x[row * g.in_w * g.in_c..][..cols * g.in_c];
                            if cols > 0 {
                                to[g.pad_left * g.in_c..][..cols * g.in_c].copy_from_slice(from);
                            }
                        }
                        (&*copy, width)
                    }
                    None => (&x[top * g.in_w * g.in_c..], g.in_w),
                };
                for (piece, partial) in pieces.clone().zip(partial.chunks_exact_mut(count * values)) {
                    let [group, down, right] = plan.piece(piece);
                    let inside = |row: &usize| g.input_row(*row, down).is_some();
                    let Some(first) = band.clone().find(inside) else { continue };
                    let last = band.clone().rfind(inside).unwrap_or(first);
                    let row = first * g.stride[0] + down * g.dilation[0] - g.pad_top - top;
                    let window = &rows[(row * width + right * g.dilation[1]) * g.in_c + group * g.group_in()..];
                    let output = &dy[first * g.out_w * g.out_c + group * g.group_out()..];
                    let windows = (window.as_ptr(), [g.stride[1] * g.in_c, g.stride[0] * width * g.in_c]);
                    let outputs = (output.as_ptr(), [g.out_c, g.out_w * g.out_c]);
                    let (broadcast, vectors) = if plan.windows { (outputs, windows) } else { (windows, outputs) };
                    // Whole vectors are cut into blocks of about equal widths; what is left over is a block of its own.
                    let whole = values / S::LANES;
                    let width = whole.div_ceil(whole.div_ceil(VECTORS).max(1)).max(1);
                    let mut column = 0;
                    while column < values {
                        let wide = (whole - (column / S::LANES).min(whole)).min(width);
                        let wanted = if wide == 0 { values - column } else { wide * S::LANES };
                        let step = tile_rows(count, most(wide.max(1)));
                        for first_row in (0..count).step_by(step) {
                            let tile = Tile {
                                a: broadcast.0.wrapping_add(first_row),
                                a_steps: broadcast.1,
                                b: vectors.0.wrapping_add(column),
                                b_steps: vectors.1,
                                rows: last - first + 1,
                                cols: g.out_w,
                                out: partial[first_row * values + column..].as_mut_ptr(),
                                stride: values,
                                values: wanted,
                            };
                            for ahead in &next {
                                for line in ahead.lines(turn) {
                                    simd.prefetch(line);
                                }
                            }
                            turn += 1;
                            // SAFETY: the rows and columns lead to pixels whose window pieces are in the rows above, and whose
                            // outputs are in the image; the results are in this piece of the partial.
                            unsafe { tile.run(simd, step.min(count - first_row), wide) };
                        }
                        column += wanted;
                    }
                }
            }
        }
    }
}

/// Broadcast values of a tile at most.
const MAX_BROADCAST: usize = 14;

/// Some broadcast values by some vectors, summed over pixels.
struct Tile {
    a: *const f32,
    /// From pixel to pixel, and from row to row.
    a_steps: [usize; 2],
    b: *const f32,
    b_steps: [usize; 2],
    rows: usize,
    cols: usize,
    out: *mut f32,
    stride: usize,
    /// Vector values: whole vectors, or less than one.
    values: usize,
}

impl Tile {
    /// Adds the sums of `broadcast` rows of `wide` vectors (0 for less than one) to the results.
    ///
    /// # Safety
    /// The operands of all pixels must be readable, and the results this thread's.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, broadcast: usize, wide: usize) {
        macro_rules! with {
            ($tail:literal, $vectors:literal: $($n:literal)*) => {
                match broadcast {
                    $($n if $n * $vectors <= 2 * S::ROWS => simd.vectorize(Block::<$n, $vectors, $tail>(self)),)*
                    _ => unreachable!("a tile of {broadcast} rows"),
                }
            };
        }
        match wide {
            0 => with!(true, 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            1 => with!(false, 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            2 => with!(false, 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            _ => with!(false, 3: 1 2 3 4 5 6 7 8 9),
        }
    }
}

struct Block<'a, const R: usize, const NV: usize, const TAIL: bool>(&'a Tile);

impl<const R: usize, const NV: usize, const TAIL: bool> Kernel for Block<'_, R, NV, TAIL> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let tile = self.0;
        // SAFETY: a `Block` is made by `Tile::run` only, under its contract.
        unsafe {
            let mut acc = [[simd.splat(0.0); NV]; R];
            for row in 0..tile.rows {
                let mut a = tile.a.add(row * tile.a_steps[1]);
                let mut b = tile.b.add(row * tile.b_steps[1]);
                for _ in 0..tile.cols {
                    let mut vectors = [simd.splat(0.0); NV];
                    for (j, vector) in vectors.iter_mut().enumerate() {
                        *vector =
                            if TAIL { simd.load_first(b, tile.values) } else { simd.load_ptr(b.add(j * S::LANES)) };
                    }
                    for i in 0..R {
                        let value = simd.splat(*a.add(i));
                        for j in 0..NV {
                            acc[i][j] = simd.fma(value, vectors[j], acc[i][j]);
                        }
                    }
                    a = a.wrapping_add(tile.a_steps[0]);
                    b = b.wrapping_add(tile.b_steps[0]);
                }
            }
            let mut out = tile.out;
            for row in acc {
                for (j, sum) in row.into_iter().enumerate() {
                    let to = out.add(j * S::LANES);
                    if TAIL {
                        simd.store_first(to, tile.values, simd.add(simd.load_first(to, tile.values), sum));
                    } else {
                        simd.store_ptr(to, simd.add(simd.load_ptr(to), sum));
                    }
                }
                out = out.wrapping_add(tile.stride);
            }
        }
    }
}

/// The sum of all parts, for some lines of results, stored as the layout says.
struct Total<'a> {
    plan: &'a ConvWeightGrad,
    partials: &'a [f32],
    /// Numbers of lines: for each piece, for each broadcast value.
    lines: Range<usize>,
    dw: &'a SharedMut<'a, f32>,
}

impl Kernel for Total<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let plan = self.plan;
        let (len, inputs) = (plan.partial_len(), plan.geometry.group_in());
        let [count, values] = plan.sides();
        for line in self.lines {
            let [group, down, right] = plan.piece(line / count);
            let row = line % count;
            for first in (0..values).step_by(S::LANES) {
                let n = S::LANES.min(values - first);
                let mut sum = simd.splat(0.0);
                for part in 0..plan.parts {
                    sum = simd.add(sum, simd.load_tail(&self.partials[part * len + line * values + first..][..n]));
                }
                let mut lanes = [0.0f32; 64];
                simd.store_tail(&mut lanes[..n], sum);
                for (i, value) in lanes[..n].iter().enumerate() {
                    let (output, place) = if plan.windows { (row, first + i) } else { (first + i, row) };
                    let at = plan.layout.at(group, output, place % inputs, down, right + place / inputs);
                    // SAFETY: every weight is of one line.
                    unsafe { self.dw.slice(at..at + 1)[0] = *value };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::conv::tests::geometries;
    use crate::float::testing::{assert_close, noise};

    /// The gradient in `f64`, planar, and for each value the sum of the magnitudes that made it.
    fn reference(g: &ConvGeometry, x: &[f32], dy: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let (mut values, mut magnitudes) = (vec![0.0; g.weights_len()], vec![0.0; g.weights_len()]);
        let layout = FilterLayout::planar(g);
        for (at, dy) in dy.iter().enumerate() {
            let (o, pixel) = (at % g.out_c, at / g.out_c);
            let (col, row, image) = (pixel % g.out_w, pixel / g.out_w % g.out_h, pixel / g.out_w / g.out_h);
            let group = o / g.group_out();
            for (down, right) in (0..g.kernel[0]).flat_map(|d| (0..g.kernel[1]).map(move |r| (d, r))) {
                let (Some(y), Some(z)) = (g.input_row(row, down), g.input_col(col, right)) else { continue };
                for i in 0..g.group_in() {
                    let from = ((image * g.in_h + y) * g.in_w + z) * g.in_c + group * g.group_in() + i;
                    let product = f64::from(*dy) * f64::from(x[from]);
                    let to = layout.at(group, o % g.group_out(), i, down, right);
                    values[to] += product;
                    magnitudes[to] += product.abs();
                }
            }
        }
        (values, magnitudes)
    }

    fn check(g: ConvGeometry) {
        let (x, dy) = (noise(1, g.input_len()), noise(2, g.output_len()));
        let (expected, magnitudes) = reference(&g, &x, &dy);
        for isa in Isa::available() {
            let plan = ConvWeightGrad::new(isa, g, FilterLayout::planar(&g), Sums::Plain).unwrap();
            let mut first: Option<Vec<f32>> = None;
            for threads in [1, 2, 3, 7] {
                let mut dw = vec![f32::NAN; g.weights_len()];
                let mut scratch = vec![f32::NAN; plan.scratch_len(threads)];
                plan.run(&x, &dy, &mut dw, &mut scratch, &Pool::kept(threads)).unwrap();
                assert_close(&dw, &expected, &magnitudes, &format!("{} {threads} {g:?}", isa.name()));
                assert_eq!(first.get_or_insert_with(|| dw.clone()), &dw, "{} {threads} threads {g:?}", isa.name());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_set_agrees_with_the_reference_on_any_threads(geometry in geometries(), batch in 1..=9usize) {
            check(ConvGeometry { batch, ..geometry });
        }
    }

    #[test]
    fn the_layers_of_a_residual_network() {
        for (size, in_c, out_c, stride, kernel) in
            [(8, 3, 16, 1, 3), (8, 16, 16, 1, 3), (8, 16, 32, 2, 3), (8, 16, 32, 2, 1), (5, 64, 64, 1, 3)]
        {
            let out = (size - 1) / stride + 1;
            check(ConvGeometry {
                batch: 3,
                in_h: size,
                in_w: size,
                in_c,
                out_h: out,
                out_w: out,
                out_c,
                kernel: [kernel; 2],
                stride: [stride; 2],
                dilation: [1, 1],
                pad_top: kernel / 2,
                pad_left: kernel / 2,
                groups: 1,
            });
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let g = ConvGeometry::matmul(4, 3, 2);
        let plan = ConvWeightGrad::new(Isa::Scalar, g, FilterLayout::planar(&g), Sums::Plain).unwrap();
        let (pool, mut scratch) = (Pool::new(1), vec![0.0; plan.scratch_len(1)]);
        let (x, dy, mut dw) = (vec![0.0; 12], vec![0.0; 8], vec![0.0; 6]);
        assert!(plan.run(&x, &dy, &mut dw, &mut scratch, &pool).is_ok());
        assert!(plan.run(&x[1..], &dy, &mut dw, &mut scratch, &pool).is_err());
        assert!(plan.run(&x, &dy[1..], &mut dw, &mut scratch, &pool).is_err());
        assert!(plan.run(&x, &dy, &mut dw[1..], &mut scratch, &pool).is_err());
        assert!(plan.run(&x, &dy, &mut dw, &mut [], &pool).is_err());
    }
}

//! Convolution with 3×3 windows by Winograd's minimal filtering, F(4×4, 3×3): Lavin and Gray, "Fast Algorithms for Convolutional
//! Neural Networks", 2016.
//!
//! A tile of 4×4 results takes 36 products for each pair of channels instead of 144, but sums of transformed values round
//! differently: errors are a few times those of the plain sum, and sums of integers are no longer exact.

mod transform;

use std::ops::Range;

use super::Clamp;
use super::conv::FilterLayout;
use super::product::panels::Panels;
use super::product::{Product, Rows, tile_rows};
use super::simd::{Kernel, Simd, dispatch};
use crate::aligned::Aligned;
use crate::cpu::level2;
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};
use transform::{POINTS, TILE};

/// Columns of a panel at most.
const PANEL: usize = 32;

/// Input channels whose weights are transformed in one task.
const INPUTS: usize = 8;

/// Tiles that share one pass over the weights, at least, where there are that many: each tile reads them once more.
const SHARED: usize = 28;

/// How a convolution is computed by transforms; its weights are packed apart, once or for every run.
#[derive(Debug, Clone)]
pub(crate) struct Winograd {
    isa: Isa,
    geometry: ConvGeometry,
    clamp: Clamp,
    panels: Panels,
    /// What padding reads: one pixel.
    zeros: Aligned<f32>,
    /// A padded bias of none.
    no_bias: Aligned<f32>,
}

impl Winograd {
    /// Whether the geometry can be computed this way.
    pub(crate) fn applies(geometry: &ConvGeometry) -> bool {
        (geometry.kernel, geometry.stride, geometry.dilation, geometry.groups) == ([3, 3], [1, 1], [1, 1], 1)
    }

    /// Whether it is likely to be faster than the plain sum on `isa`.
    pub(crate) fn pays(isa: Isa, geometry: &ConvGeometry) -> bool {
        let tiles = tiles(geometry).iter().product::<usize>() * geometry.batch;
        let weights = POINTS * geometry.in_c * geometry.out_c * size_of::<f32>();
        // Measured. The transforms must be shared by enough channels, and the weights, four times what they were, are read from memory
        // once for every block of tiles.
        Winograd::applies(geometry)
            && isa != Isa::Scalar
            && geometry.in_c.min(geometry.out_c) >= 16
            && geometry.in_c + geometry.out_c >= 48
            && tiles >= 4
            && weights <= (tiles << 21)
    }

    /// For a checked geometry.
    pub(crate) fn new(isa: Isa, geometry: ConvGeometry, clamp: Clamp) -> Winograd {
        let panels = Panels::new(isa, geometry.in_c, geometry.out_c);
        let (zeros, no_bias) = (Aligned::zeros(geometry.in_c), Aligned::zeros(panels.padded_cols()));
        Winograd { isa, geometry, clamp, panels, zeros, no_bias }
    }

    /// Values of the packed weights: for each panel, for each point, what a product takes.
    pub(crate) fn weights_len(&self) -> usize {
        POINTS * self.panels.len()
    }

    /// Values of the packed bias: padded to whole vectors.
    pub(crate) fn bias_len(&self) -> usize {
        self.panels.padded_cols()
    }

    /// Transforms and packs weights, `[out_c, 3, 3, in_c]`, as exactly as is possible.
    pub(crate) fn pack_weights_once(&self, weights: &[f32], packed: &mut [f32]) {
        let (panels, in_c, out_c) = (self.panels, self.geometry.in_c, self.geometry.out_c);
        let mut points = vec![0.0; POINTS * out_c * in_c];
        for (pair, value) in (0..out_c * in_c).map(|pair| (pair, pair / in_c * 9 * in_c + pair % in_c)) {
            let window = std::array::from_fn(|tap| f64::from(weights[value + tap * in_c]));
            for (point, value) in transform::weights(&window).into_iter().enumerate() {
                points[point * out_c * in_c + pair] = value as f32;
            }
        }
        for panel in 0..panels.count() {
            for point in 0..POINTS {
                let at = POINTS * panels.offset(panel) + point * panels.width(panel) * in_c;
                panels.pack(panel, &points[point * out_c * in_c..], 1, in_c, &mut packed[at..]);
            }
        }
    }

    /// Transforms and packs weights that a layout, which has been checked, finds in `from`: the same in `f32`, for every run.
    pub(crate) fn pack_weights(&self, from: &[f32], layout: &FilterLayout, packed: &mut [f32], pool: &Pool) {
        let (panels, in_c) = (&self.panels, self.geometry.in_c);
        let packed = SharedMut::new(packed);
        let blocks = in_c.div_ceil(INPUTS);
        pool.run(panels.count() * blocks, &|chunk| {
            let (panel, block) = (chunk / blocks, chunk % blocks);
            let inputs = block * INPUTS..in_c.min((block + 1) * INPUTS);
            let columns = panels.column(panel)..panels.column(panel) + panels.cols(panel);
            let (at, width) = (POINTS * panels.offset(panel), panels.width(panel));
            dispatch(self.isa, transform::Weights { from, layout, columns, inputs, in_c, at, width, packed: &packed });
        });
    }

    /// How many values of scratch [`Winograd::run`] needs on a pool of at most so many threads.
    pub(crate) fn scratch_len(&self, threads: usize) -> usize {
        (1..=threads.max(1)).map(|threads| threads * self.worker_len(self.cut(threads)[0])).max().unwrap_or(0)
    }

    /// As [`super::conv::Conv::run`], with packed weights and bias (empty for none).
    pub(crate) fn run(
        &self,
        weights: &[f32],
        bias: &[f32],
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let geometry = &self.geometry;
        let bias = if bias.is_empty() { &self.no_bias } else { bias };
        expect_len("packed weights", weights.len(), self.weights_len())?;
        expect_len("packed bias", bias.len(), self.bias_len())?;
        expect_len("input", x.len(), geometry.input_len())?;
        expect_len("output", y.len(), geometry.output_len())?;
        if let Some(residual) = residual {
            expect_len("residual", residual.len(), y.len())?;
        }
        let [step, panel_step] = self.cut(pool.threads());
        let len = self.worker_len(step);
        if scratch.len() < len * pool.threads() {
            return Err(KernelError::Length { what: "scratch", expected: len * pool.threads(), found: scratch.len() });
        }
        let (tiles, panels) = (self.tiles(), self.panels.count());
        let groups = panels.div_ceil(panel_step);
        let (out, scratch) = (SharedMut::new(y), SharedMut::new(scratch));
        pool.run_indexed(tiles.div_ceil(step) * groups, &|worker, chunk| {
            let (tile, panel) = (chunk / groups * step, chunk % groups * panel_step);
            let (tiles, panels) = (tile..tiles.min(tile + step), panel..panels.min(panel + panel_step));
            // SAFETY: chunks that run at the same time have different workers.
            let scratch = unsafe { scratch.slice(worker * len..(worker + 1) * len) };
            dispatch(self.isa, Tiles { layer: self, weights, bias, x, residual, out: &out, tiles, panels, scratch });
        });
        Ok(())
    }

    /// Tiles and panels of a task. Results do not depend on it.
    fn cut(&self, threads: usize) -> [usize; 2] {
        let (tiles, panels) = (self.tiles(), self.panels.count());
        // Measured: what is transformed may fill what the weights leave of the second-level cache; where they do not fit there, all of it, as they
        // are then passed over once for all that is transformed.
        let (cache, weights) = (level2(), self.weights_len() * size_of::<f32>());
        let room = if weights < cache { cache - weights } else { cache };
        let cached = (room / (self.worker_len(1) * size_of::<f32>())).max(SHARED).min(tiles);
        let blocks = tiles.div_ceil(cached);
        if threads == 1 {
            return [tiles.div_ceil(blocks), panels];
        }
        // Twice as many tasks as threads: of tiles while there are enough of them, else of output channels, which transforms inputs again.
        let wanted = 2 * threads;
        let blocks = blocks.max(wanted.min(tiles / SHARED)).max(1);
        let groups = wanted.div_ceil(blocks).min(panels);
        [tiles.div_ceil(blocks), panels.div_ceil(groups)]
    }

    /// Tiles of all images.
    fn tiles(&self) -> usize {
        tiles(&self.geometry).iter().product::<usize>() * self.geometry.batch
    }

    /// Values of scratch for one thread that works on so many tiles at a time.
    fn worker_len(&self, tiles: usize) -> usize {
        POINTS * (apart(tiles * self.channels()) + apart(tiles * PANEL))
    }

    /// Input channels, padded to whole vectors.
    fn channels(&self) -> usize {
        self.geometry.in_c.next_multiple_of(16)
    }
}

/// From one point to the next, for so many values of each: a line more, as the places of all points of a tile would else often fall into the same
/// few sets of the first-level cache.
fn apart(values: usize) -> usize {
    values + 16
}

/// Rows and columns of tiles that cover an output image.
fn tiles(geometry: &ConvGeometry) -> [usize; 2] {
    [geometry.out_h.div_ceil(TILE), geometry.out_w.div_ceil(TILE)]
}

/// Some tiles, some panels of output channels.
struct Tiles<'a> {
    layer: &'a Winograd,
    weights: &'a [f32],
    bias: &'a [f32],
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    out: &'a SharedMut<'a, f32>,
    tiles: Range<usize>,
    panels: Range<usize>,
    scratch: &'a mut [f32],
}

impl Kernel for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Tiles { layer, weights, bias, x, residual, out, tiles, panels: range, scratch } = self;
        let (panels, count, channels) = (layer.panels, tiles.len(), layer.channels());
        let (inputs_step, results_step) = (apart(count * channels), apart(count * PANEL));
        let (inputs, results) = scratch.split_at_mut(POINTS * inputs_step);
        let places = tiles.map(
            #[inline(always)]
            |tile| place(&layer.geometry, tile),
        );
        for (i, place) in places.clone().enumerate() {
            simd.vectorize(transform::Input {
                geometry: &layer.geometry,
                zeros: &layer.zeros,
                x,
                place,
                out: &mut inputs[i * channels..],
                step: inputs_step,
            });
        }
        for panel in range {
            let width = panels.width(panel);
            let columns = panels.column(panel)..panels.column(panel) + panels.cols(panel);
            // Every product fetches its share of the lines that its panel's results go to.
            let mut fetched = places.clone();
            let share = count.div_ceil(POINTS);
            for point in 0..POINTS {
                for place in fetched.by_ref().take(share) {
                    transform::prefetch(simd, &layer.geometry, place, columns.clone(), out, residual);
                }
                let at = POINTS * panels.offset(panel) + point * width * layer.geometry.in_c;
                let product = Product {
                    left: inputs[point * inputs_step..].as_ptr(),
                    rows: Rows::Strided(channels),
                    count,
                    tile_rows: tile_rows(count, S::ROWS),
                    taps: 1,
                    depth: layer.geometry.in_c,
                    zeros: &[],
                    panels: Panels::new_inside(simd, layer.geometry.in_c, width),
                    right: &weights[at..][..width * layer.geometry.in_c],
                    bias: &[],
                    clamp: Clamp::NONE,
                    in_order: true,
                    out: results[point * results_step..].as_mut_ptr(),
                    residual: std::ptr::null(),
                    stride: PANEL,
                };
                // SAFETY: the inputs of a point are `count` rows of `channels` values, its results `count` rows of at least `width`,
                // and the scratch is this thread's alone.
                unsafe { product.run_inside(simd, 0..count.div_ceil(tile_rows(count, S::ROWS)), 0..1) };
            }
            for (i, place) in places.clone().enumerate() {
                let output = transform::Output {
                    geometry: &layer.geometry,
                    results: &results[i * PANEL..],
                    step: results_step,
                    place,
                    bias,
                    residual,
                    clamp: layer.clamp,
                    channels: columns.clone(),
                    out,
                };
                simd.vectorize(output);
            }
        }
    }
}

/// A tile's image, and its first output row and column.
#[inline(always)]
fn place(geometry: &ConvGeometry, tile: usize) -> [usize; 3] {
    let [down, across] = tiles(geometry);
    [tile / across / down, tile / across % down * TILE, tile % across * TILE]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::conv::tests::reference;
    use crate::float::testing::noise;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_set_agrees_with_the_plain_sum(
            batch in 1..=2usize, h in 1..=13usize, w in 1..=13usize, in_c in 1..=40usize, out_c in 1..=70usize,
            top in 0..=2usize, left in 0..=2usize, bias: bool, residual: bool, relu: bool,
        ) {
            let geometry = ConvGeometry {
                batch, in_h: h, in_w: w, in_c, out_h: h + top, out_w: w + left, out_c,
                kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pad_top: top, pad_left: left, groups: 1,
            };
            let clamp = if relu { Clamp::RELU6 } else { Clamp::NONE };
            let (x, weights) = (noise(1, geometry.input_len()), noise(2, geometry.weights_len()));
            let bias = bias.then(|| noise(3, out_c));
            let residual = residual.then(|| noise(4, geometry.output_len()));
            let (bias, residual) = (bias.as_deref(), residual.as_deref());
            let (expected, magnitudes) = reference(&geometry, &x, &weights, bias, residual, clamp);
            // Pixels of a tile share their roundings, so the error of one follows the magnitudes of all.
            let largest = magnitudes.iter().copied().fold(0.0, f64::max);
            for isa in Isa::available() {
                let layer = Winograd::new(isa, geometry, clamp);
                let mut packed = vec![vec![f32::NAN; layer.weights_len()]; 2];
                layer.pack_weights_once(&weights, &mut packed[0]);
                layer.pack_weights(&weights, &FilterLayout::channels_last(&geometry), &mut packed[1], &Pool::kept(2));
                let mut biases = vec![0.0; if bias.is_some() { layer.bias_len() } else { 0 }];
                if let Some(bias) = bias {
                    biases[..out_c].copy_from_slice(bias);
                }
                for packed in &packed {
                    let mut first: Option<Vec<f32>> = None;
                    for threads in [1, 2, 3, 8] {
                        let mut y = vec![f32::NAN; geometry.output_len()];
                        let mut scratch = vec![f32::NAN; layer.scratch_len(threads)];
                        layer.run(packed, &biases, &x, residual, &mut y, &mut scratch, &Pool::kept(threads)).unwrap();
                        prop_assert_eq!(first.get_or_insert_with(|| y.clone()), &y, "{} threads", threads);
                        for (i, (y, expected)) in y.iter().zip(&expected).enumerate() {
                            let error = (f64::from(*y) - expected).abs();
                            prop_assert!(error <= 1e-5 * largest, "{} {geometry:?} {i}: {y}, not {expected}", isa.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn only_plain_windows_of_three_apply() {
        let geometry = ConvGeometry {
            batch: 1,
            in_h: 28,
            in_w: 28,
            in_c: 64,
            out_h: 28,
            out_w: 28,
            out_c: 64,
            kernel: [3, 3],
            stride: [1, 1],
            dilation: [1, 1],
            pad_top: 1,
            pad_left: 1,
            groups: 1,
        };
        assert!(Winograd::applies(&geometry));
        assert!(!Winograd::applies(&ConvGeometry { stride: [2, 2], ..geometry }));
        assert!(!Winograd::applies(&ConvGeometry { dilation: [1, 2], ..geometry }));
        assert!(!Winograd::applies(&ConvGeometry { groups: 2, ..geometry }));
        assert!(!Winograd::applies(&ConvGeometry { kernel: [3, 5], ..geometry }));
        assert!(Winograd::pays(Isa::Avx2, &geometry));
        assert!(!Winograd::pays(Isa::Avx2, &ConvGeometry { in_c: 3, ..geometry }));
        let deep = ConvGeometry { in_h: 7, in_w: 7, out_h: 7, out_w: 7, in_c: 512, out_c: 512, ..geometry };
        assert!(!Winograd::pays(Isa::Avx2, &deep));
    }
}

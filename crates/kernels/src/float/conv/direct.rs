//! Convolution as an implicit matrix product.

use super::{FilterLayout, rows, unfold};
use crate::aligned::Aligned;
use crate::float::product::panels::Panels;
use crate::float::product::{PADDING, Parts, Product, Rows, tile_rows};
use crate::float::{Clamp, simd};
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// Input channels that are packed at a time: the lines written to stay in cache until they are full.
const STEPS: usize = 16;

/// How a convolution is computed as a product; its weights are packed apart, once or for every run.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    isa: Isa,
    geometry: ConvGeometry,
    clamp: Clamp,
    method: Method,
    panels: Panels,
    zeros: Aligned<f32>,
    /// Where results go that do not lie side by side.
    places: Option<Places>,
}

/// Results that are some of the pixels of larger images: result `(row, column)` is at `first + row · down + column · right`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// From one image to the next.
    pub(super) image: usize,
    /// The first result.
    pub(super) first: usize,
    /// From one row of results to the next.
    pub(super) down: usize,
    /// From one column of results to the next.
    pub(super) right: usize,
    /// Rows and columns of the input before those that the first result reads.
    pub(super) skip: [usize; 2],
}

/// How the rows of the product are found in the input.
#[derive(Debug, Clone)]
enum Method {
    /// Output pixel `i` reads input pixel `i`.
    Pointwise,
    /// Through a table of offsets, one per output pixel and tap.
    Indirect(Vec<u32>),
    /// A row of the window at a time: windows over few channels.
    Unfold(unfold::WindowRows),
    /// A row of few output channels at a time.
    Rows,
}

impl Direct {
    /// For a checked geometry; with `places`, one of no taps is allowed, too.
    pub(super) fn new(
        isa: Isa,
        geometry: ConvGeometry,
        clamp: Clamp,
        places: Option<Places>,
    ) -> Result<Direct, KernelError> {
        let image = geometry.in_h * geometry.in_w * geometry.in_c;
        if image.saturating_mul(16) >= PADDING as usize {
            return Err(KernelError::Unsupported(format!("an image of {image} values is too large to index")));
        }
        let isa = isa.or_supported();
        let panels = Panels::new(isa, geometry.depth(), geometry.group_out());
        // Rows of results that do not follow each other are products of their own.
        let strip = if places.is_some() { geometry.out_w } else { geometry.out_h * geometry.out_w };
        let high = tile_rows(strip, panels.rows());
        let skip = places.map_or([0, 0], |p| p.skip);
        let method = if places.is_some() {
            Method::Indirect(offsets(&geometry, skip, strip, high))
        } else if geometry.is_pointwise() {
            Method::Pointwise
        } else if rows::suits(&geometry, panels.lanes()) {
            Method::Rows
        } else if unfold::suits(&geometry) {
            Method::Unfold(unfold::WindowRows::new(&geometry, high))
        } else {
            Method::Indirect(offsets(&geometry, skip, strip, high))
        };
        let zeros = Aligned::zeros(geometry.kernel[1] * geometry.group_in());
        Ok(Direct { isa, geometry, clamp, method, panels, zeros, places })
    }

    /// Values of the packed weights: for every group its panels.
    pub(super) fn weights_len(&self) -> usize {
        self.panels.len() * self.geometry.groups
    }

    /// Values of the packed bias: for every group, padded.
    pub(super) fn bias_len(&self) -> usize {
        self.panels.padded_cols() * self.geometry.groups
    }

    /// Packs weights that a layout, which has been checked, finds in `from`.
    pub(super) fn pack_weights(&self, from: &[f32], layout: &FilterLayout, into: &mut [f32], pool: &Pool) {
        let (panels, geometry) = (&self.panels, &self.geometry);
        let (inputs, taps) = (geometry.group_in(), geometry.taps());
        let into = SharedMut::new(into);
        pool.run(geometry.groups * panels.count(), &|chunk| {
            let (group, panel) = (chunk / panels.count(), chunk % panels.count());
            let (first, cols, width) = (panels.column(panel), panels.cols(panel), panels.width(panel));
            let at = group * panels.len() + panels.offset(panel);
            // SAFETY: panels are distinct ranges.
            let into = unsafe { into.slice(at..at + width * taps * inputs) };
            for tap in 0..taps {
                let (down, right) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
                for block in (0..inputs).step_by(STEPS) {
                    let count = STEPS.min(inputs - block);
                    let lines = &mut into[(tap * inputs + block) * width..][..count * width];
                    for c in 0..width {
                        let mut at = layout.at(group, first + c.min(cols - 1), block, down, right);
                        for line in lines.chunks_exact_mut(width) {
                            line[c] = if c < cols { from[at] } else { 0.0 };
                            at = at.wrapping_add_signed(layout.steps[2]);
                        }
                    }
                }
            }
        });
    }

    /// Packs a bias, `[out_c]`.
    pub(super) fn pack_bias(&self, from: &[f32], into: &mut [f32]) {
        for (from, into) in
            from.chunks_exact(self.geometry.group_out()).zip(into.chunks_exact_mut(self.panels.padded_cols()))
        {
            into[..from.len()].copy_from_slice(from);
            into[from.len()..].fill(0.0);
        }
    }

    /// As [`super::Conv::run`], with packed weights and bias (empty for none). With places, `y` and `residual` are the larger images.
    pub(super) fn run(
        &self,
        weights: &[f32],
        bias: &[f32],
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let geometry = &self.geometry;
        expect_len("packed weights", weights.len(), self.weights_len())?;
        expect_len("input", x.len(), geometry.input_len())?;
        expect_len("output", y.len(), self.places.map_or(geometry.output_len(), |p| p.image * geometry.batch))?;
        if let Some(residual) = residual {
            expect_len("residual", residual.len(), y.len())?;
        }
        if matches!(self.method, Method::Rows) {
            self.run_rows(weights, bias, x, residual, y, pool);
            return Ok(());
        }
        // A pointwise convolution does not care where one image ends.
        let flat = matches!(self.method, Method::Pointwise);
        let images = if flat { 1 } else { geometry.batch };
        let all = geometry.output_len() / geometry.out_c / images;
        let (strips, pixels) = if self.places.is_some() { (geometry.out_h, geometry.out_w) } else { (1, all) };
        let step = geometry.out_h * geometry.out_w * geometry.out_c;
        let places =
            self.places.unwrap_or(Places { image: step, first: 0, down: 0, right: geometry.out_c, skip: [0, 0] });
        if let Some(p) = self.places {
            let last = p.first + (geometry.out_h - 1) * p.down + (geometry.out_w - 1) * p.right + geometry.out_c;
            expect_len("image of results", p.image.max(last), p.image)?;
        }
        // Strips are short: a task has all of an image where there are images enough.
        let together = if images * geometry.groups >= Parts::wanted(pool) { strips } else { 1 };
        let units = images * geometry.groups * (strips / together);
        let row_bytes = 4 * geometry.group_in() * geometry.taps().min(geometry.stride[0] * geometry.stride[1]);
        let parts = Parts::new(pixels, row_bytes, &self.panels, Parts::wanted(pool).div_ceil(units));
        let out = SharedMut::new(y);
        pool.run(units * parts.count(), &|chunk| {
            let (unit, part) = (chunk / parts.count(), chunk % parts.count());
            let (item, block) = (unit / (strips / together), unit % (strips / together));
            let (image, group) = (item / geometry.groups, item % geometry.groups);
            let input = &x[image * (geometry.input_len() / images)..];
            let (tiles, panels) = parts.get(part);
            for strip in block * together..(block + 1) * together {
                let at = image * places.image + places.first + strip * places.down + group * geometry.group_out();
                let (tiles, panels) = (tiles.clone(), panels.clone());
                // SAFETY: `at` is inside the output. The offsets and strides lead to pixels of this image and channels of this group, which the
                // lengths checked above contain; parts share no results.
                unsafe {
                    let product = Product {
                        out: out.as_mut_ptr().add(at),
                        residual: residual.map_or(std::ptr::null(), |residual| residual.as_ptr().add(at)),
                        stride: places.right,
                        ..self.product((weights, bias), &input[group * geometry.group_in()..], group, strip, pixels)
                    };
                    match &self.method {
                        Method::Unfold(rows) => {
                            simd::dispatch(
                                self.isa,
                                unfold::Unfold { geometry, input, rows, product: &product, tiles, panels },
                            );
                        }
                        _ => product.run_part(self.isa, tiles, panels),
                    }
                }
            }
        });
        Ok(())
    }

    /// All that [`Direct::run`] does for one group of one image, with places.
    ///
    /// # Safety
    /// The slices must have the lengths that are checked there, `out` must be the results of all images, and no other thread may touch this
    /// group's in this image meanwhile.
    pub(super) unsafe fn run_image(
        &self,
        (weights, bias): (&[f32], &[f32]),
        x: &[f32],
        residual: *const f32,
        out: *mut f32,
        [image, group]: [usize; 2],
    ) {
        let (geometry, Some(places)) = (&self.geometry, self.places) else { return };
        let input = &x[image * (geometry.input_len() / geometry.batch) + group * geometry.group_in()..];
        let tiles = geometry.out_w.div_ceil(tile_rows(geometry.out_w, self.panels.rows()));
        for strip in 0..geometry.out_h {
            let at = image * places.image + places.first + strip * places.down + group * geometry.group_out();
            // SAFETY: as in `run`.
            unsafe {
                let product = Product {
                    out: out.add(at),
                    residual: if residual.is_null() { residual } else { residual.add(at) },
                    stride: places.right,
                    ..self.product((weights, bias), input, group, strip, geometry.out_w)
                };
                product.run_part(self.isa, 0..tiles, 0..self.panels.count());
            }
        }
    }

    /// [`Direct::run`] by rows; lengths have been checked.
    fn run_rows(&self, weights: &[f32], bias: &[f32], x: &[f32], residual: Option<&[f32]>, y: &mut [f32], pool: &Pool) {
        let g = &self.geometry;
        let (image_in, image_out) = (g.input_len() / g.batch, g.output_len() / g.batch);
        let blocks = Parts::wanted(pool).div_ceil(g.batch).min(g.out_h);
        let step = g.out_h.div_ceil(blocks);
        let out = SharedMut::new(y);
        pool.run(g.batch * blocks, &|chunk| {
            let (image, first) = (chunk / blocks, chunk % blocks * step);
            let rows = rows::ImageRows {
                geometry: g,
                input: &x[image * image_in..][..image_in],
                weights,
                bias,
                zeros: &self.zeros,
                clamp: self.clamp,
                rows: first.min(g.out_h)..g.out_h.min(first + step),
                // SAFETY: the image is inside of both slices, and its rows are shared out.
                out: unsafe { out.as_mut_ptr().add(image * image_out) },
                residual: residual.map_or(std::ptr::null(), |r| r[image * image_out..].as_ptr()),
            };
            simd::dispatch(self.isa, rows);
        });
    }

    /// The product of one strip of an image and group, without its results.
    fn product<'a>(
        &'a self,
        (weights, bias): (&'a [f32], &'a [f32]),
        input: &'a [f32],
        group: usize,
        strip: usize,
        pixels: usize,
    ) -> Product<'a> {
        let (panels, geometry) = (self.panels, &self.geometry);
        let bias =
            if bias.is_empty() { &[][..] } else { &bias[group * panels.padded_cols()..][..panels.padded_cols()] };
        let (rows, taps) = match &self.method {
            Method::Indirect(table) => (Rows::Table(&table[strip * pixels * geometry.taps()..]), geometry.taps()),
            Method::Pointwise | Method::Rows => (Rows::Strided(geometry.in_c), 1),
            Method::Unfold(_) => (Rows::Strided(unfold::row_len(geometry)), 1),
        };
        Product {
            left: input.as_ptr(),
            rows,
            count: pixels,
            tile_rows: tile_rows(pixels, panels.rows()),
            taps,
            depth: (geometry.taps() * geometry.group_in()).checked_div(taps).unwrap_or(0),
            zeros: &self.zeros,
            panels,
            right: &weights[group * panels.len()..][..panels.len()],
            bias,
            clamp: self.clamp,
            in_order: false,
            out: std::ptr::null_mut(),
            residual: std::ptr::null(),
            stride: geometry.out_c,
        }
    }
}

/// The tables of [`Rows::Table`] for the strips of one image, in tiles of `rows`.
fn offsets(geometry: &ConvGeometry, [above, before]: [usize; 2], strip: usize, rows: usize) -> Vec<u32> {
    let pixels = geometry.out_h * geometry.out_w;
    let mut table = Vec::with_capacity(pixels * geometry.taps());
    for start in (0..pixels).step_by(strip) {
        for first in (start..start + strip).step_by(rows) {
            for tap in 0..geometry.taps() {
                let (down, right) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
                for pixel in first..(first + rows).min(start + strip) {
                    let row = geometry.input_row(pixel / geometry.out_w + above, down);
                    let col = geometry.input_col(pixel % geometry.out_w + before, right);
                    table.push(match (row, col) {
                        (Some(row), Some(col)) => ((row * geometry.in_w + col) * geometry.in_c) as u32,
                        _ => PADDING,
                    });
                }
            }
        }
    }
    table
}

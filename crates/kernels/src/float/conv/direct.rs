//! Convolution as an implicit matrix product.

use super::unfold;
use crate::aligned::Aligned;
use crate::float::product::panels::Panels;
use crate::float::product::{PADDING, Parts, Product, Rows, tile_rows};
use crate::float::{Clamp, simd};
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// A convolution with its weights packed for one instruction set.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    isa: Isa,
    geometry: ConvGeometry,
    clamp: Clamp,
    method: Method,
    panels: Panels,
    /// Per group: the packed weights.
    weights: Aligned<f32>,
    /// Per group: the bias, padded; empty for none.
    bias: Aligned<f32>,
    zeros: Aligned<f32>,
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
}

impl Direct {
    /// As [`super::Conv::pack`]; geometry and lengths have been checked.
    pub(super) fn pack(
        isa: Isa,
        geometry: ConvGeometry,
        weights: &[f32],
        bias: Option<&[f32]>,
        clamp: Clamp,
    ) -> Result<Direct, KernelError> {
        let image = geometry.in_h * geometry.in_w * geometry.in_c;
        if image.saturating_mul(16) >= PADDING as usize {
            return Err(KernelError::Unsupported(format!("an image of {image} values is too large to index")));
        }
        let isa = isa.or_supported();
        let (depth, cols) = (geometry.taps() * geometry.group_in(), geometry.group_out());
        let panels = Panels::new(isa, depth, cols);
        let mut packed = Aligned::zeros(panels.len() * geometry.groups);
        let mut biases = Aligned::zeros(bias.map_or(0, |_| panels.padded_cols() * geometry.groups));
        for group in 0..geometry.groups {
            let from = &weights[group * cols * depth..][..cols * depth];
            let into = &mut packed[group * panels.len()..][..panels.len()];
            for panel in 0..panels.count() {
                panels.pack(panel, from, 1, depth, &mut into[panels.offset(panel)..]);
            }
            if let Some(bias) = bias {
                biases[group * panels.padded_cols()..][..cols].copy_from_slice(&bias[group * cols..][..cols]);
            }
        }
        let rows = tile_rows(geometry.out_h * geometry.out_w, panels.rows());
        let method = if geometry.is_pointwise() {
            Method::Pointwise
        } else if unfold::suits(&geometry) {
            Method::Unfold(unfold::WindowRows::new(&geometry, rows))
        } else {
            Method::Indirect(offsets(&geometry, rows))
        };
        let zeros = Aligned::zeros(geometry.kernel[1] * geometry.group_in());
        Ok(Direct { isa, geometry, clamp, method, panels, weights: packed, bias: biases, zeros })
    }

    /// As [`super::Conv::run`].
    pub(super) fn run(
        &self,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let geometry = &self.geometry;
        expect_len("input", x.len(), geometry.input_len())?;
        expect_len("output", y.len(), geometry.output_len())?;
        if let Some(residual) = residual {
            expect_len("residual", residual.len(), y.len())?;
        }
        // A pointwise convolution does not care where one image ends.
        let flat = matches!(self.method, Method::Pointwise);
        let images = if flat { 1 } else { geometry.batch };
        let pixels = geometry.output_len() / geometry.out_c / images;
        let units = images * geometry.groups;
        let row_bytes = 4 * geometry.group_in() * geometry.taps().min(geometry.stride[0] * geometry.stride[1]);
        let parts = Parts::new(pixels, row_bytes, &self.panels, Parts::wanted(pool).div_ceil(units));
        let out = SharedMut::new(y);
        let step = geometry.out_h * geometry.out_w * geometry.out_c;
        pool.run(units * parts.count(), &|chunk| {
            let (unit, part) = (chunk / parts.count(), chunk % parts.count());
            let (image, group) = (unit / geometry.groups, unit % geometry.groups);
            let input = &x[image * (geometry.input_len() / images)..];
            let at = image * step + group * geometry.group_out();
            let (tiles, panels) = parts.get(part);
            // SAFETY: `at` is inside the output. The offsets and strides lead to pixels of this image and channels of this group, which the
            // lengths checked above contain; parts share no results.
            unsafe {
                let product = self.product(&input[group * geometry.group_in()..], group, pixels);
                let product = Product {
                    out: out.as_mut_ptr().add(at),
                    residual: residual.map_or(std::ptr::null(), |residual| residual.as_ptr().add(at)),
                    ..product
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
        });
        Ok(())
    }

    /// The product of one image and group, without its results.
    fn product<'a>(&'a self, input: &'a [f32], group: usize, pixels: usize) -> Product<'a> {
        let (panels, geometry) = (self.panels, &self.geometry);
        let bias = if self.bias.is_empty() {
            &[][..]
        } else {
            &self.bias[group * panels.padded_cols()..][..panels.padded_cols()]
        };
        let (rows, taps) = match &self.method {
            Method::Indirect(table) => (Rows::Table(table), geometry.taps()),
            Method::Pointwise => (Rows::Strided(geometry.in_c), 1),
            Method::Unfold(_) => (Rows::Strided(unfold::row_len(geometry)), 1),
        };
        Product {
            left: input.as_ptr(),
            rows,
            count: pixels,
            tile_rows: tile_rows(pixels, panels.rows()),
            taps,
            depth: geometry.taps() * geometry.group_in() / taps,
            zeros: &self.zeros,
            panels,
            right: &self.weights[group * panels.len()..][..panels.len()],
            bias,
            clamp: self.clamp,
            in_order: false,
            out: std::ptr::null_mut(),
            residual: std::ptr::null(),
            stride: geometry.out_c,
        }
    }
}

/// The table of [`Rows::Table`] for one image.
fn offsets(geometry: &ConvGeometry, rows: usize) -> Vec<u32> {
    let pixels = geometry.out_h * geometry.out_w;
    let mut table = Vec::with_capacity(pixels * geometry.taps());
    for first in (0..pixels).step_by(rows) {
        for tap in 0..geometry.taps() {
            let (down, right) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
            for pixel in first..(first + rows).min(pixels) {
                let row = geometry.input_row(pixel / geometry.out_w, down);
                let col = geometry.input_col(pixel % geometry.out_w, right);
                table.push(match (row, col) {
                    (Some(row), Some(col)) => ((row * geometry.in_w + col) * geometry.in_c) as u32,
                    _ => PADDING,
                });
            }
        }
    }
    table
}

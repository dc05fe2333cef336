//! The convolution written out: the definition the vector kernels are held to.

use super::After;
use crate::cpu::Isa;
use crate::geometry::ConvGeometry;
use crate::pool::Pool;
use crate::quantized::elementwise;
use crate::quantized::epilogue::{Epilogue, Output};

/// The sum of output channel `oc` at the output pixel numbered `pixel` over the whole batch.
///
/// `weights` are `[out_c, kernel rows, kernel columns, in_c / groups]`; `bias` already contains the part of
/// the input's zero point, so a tap in the padding reads `x_zero`.
pub(crate) fn dot(g: &ConvGeometry, x: &[u8], x_zero: u8, weights: &[i8], bias: i32, pixel: usize, oc: usize) -> i32 {
    let (ox, oy, n) = (pixel % g.out_w, pixel / g.out_w % g.out_h, pixel / g.out_w / g.out_h);
    let channels = g.in_c / g.groups;
    let first = oc / (g.out_c / g.groups) * channels;
    let mut acc = bias;
    for ky in 0..g.kernel[0] {
        for kx in 0..g.kernel[1] {
            let place = g.input_row(oy, ky).zip(g.input_col(ox, kx));
            for c in 0..channels {
                let value = match place {
                    Some((iy, ix)) => x[((n * g.in_h + iy) * g.in_w + ix) * g.in_c + first + c],
                    None => x_zero,
                };
                let weight = weights[((oc * g.kernel[0] + ky) * g.kernel[1] + kx) * channels + c];
                acc = acc.wrapping_add(i32::from(value) * i32::from(weight));
            }
        }
    }
    acc
}

/// All output values, one pixel at a time. `y` is of the kind that `epilogue` writes.
pub(crate) fn run(
    g: &ConvGeometry,
    x: &[u8],
    x_zero: u8,
    weights: &[i8],
    bias: &[i32],
    epilogue: &Epilogue,
    after: After<'_>,
    y: Output<'_>,
    pool: &Pool,
) {
    let dot = |pixel, oc| dot(g, x, x_zero, weights, bias[oc], pixel, oc);
    match (epilogue, y) {
        (Epilogue::Requantize(to), Output::U8(y)) => {
            pool.for_each_chunk_mut(y, g.out_c, |pixel, y| {
                for (oc, y) in y.iter_mut().enumerate() {
                    *y = to.apply(dot(pixel, oc), oc);
                }
                if let Some(prelu) = after.prelu {
                    elementwise::prelu_in_place(Isa::Scalar, prelu, 0, y);
                }
                if let Some(residual) = after.residual {
                    let values = &residual.values[pixel * g.out_c..][..g.out_c];
                    elementwise::add_in_place(Isa::Scalar, residual.add, y, values);
                }
            });
        }
        (Epilogue::Dequantize { scale }, Output::F32(y)) => {
            pool.for_each_chunk_mut(y, g.out_c, |pixel, y| {
                for (oc, y) in y.iter_mut().enumerate() {
                    *y = dot(pixel, oc) as f32 * scale[oc];
                }
            });
        }
        _ => unreachable!("the output was checked against the epilogue"),
    }
}

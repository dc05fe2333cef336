//! Largest and mean value under a sliding window, channels last. Windows over whole images are cheaper through
//! [`super::reduce`].

use super::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::quantized::pooling::Count;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// What becomes of the values under a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The largest; taps in the padding are left out. A window with nothing in it gives minus infinity.
    Max,
    /// The mean; taps in the padding count as zeros, or not at all.
    Mean(Count),
}

/// Pools `x`, `[batch, in_h, in_w, c]`, into `y`, `[batch, out_h, out_w, c]`. The number of groups is not looked at. Allocates nothing.
///
/// # Errors
/// [`KernelError`] when the geometry contradicts itself or changes the number of channels, or a slice has another length than it says.
pub fn pool2d(
    isa: Isa,
    window: Window,
    geometry: &ConvGeometry,
    x: &[f32],
    y: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    ConvGeometry { groups: 1, ..*geometry }.check()?;
    if geometry.in_c != geometry.out_c {
        return Err(KernelError::Geometry(format!("pooling of {} to {} channels", geometry.in_c, geometry.out_c)));
    }
    expect_len("input", x.len(), geometry.input_len())?;
    expect_len("output", y.len(), geometry.output_len())?;
    let row_len = geometry.out_w * geometry.out_c;
    let rows = geometry.batch * geometry.out_h;
    let step = if pool.threads() == 1 { rows } else { rows.div_ceil(pool.threads() * 3) };
    let y = SharedMut::new(y);
    pool.run(rows.div_ceil(step), &|chunk| {
        let rows = chunk * step..rows.min((chunk + 1) * step);
        // SAFETY: chunks are distinct ranges of rows.
        let y = unsafe { y.slice(rows.start * row_len..rows.end * row_len) };
        dispatch(isa, OutputRows { window, geometry, x, first: rows.start, y });
    });
    Ok(())
}

struct OutputRows<'a> {
    window: Window,
    geometry: &'a ConvGeometry,
    x: &'a [f32],
    /// Number of the first row among those of all images.
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for OutputRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let geometry = self.geometry;
        let channels = geometry.in_c;
        for (i, pixel) in self.y.chunks_exact_mut(channels).enumerate() {
            let (row, col) = (self.first + i / geometry.out_w, i % geometry.out_w);
            let image = row / geometry.out_h * geometry.in_h;
            let (start, scale) = match self.window {
                Window::Max => (f32::NEG_INFINITY, 1.0),
                Window::Mean(count) => (0.0, 1.0 / divisor(geometry, count, row % geometry.out_h, col)),
            };
            let (downs, rights) = (geometry.row_taps(row % geometry.out_h), geometry.col_taps(col));
            // Where tap 0 would be; wraps where that is padding, and back when a tap inside is added.
            let top = (row % geometry.out_h * geometry.stride[0]).wrapping_sub(geometry.pad_top).wrapping_add(image);
            let left = (col * geometry.stride[1]).wrapping_sub(geometry.pad_left);
            let origin = top.wrapping_mul(geometry.in_w).wrapping_add(left).wrapping_mul(channels);
            for (block, out) in pixel.chunks_mut(S::LANES).enumerate() {
                let mut sum = s.splat(start);
                for down in downs.clone() {
                    for right in rights.clone() {
                        let tap = down * geometry.dilation[0] * geometry.in_w + right * geometry.dilation[1];
                        let at = origin.wrapping_add(tap * channels + block * S::LANES);
                        let from = &self.x[at..][..out.len()];
                        let value = if out.len() == S::LANES { s.load(from) } else { s.load_tail(from) };
                        sum = match self.window {
                            Window::Max => s.max(sum, value),
                            Window::Mean(_) => s.add(sum, value),
                        };
                    }
                }
                let value = match self.window {
                    Window::Max => sum,
                    Window::Mean(_) => s.mul(sum, s.splat(scale)),
                };
                s.store_tail(out, value);
            }
        }
    }
}

/// What the sum under a window is divided by.
#[inline(always)]
pub(crate) fn divisor(geometry: &ConvGeometry, count: Count, row: usize, col: usize) -> f32 {
    let (down, right) = match count {
        Count::Inside => (geometry.row_taps(row).len(), geometry.col_taps(col).len()),
        Count::Padded { bottom, right } => {
            // As if the padding were part of the image.
            let padded = ConvGeometry {
                in_h: geometry.pad_top + geometry.in_h + bottom,
                in_w: geometry.pad_left + geometry.in_w + right,
                pad_top: 0,
                pad_left: 0,
                ..*geometry
            };
            (padded.row_taps(row).len(), padded.col_taps(col).len())
        }
    };
    (down * right).max(1) as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::conv::tests::geometries;
    use crate::float::testing::noise;

    fn expected(window: Window, g: &ConvGeometry, x: &[f32], out: usize) -> f64 {
        let (c, pixel) = (out % g.out_c, out / g.out_c);
        let (col, row, image) = (pixel % g.out_w, pixel / g.out_w % g.out_h, pixel / g.out_w / g.out_h);
        let (mut inside, mut padded) = (Vec::new(), 0);
        for tap in 0..g.taps() {
            let (down, right) = (tap / g.kernel[1], tap % g.kernel[1]);
            if let (Some(y), Some(z)) = (g.input_row(row, down), g.input_col(col, right)) {
                inside.push(f64::from(x[((image * g.in_h + y) * g.in_w + z) * g.in_c + c]));
            }
            let (y, z) = (row * g.stride[0] + down * g.dilation[0], col * g.stride[1] + right * g.dilation[1]);
            padded += usize::from(y < g.pad_top + g.in_h + 1 && z < g.pad_left + g.in_w + 2);
        }
        match window {
            Window::Max => inside.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Window::Mean(Count::Inside) => inside.iter().sum::<f64>() / inside.len().max(1) as f64,
            Window::Mean(_) => inside.iter().sum::<f64>() / padded.max(1) as f64,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn pooling_agrees_with_its_definition(geometry in geometries(), channels in 1..=40usize) {
            let geometry = ConvGeometry { in_c: channels, out_c: channels, groups: 1, ..geometry };
            let x = noise(1, geometry.input_len());
            let windows = [Window::Max, Window::Mean(Count::Inside), Window::Mean(Count::Padded { bottom: 1, right: 2 })];
            for (isa, window) in Isa::available().into_iter().flat_map(|isa| windows.map(|window| (isa, window))) {
                for threads in 1..=3 {
                    let mut y = vec![f32::NAN; geometry.output_len()];
                    pool2d(isa, window, &geometry, &x, &mut y, &Pool::kept(threads)).unwrap();
                    for (i, y) in y.iter().enumerate() {
                        let (found, expected) = (f64::from(*y), expected(window, &geometry, &x, i));
                        prop_assert!(
                            found == expected || (found - expected).abs() < 1e-5,
                            "{} {:?} {:?} {}: {} is not {}", isa.name(), window, geometry, i, found, expected
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn channels_must_stay() {
        let geometry = ConvGeometry {
            batch: 1,
            in_h: 2,
            in_w: 2,
            in_c: 2,
            out_h: 1,
            out_w: 1,
            out_c: 1,
            kernel: [2, 2],
            stride: [1, 1],
            dilation: [1, 1],
            pad_top: 0,
            pad_left: 0,
            groups: 1,
        };
        let refused = pool2d(Isa::Scalar, Window::Max, &geometry, &[0.0; 8], &mut [0.0; 1], &Pool::new(1));
        assert!(matches!(refused, Err(KernelError::Geometry(_))));
        let geometry = ConvGeometry { out_c: 2, ..geometry };
        let refused = pool2d(Isa::Scalar, Window::Max, &geometry, &[0.0; 8], &mut [0.0; 1], &Pool::new(1));
        assert!(matches!(refused, Err(KernelError::Length { .. })));
    }
}

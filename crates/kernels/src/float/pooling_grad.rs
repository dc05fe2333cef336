//! What flows back through pooling, channels last.
//!
//! A task has some channels of one image, where windows may overlap: it visits them in order, so results do not depend on the threads.

use std::ops::Range;

use super::pooling::{Window, divisor};
use super::simd::{Kernel, Simd, dispatch};
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// Channels of a task.
const CHANNELS: usize = 64;

/// The gradient `dx`, `[batch, in_h, in_w, c]`, of what was pooled from that of the results, `dy`, `[batch, out_h, out_w, c]`. The largest value of a
/// window takes all, the first of equal ones; `x` is what was pooled, and only looked at for [`Window::Max`]. The number of groups is not
/// looked at. Allocates nothing.
///
/// # Errors
/// [`KernelError`] when the geometry contradicts itself or changes the number of channels, or a slice has another length than it says.
pub fn pool2d_grad(
    isa: Isa,
    window: Window,
    geometry: &ConvGeometry,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    let g = geometry;
    ConvGeometry { groups: 1, ..*g }.check()?;
    if g.in_c != g.out_c {
        return Err(KernelError::Geometry(format!("pooling of {} to {} channels", g.in_c, g.out_c)));
    }
    if window == Window::Max {
        expect_len("input", x.len(), g.input_len())?;
    }
    expect_len("gradient of the output", dy.len(), g.output_len())?;
    expect_len("gradient of the input", dx.len(), g.input_len())?;
    let blocks = g.in_c.div_ceil(CHANNELS);
    let dx = SharedMut::new(dx);
    pool.run(g.batch * blocks, &|task| {
        let (image, block) = (task / blocks, task % blocks * CHANNELS);
        let channels = block..g.in_c.min(block + CHANNELS);
        dispatch(isa, Channels { window, geometry, x, dy, image, channels, dx: &dx });
    });
    Ok(())
}

/// Some channels of an image.
struct Channels<'a> {
    window: Window,
    geometry: &'a ConvGeometry,
    x: &'a [f32],
    dy: &'a [f32],
    image: usize,
    channels: Range<usize>,
    dx: &'a SharedMut<'a, f32>,
}

impl Kernel for Channels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Channels { window, geometry: g, x, dy, image, channels, dx } = self;
        let pixels = g.in_h * g.in_w;
        for pixel in image * pixels..(image + 1) * pixels {
            // SAFETY: tasks have channels of an image of their own.
            unsafe { dx.slice(pixel * g.in_c + channels.start..pixel * g.in_c + channels.end) }.fill(0.0);
        }
        for (row, col) in (0..g.out_h).flat_map(|row| (0..g.out_w).map(move |col| (row, col))) {
            let (downs, rights) = (g.row_taps(row), g.col_taps(col));
            let from = ((image * g.out_h + row) * g.out_w + col) * g.out_c;
            let at = |down: usize, right: usize, c: usize| {
                let y = row * g.stride[0] + down * g.dilation[0] - g.pad_top;
                let z = col * g.stride[1] + right * g.dilation[1] - g.pad_left;
                ((image * g.in_h + y) * g.in_w + z) * g.in_c + c
            };
            for c in channels.clone().step_by(S::LANES) {
                let count = S::LANES.min(channels.end - c);
                let load = |from: &[f32]| if count == S::LANES { s.load(from) } else { s.load_tail(from) };
                let mut left = load(&dy[from + c..][..count]);
                let mut most = s.splat(f32::NEG_INFINITY);
                match window {
                    Window::Mean(how) => left = s.mul(left, s.splat(1.0 / divisor(g, how, row, col))),
                    Window::Max => {
                        for (down, right) in downs.clone().flat_map(|d| rights.clone().map(move |r| (d, r))) {
                            most = s.max(most, load(&x[at(down, right, c)..][..count]));
                        }
                    }
                }
                for (down, right) in downs.clone().flat_map(|d| rights.clone().map(move |r| (d, r))) {
                    let to = at(down, right, c);
                    // SAFETY: as above.
                    let to_values = unsafe { dx.slice(to..to + count) };
                    let mut share = left;
                    if window == Window::Max {
                        let value = load(&x[to..][..count]);
                        share = s.select_lt(value, most, s.splat(0.0), left);
                        left = s.select_lt(value, most, left, s.splat(0.0));
                    }
                    let sum = s.add(load(to_values), share);
                    s.store_tail(to_values, sum);
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
    use crate::float::testing::noise;
    use crate::quantized::pooling::Count;

    fn expected(window: Window, g: &ConvGeometry, x: &[f32], dy: &[f32]) -> Vec<f64> {
        let mut dx = vec![0.0; g.input_len()];
        for (i, dy) in dy.iter().enumerate() {
            let (c, pixel) = (i % g.out_c, i / g.out_c);
            let (col, row, image) = (pixel % g.out_w, pixel / g.out_w % g.out_h, pixel / g.out_w / g.out_h);
            let mut seen = vec![];
            for tap in 0..g.taps() {
                let at = (g.input_row(row, tap / g.kernel[1]), g.input_col(col, tap % g.kernel[1]));
                if let (Some(y), Some(z)) = at {
                    seen.push(((image * g.in_h + y) * g.in_w + z) * g.in_c + c);
                }
            }
            match window {
                Window::Max => {
                    let most = seen.iter().map(|i| x[*i]).fold(f32::NEG_INFINITY, f32::max);
                    if let Some(first) = seen.iter().find(|i| x[**i] == most) {
                        dx[*first] += f64::from(*dy);
                    }
                }
                Window::Mean(count) => {
                    let n = f64::from(divisor(g, count, row, col));
                    seen.iter().for_each(|i| dx[*i] += f64::from(*dy) / n);
                }
            }
        }
        dx
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn gradients_agree_with_their_definition(geometry in geometries(), channels in 1..=40usize, coarse: bool) {
            let g = ConvGeometry { in_c: channels, out_c: channels, groups: 1, ..geometry };
            let mut x = noise(1, g.input_len());
            if coarse {
                // Equal values, so that it matters which is the first.
                x.iter_mut().for_each(|v| *v = (*v * 2.0).round());
            }
            let dy = noise(2, g.output_len());
            for window in [Window::Max, Window::Mean(Count::Inside), Window::Mean(Count::Padded { bottom: 1, right: 2 })] {
                let want = expected(window, &g, &x, &dy);
                for isa in Isa::available() {
                    for threads in 1..=3 {
                        let mut dx = vec![f32::NAN; g.input_len()];
                        pool2d_grad(isa, window, &g, &x, &dy, &mut dx, &Pool::kept(threads)).unwrap();
                        for (i, (found, want)) in dx.iter().zip(&want).enumerate() {
                            let error = (f64::from(*found) - want).abs();
                            prop_assert!(error < 1e-5, "{} {:?} {:?} {}: {} is not {}", isa.name(), window, g, i, found, want);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let g = ConvGeometry { in_h: 2, out_h: 2, ..ConvGeometry::matmul(2, 3, 3) };
        let run = |x: usize, dy: usize, window| {
            pool2d_grad(Isa::Scalar, window, &g, &vec![0.0; x], &vec![0.0; dy], &mut [0.0; 12], &Pool::new(1))
        };
        assert!(run(12, 12, Window::Max).is_ok());
        assert!(run(0, 12, Window::Mean(Count::Inside)).is_ok());
        assert!(run(0, 12, Window::Max).is_err());
        assert!(run(12, 11, Window::Max).is_err());
    }
}

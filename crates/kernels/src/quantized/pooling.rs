//! Largest and mean value under a sliding window, channels last.

use super::epilogue::Clip;
use super::versions::per_isa;
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::geometry::ConvGeometry;
use crate::pool::Pool;

/// Channels pooled at a time.
const LANES: usize = 64;
/// The same of channels left over.
const FEW: usize = 16;

/// The largest value under each window; taps in the padding are left out.
///
/// The order of stored bytes is that of the numbers they mean, so this works for every quantization and changes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool {
    /// Sizes; as many output channels as inputs. `groups` is not looked at.
    pub geometry: ConvGeometry,
}

impl MaxPool {
    /// Pools `x`, `[batch, in_h, in_w, channels]`, into `y`, `[batch, out_h, out_w, channels]`. A window that lies
    /// wholly in the padding gives the least byte.
    ///
    /// # Errors
    /// When the geometry is inconsistent or a length wrong.
    pub fn run(&self, isa: Isa, x: &[u8], y: &mut [u8], pool: &Pool) -> Result<(), KernelError> {
        let g = &self.geometry;
        check(g, x.len(), y.len())?;
        let row = g.out_w * g.out_c;
        let image = g.in_h * g.in_w * g.in_c;
        for_rows(g, y, row, pool, |n, oy, y| max_row(isa, g, &x[n * image..(n + 1) * image], oy, y));
        Ok(())
    }
}

/// What the mean divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The taps inside the image.
    Inside,
    /// All taps but those beyond the padding, which is this many rows and columns below and right of the image.
    Padded {
        /// Rows of padding below.
        bottom: usize,
        /// Columns of padding to the right.
        right: usize,
    },
}

/// The mean under each window: `Σ (x − x_zero)`, requantized with `x_scale ⊘ (n ⊗ y_scale)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AveragePool {
    /// Sizes; as many output channels as inputs. `groups` is not looked at.
    pub geometry: ConvGeometry,
    /// Which taps `n` counts.
    pub count: Count,
    /// Stored value that means zero.
    pub x_zero: u8,
    /// Scale of the input.
    pub x_scale: f32,
    /// Scale of the output.
    pub y_scale: f32,
    /// Zero point and range of the output.
    pub clip: Clip,
}

impl AveragePool {
    /// The mean over whole images: `[batch, pixels, channels]` to `[batch, channels]`.
    #[must_use]
    pub fn global(
        [batch, pixels, channels]: [usize; 3],
        x_zero: u8,
        x_scale: f32,
        y_scale: f32,
        clip: Clip,
    ) -> AveragePool {
        let geometry = ConvGeometry {
            batch,
            in_w: pixels,
            out_w: 1,
            kernel: [1, pixels],
            ..ConvGeometry::matmul(1, channels, channels)
        };
        AveragePool { geometry, count: Count::Inside, x_zero, x_scale, y_scale, clip }
    }

    /// Pools `x`, `[batch, in_h, in_w, channels]`, into `y`, `[batch, out_h, out_w, channels]`. A window that lies
    /// wholly in the padding gives zero.
    ///
    /// # Errors
    /// When the geometry is inconsistent, a length wrong, a scale not a positive number or the window so large that
    /// a sum could overflow.
    pub fn run(&self, isa: Isa, x: &[u8], y: &mut [u8], pool: &Pool) -> Result<(), KernelError> {
        let g = &self.geometry;
        check(g, x.len(), y.len())?;
        self.clip.check()?;
        let once = self.x_scale / self.y_scale;
        if !(once.is_finite() && once > 0.0 && self.y_scale.is_finite()) {
            return Err(KernelError::Unsupported(format!(
                "scales {} and {} of an average pool must be positive",
                self.x_scale, self.y_scale
            )));
        }
        if g.taps() > i32::MAX as usize / 255 {
            return Err(KernelError::Geometry(format!("a window of {} taps may overflow its sum", g.taps())));
        }
        let row = g.out_w * g.out_c;
        let image = g.in_h * g.in_w * g.in_c;
        for_rows(g, y, row, pool, |n, oy, y| mean_row(isa, self, &x[n * image..(n + 1) * image], oy, y));
        Ok(())
    }
}

fn check(g: &ConvGeometry, x: usize, y: usize) -> Result<(), KernelError> {
    g.check()?;
    if g.in_c != g.out_c {
        return Err(KernelError::Geometry(format!("pooling {} channels gives as many, not {}", g.in_c, g.out_c)));
    }
    expect_len("input", x, g.input_len())?;
    expect_len("output", y, g.output_len())
}

/// Runs `f(image, output row, values)` on every row of the output, several rows to a chunk.
fn for_rows(g: &ConvGeometry, y: &mut [u8], row: usize, pool: &Pool, f: impl Fn(usize, usize, &mut [u8]) + Sync) {
    let rows = (g.batch * g.out_h).div_ceil(4 * pool.threads());
    pool.for_each_chunk_mut(y, rows * row, |chunk, y| {
        for (i, y) in y.chunks_exact_mut(row).enumerate() {
            let line = chunk * rows + i;
            f(line / g.out_h, line % g.out_h, y);
        }
    });
}

/// The taps of output position `out` that lie inside `size` values.
#[inline(always)]
fn inside(
    out: usize,
    stride: usize,
    dilation: usize,
    kernel: usize,
    pad: usize,
    size: usize,
) -> std::ops::Range<usize> {
    let start = out * stride;
    // As a rule all of them; divisions take longer than a small window.
    if start >= pad && start - pad + (kernel - 1) * dilation < size {
        return 0..kernel;
    }
    let first = pad.saturating_sub(start).div_ceil(dilation).min(kernel);
    let last = (size + pad).saturating_sub(start).div_ceil(dilation).min(kernel);
    first..last.max(first)
}

per_isa! {
    fn max_row(g: &ConvGeometry, x: &[u8], oy: usize, y: &mut [u8]) {
        let rows = inside(oy, g.stride[0], g.dilation[0], g.kernel[0], g.pad_top, g.in_h);
        let top = oy * g.stride[0] + rows.start * g.dilation[0];
        for (ox, y) in y.chunks_exact_mut(g.in_c).enumerate() {
            let columns = inside(ox, g.stride[1], g.dilation[1], g.kernel[1], g.pad_left, g.in_w);
            let left = ox * g.stride[1] + columns.start * g.dilation[1];
            let taps = Taps {
                x: if rows.is_empty() || columns.is_empty() {
                    &[]
                } else {
                    &x[((top - g.pad_top) * g.in_w + left - g.pad_left) * g.in_c..]
                },
                count: [rows.len(), columns.len()],
                apart: [g.dilation[0] * g.in_w * g.in_c, g.dilation[1] * g.in_c],
            };
            let (blocks, rest) = y.as_chunks_mut::<LANES>();
            for (block, y) in blocks.iter_mut().enumerate() {
                *y = taps.largest(block * LANES);
            }
            let first = g.in_c - rest.len();
            let (blocks, rest) = rest.as_chunks_mut::<FEW>();
            for (block, y) in blocks.iter_mut().enumerate() {
                *y = taps.largest(first + block * FEW);
            }
            let first = g.in_c - rest.len();
            for (channel, y) in rest.iter_mut().enumerate() {
                [*y] = taps.largest(first + channel);
            }
        }
    }
}

/// The taps of a window that lie inside the image: the pixels from the first one on, how many down and across, and values between them.
struct Taps<'a> {
    x: &'a [u8],
    count: [usize; 2],
    apart: [usize; 2],
}

impl Taps<'_> {
    /// The largest values of `N` channels: as many as stay in registers while the taps go by.
    #[inline(always)]
    fn largest<const N: usize>(&self, channel: usize) -> [u8; N] {
        let mut best = [0; N];
        for row in 0..self.count[0] {
            for column in 0..self.count[1] {
                let from = row * self.apart[0] + column * self.apart[1] + channel;
                let x: &[u8] = &self.x[from..from + N];
                for (best, x) in best.iter_mut().zip(x) {
                    *best = (*best).max(*x);
                }
            }
        }
        best
    }
}

per_isa! {
    fn mean_row(with: &AveragePool, x: &[u8], oy: usize, y: &mut [u8]) {
        let g = &with.geometry;
        let limits = with.clip.limits();
        let padded = match with.count {
            Count::Inside => None,
            Count::Padded { bottom, right } => Some((bottom, right)),
        };
        let rows = inside(oy, g.stride[0], g.dilation[0], g.kernel[0], g.pad_top, g.in_h);
        for (ox, y) in y.chunks_exact_mut(g.in_c).enumerate() {
            let columns = inside(ox, g.stride[1], g.dilation[1], g.kernel[1], g.pad_left, g.in_w);
            let taps = rows.len() * columns.len();
            let count = match padded {
                None => taps.max(1),
                Some((bottom, right)) => {
                    let down = inside(oy, g.stride[0], g.dilation[0], g.kernel[0], 0, g.pad_top + g.in_h + bottom);
                    let across = inside(ox, g.stride[1], g.dilation[1], g.kernel[1], 0, g.pad_left + g.in_w + right);
                    (down.len() * across.len()).max(1)
                }
            };
            let scale = with.x_scale / (count as f32 * with.y_scale);
            let zeros = taps as i32 * i32::from(with.x_zero);
            for (block, y) in y.chunks_mut(LANES).enumerate() {
                let mut sums = [0i32; LANES];
                for ky in rows.clone() {
                    let iy = oy * g.stride[0] + ky * g.dilation[0] - g.pad_top;
                    for kx in columns.clone() {
                        let ix = ox * g.stride[1] + kx * g.dilation[1] - g.pad_left;
                        let from = (iy * g.in_w + ix) * g.in_c + block * LANES;
                        if let Some(x) = x[from..from + y.len()].first_chunk::<LANES>() {
                            for (sum, x) in sums.iter_mut().zip(x) {
                                *sum += i32::from(*x);
                            }
                        } else {
                            for (sum, x) in sums.iter_mut().zip(&x[from..from + y.len()]) {
                                *sum += i32::from(*x);
                            }
                        }
                    }
                }
                for (y, sum) in y.iter_mut().zip(&sums) {
                    *y = limits.close((sum - zeros) as f32 * scale);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantized::requantize;
    use crate::quantized::testing::cases;
    use proptest::prelude::*;

    /// The bytes under the window of one output value, and how many taps lie inside image and padding.
    fn window(g: &ConvGeometry, x: &[u8], pixel: usize, c: usize, pads: (usize, usize)) -> (Vec<u8>, usize) {
        let (ox, oy, n) = (pixel % g.out_w, pixel / g.out_w % g.out_h, pixel / g.out_w / g.out_h);
        let (mut values, mut padded) = (Vec::new(), 0);
        for ky in 0..g.kernel[0] {
            for kx in 0..g.kernel[1] {
                let (down, across) = (oy * g.stride[0] + ky * g.dilation[0], ox * g.stride[1] + kx * g.dilation[1]);
                if down < g.pad_top + g.in_h + pads.0 && across < g.pad_left + g.in_w + pads.1 {
                    padded += 1;
                }
                if let (Some(iy), Some(ix)) = (g.input_row(oy, ky), g.input_col(ox, kx)) {
                    values.push(x[((n * g.in_h + iy) * g.in_w + ix) * g.in_c + c]);
                }
            }
        }
        (values, padded)
    }

    fn channels() -> impl Strategy<Value = (usize, usize, usize)> {
        prop::sample::select(vec![1usize, 3, 17, 63, 64, 65, 130]).prop_map(|c| (c, 1, 1))
    }

    proptest! {
        #[test]
        fn pools_equal_their_definition(
            case in cases(channels()), zero: u8, y_scale in 0.1f32..3.0, bottom in 0usize..3, right in 0usize..3,
        ) {
            let g = case.geometry;
            let pool = Pool::kept(case.threads);
            let clip = Clip { zero, lo: 3, hi: 250 };
            for isa in Isa::available() {
                let mut y = vec![7; g.output_len()];
                MaxPool { geometry: g }.run(isa, &case.x, &mut y, &pool).unwrap();
                for (i, y) in y.iter().enumerate() {
                    let (values, _) = window(&g, &case.x, i / g.out_c, i % g.out_c, (0, 0));
                    prop_assert_eq!(*y, values.into_iter().max().unwrap_or(0));
                }
                for count in [Count::Inside, Count::Padded { bottom, right }] {
                    let mean = AveragePool { geometry: g, count, x_zero: case.x_zero, x_scale: 0.7, y_scale, clip };
                    mean.run(isa, &case.x, &mut y, &pool).unwrap();
                    for (i, y) in y.iter().enumerate() {
                        let (values, padded) = window(&g, &case.x, i / g.out_c, i % g.out_c, (bottom, right));
                        let n = if count == Count::Inside { values.len() } else { padded };
                        let sum = values.iter().map(|x| i32::from(*x) - i32::from(case.x_zero)).sum();
                        let scale = 0.7 / (n.max(1) as f32 * y_scale);
                        prop_assert_eq!(*y, requantize(sum, scale, zero, 3, 250));
                    }
                }
            }
        }
    }

    #[test]
    fn global_mean() {
        let clip = Clip { zero: 128, lo: 0, hi: 255 };
        let mean = AveragePool::global([2, 3, 2], 100, 1.0, 1.0, clip);
        let x = [101, 90, 102, 91, 103, 92, 100, 100, 100, 100, 103, 100];
        let mut y = [0; 4];
        mean.run(Isa::detect(), &x, &mut y, &Pool::new(1)).unwrap();
        assert_eq!(y, [130, 119, 129, 128]);
    }
}

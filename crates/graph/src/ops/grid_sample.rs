use qing_tensor::Tensor;

use super::support::{elementwise::each_index, resample::Kernel, sizes};
use crate::{ValueId, Backward, Gradients, AttrValue, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, Type, op};

op! {
    /// Values of `X [batch, channels, spatial…]` at the positions in `grid [batch, sizes…, axes]`, in which −1 and 1 are the
    /// ends of an axis and the last axis comes first.
    GridSample = "GridSample" {
        /// Whether −1 and 1 are the centres of the outermost values, rather than their outer edges.
        align_corners: bool = false,
        /// `linear`, `nearest` or `cubic`.
        mode: String = "linear".into(),
        /// What lies outside: `zeros`, `border` or `reflection`.
        padding_mode: String = "zeros".into(),
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 20 the modes were those of images.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    let mode: String = node.attrs.read("mode", String::new())?;
    let new = match mode.as_str() {
        "bilinear" => "linear",
        "bicubic" => "cubic",
        _ => return Ok(()),
    };
    node.attrs.set("mode", AttrValue::String(new.into()));
    Ok(())
}

/// What lies outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// `x` reflected at `low` and `high` until it lies between them.
fn reflected(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 || !x.is_finite() {
        return low;
    }
    let (distance, from_low) = if x < low { (low - x, true) } else { (x - high, false) };
    if distance <= 0.0 {
        return x;
    }
    let times = (distance / range).floor();
    let rest = distance - times * range;
    if (times % 2.0 == 0.0) == from_low { low + rest } else { high - rest }
}

impl GridSample {
    fn outside(&self) -> Result<Outside, OpError> {
        match self.padding_mode.as_str() {
            "zeros" => Ok(Outside::Zeros),
            "border" => Ok(Outside::Border),
            "reflection" => Ok(Outside::Reflection),
            other => Err(OpError::invalid(format!("padding_mode {other:?}"))),
        }
    }

    /// The kernel; `None` for the nearest value.
    fn kernel(&self) -> Result<Option<Kernel>, OpError> {
        match self.mode.as_str() {
            "nearest" => Ok(None),
            "linear" => Ok(Some(Kernel::Linear)),
            "cubic" => Ok(Some(Kernel::Cubic(-0.75))),
            other => Err(OpError::invalid(format!("mode {other:?}"))),
        }
    }

    /// Indices and weights of the values along an axis of `size` that make up the value at grid position `g`.
    fn taps(&self, g: f64, size: usize, kernel: Option<Kernel>, outside: Outside) -> Vec<(usize, f64)> {
        let n = size as f64;
        let (low, high) = if self.align_corners { (0.0, n - 1.0) } else { (-0.5, n - 0.5) };
        let mut x = f64::from(((g + 1.0) / 2.0 * (high - low) + low) as f32);
        if kernel.is_none() {
            x = x.round_ties_even();
        }
        if x < low || x > high {
            x = match outside {
                Outside::Zeros => x,
                Outside::Border => x.clamp(0.0, n - 1.0),
                Outside::Reflection => reflected(x, low, high),
            };
        }
        let place = |at: f64| {
            let at = match outside {
                Outside::Zeros => at,
                Outside::Border => at.clamp(0.0, n - 1.0),
                Outside::Reflection => reflected(at, low, high).trunc().clamp(0.0, n - 1.0),
            };
            (at >= 0.0 && at < n).then_some(at as usize)
        };
        let Some(kernel) = kernel else { return place(x.trunc()).map(|i| (i, 1.0)).into_iter().collect() };
        let first = x.floor();
        let range = if kernel == Kernel::Linear { 0..2 } else { -1..3 };
        range
            .filter_map(|i| {
                let at = first + f64::from(i);
                Some((place(at)?, kernel.weight(at - x)))
            })
            .collect()
    }
}

impl Op for GridSample {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, cx.shape(1)?) {
            (Some(x), Some([_, sizes @ .., _])) if sizes.len() + 2 == x.len() => Some([&x[..2], sizes].concat()),
            (Some(x), Some(grid)) => {
                return Err(OpError::invalid(format!("X of rank {} and a grid of rank {}", x.len(), grid.len())));
            }
            (Some(x), None) => {
                Some(x[..2.min(x.len())].iter().cloned().chain(x.iter().skip(2).map(|_| Dim::Unknown)).collect())
            }
            (None, _) => None,
        };
        Ok(vec![Type::maybe(x.element, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, grid) = (cx.input(0)?, cx.input(1)?);
        let axes = x.rank().saturating_sub(2);
        let fits = axes > 0
            && grid.rank() == x.rank()
            && grid.shape()[0] == x.shape()[0]
            && grid.shape()[axes + 1] == axes
            && !x.shape()[2..].contains(&0);
        if !fits {
            return Err(OpError::invalid(format!("X of shape {:?}, grid of shape {:?}", x.shape(), grid.shape())));
        }
        let (kernel, outside) = (self.kernel()?, self.outside()?);
        let spatial = &x.shape()[2..];
        let (batch, channels, area) = (x.shape()[0], x.shape()[1], spatial.iter().product::<usize>());
        let shape = [&x.shape()[..2], &grid.shape()[1..=axes]].concat();
        let points: usize = shape[2..].iter().product();
        let (values, positions) = (x.to_f64s(), grid.to_f64s());
        let mut y = vec![0.0; sizes::limited(&shape)?];
        for n in 0..batch {
            for p in 0..points {
                let at = &positions[(n * points + p) * axes..][..axes];
                let taps: Vec<Vec<(usize, f64)>> = spatial
                    .iter()
                    .enumerate()
                    .map(|(i, size)| self.taps(at[axes - 1 - i], *size, kernel, outside))
                    .collect();
                // The products of the taps of all axes, once for all channels.
                let counts: Vec<usize> = taps.iter().map(Vec::len).collect();
                let mut all = vec![];
                each_index(&counts, |k| {
                    let start = (0usize, 1.0f64);
                    all.push(k.iter().enumerate().fold(start, |(index, weight), (i, k)| {
                        let (tap, w) = taps[i][*k];
                        (index * spatial[i] + tap, weight * w)
                    }));
                });
                for c in 0..channels {
                    let plane = &values[(n * channels + c) * area..][..area];
                    y[(n * channels + c) * points + p] = all.iter().map(|(i, w)| plane[*i] * w).sum();
                }
            }
        }
        Ok(vec![Tensor::new(&shape, y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| self.in_simpler_ops(cx))
    }
}

impl GridSample {
    /// The output by gathering: for every tap the values there, times the products of the weights of the axes.
    fn in_simpler_ops(&self, cx: &Backward<'_>) -> Gradients {
        let (x, grid) = (cx.input(0)?, cx.input(1)?);
        let (shape, grid_shape) = (cx.shape(x)?, cx.shape(grid)?);
        let (batch, channels, axes) = (shape[0], shape[1], shape.len() - 2);
        let points: usize = grid_shape[1..=axes].iter().product();
        let positions = cx.reshape(cx.cast_like(grid, x)?, &[batch, points, axes])?;
        let mut places: Vec<(ValueId, ValueId)> = vec![(cx.scalar(x, 0.0), cx.scalar(x, 1.0))];
        for (i, size) in shape[2..].iter().enumerate() {
            // The grid takes the last axis first.
            let g = cx.reshape(cx.slice(positions, 2, axes - 1 - i, axes - i)?, &[batch, 1, points])?;
            let mut next = vec![];
            for (place, weight) in self.taps_in_simpler_ops(cx, g, *size)? {
                for (before, product) in &places {
                    let index = cx.add(cx.scale(*before, *size as f64)?, place)?;
                    next.push((index, cx.mul(*product, weight)?));
                }
            }
            places = next;
        }
        let flat = cx.reshape(x, &[batch, channels, shape[2..].iter().product()])?;
        let mut sum = None;
        for (index, weight) in places {
            let index = cx.emit(super::Cast { to: 7, ..super::Cast::default() }, &[index])?;
            let index = cx.expand(index, &[batch, channels, points])?;
            let part = cx.mul(cx.emit(super::GatherElements { axis: 2 }, &[flat, index])?, weight)?;
            sum = Some(sum.map_or(Ok(part), |sum| cx.add(sum, part))?);
        }
        let sum = sum.ok_or_else(|| OpError::invalid("no taps"))?;
        Ok(vec![Some(cx.reshape(sum, &[&shape[..2], &grid_shape[1..=axes]].concat())?)])
    }

    /// The taps along an axis of `size` at grid positions `g`: index and weight, zero where the tap lies outside.
    fn taps_in_simpler_ops(
        &self,
        cx: &Backward<'_>,
        g: ValueId,
        size: usize,
    ) -> Result<Vec<(ValueId, ValueId)>, OpError> {
        let (kernel, outside, last) = (self.kernel()?, self.outside()?, size as f64 - 1.0);
        let (low, high) = if self.align_corners { (0.0, last) } else { (-0.5, last + 0.5) };
        let floor = |v| cx.emit(super::Floor {}, &[v]);
        let clamp = |v| cx.emit(super::Clip {}, &[v, cx.scalar(v, 0.0), cx.scalar(v, last)]);
        // A wave between the two ends.
        let reflect = |v| {
            let range = high - low;
            if range <= 0.0 {
                return cx.scale(v, 0.0);
            }
            let from_low = cx.emit(super::Abs {}, &[cx.offset(v, -low)?])?;
            let times = floor(cx.scale(from_low, 0.5 / range)?)?;
            let rest = cx.sub(from_low, cx.scale(times, 2.0 * range)?)?;
            let back = cx.sub_from(2.0 * range, rest)?;
            cx.offset(cx.choose(cx.above(rest, range)?, back, rest)?, low)
        };
        let mut at = cx.offset(cx.scale(g, (high - low) / 2.0)?, (high - low) / 2.0 + low)?;
        if kernel.is_none() {
            at = cx.emit(super::Round {}, &[at])?;
        }
        at = match outside {
            Outside::Zeros => at,
            Outside::Border => {
                let beyond = cx.choose(cx.below(at, low)?, clamp(at)?, at)?;
                cx.choose(cx.above(at, high)?, clamp(at)?, beyond)?
            }
            Outside::Reflection => {
                let beyond = cx.choose(cx.below(at, low)?, reflect(at)?, at)?;
                cx.choose(cx.above(at, high)?, reflect(at)?, beyond)?
            }
        };
        let first = floor(at)?;
        let t = cx.sub(at, first)?;
        let weights: Vec<(f64, ValueId)> = match kernel {
            None => {
                let toward_zero = cx.emit(super::Abs {}, &[at])?;
                let sign = cx.emit(super::Sign {}, &[at])?;
                let trunc = cx.mul(floor(toward_zero)?, sign)?;
                return Ok(vec![self.placed(cx, trunc, cx.scalar(g, 1.0), size)?]);
            }
            Some(Kernel::Linear) => vec![(0.0, cx.sub_from(1.0, t)?), (1.0, t)],
            Some(Kernel::Cubic(a)) => {
                // Polynomials of the distance: within one, and from one to two.
                let near = |d: ValueId| {
                    let inner = cx.offset(cx.scale(d, a + 2.0)?, -(a + 3.0))?;
                    cx.offset(cx.mul(inner, cx.square(d)?)?, 1.0)
                };
                let far = |d: ValueId| {
                    let inner = cx.mul(cx.offset(cx.scale(d, a)?, -5.0 * a)?, d)?;
                    cx.offset(cx.mul(cx.offset(inner, 8.0 * a)?, d)?, -4.0 * a)
                };
                let other = cx.sub_from(1.0, t)?;
                let (before, behind) = (far(cx.offset(t, 1.0)?)?, far(cx.offset(other, 1.0)?)?);
                vec![(-1.0, before), (0.0, near(t)?), (1.0, near(other)?), (2.0, behind)]
            }
        };
        let mut taps = vec![];
        for (i, weight) in weights {
            let at = cx.offset(first, i)?;
            let at = if outside == Outside::Reflection {
                let inside = reflect(at)?;
                cx.mul(floor(cx.emit(super::Abs {}, &[inside])?)?, cx.emit(super::Sign {}, &[inside])?)?
            } else {
                at
            };
            taps.push(self.placed(cx, at, weight, size)?);
        }
        Ok(taps)
    }

    /// A tap at a whole position: where it reads, and its weight, zero if it lies outside and nothing is there.
    fn placed(
        &self,
        cx: &Backward<'_>,
        at: ValueId,
        weight: ValueId,
        size: usize,
    ) -> Result<(ValueId, ValueId), OpError> {
        let last = size as f64 - 1.0;
        let place = cx.emit(super::Clip {}, &[at, cx.scalar(at, 0.0), cx.scalar(at, last)])?;
        if self.outside()? != Outside::Zeros {
            return Ok((place, weight));
        }
        let within = cx.masked(cx.below(at, last + 0.5)?, weight)?;
        Ok((place, cx.masked(cx.above(at, -0.5)?, within)?))
    }
}

fn cases() -> Vec<Case> {
    let with = |mode: &str, padding: &str, align_corners| GridSample {
        align_corners,
        mode: mode.into(),
        padding_mode: padding.into(),
    };
    let case = |name: &str, op: GridSample, grid: [f32; 4], y: [f32; 2]| {
        Case::new(name, op).f32(&[1, 1, 2, 2], &[1., 2., 3., 4.]).f32(&[1, 1, 2, 2], &grid).gives(&[1, 1, 1, 2], &y)
    };
    vec![
        // The upper right corner, and the middle.
        case("corners", with("linear", "zeros", true), [1., -1., 0., 0.], [2., 2.5]),
        // Half of the corner lies outside along both axes.
        case("zeros_outside", with("linear", "zeros", false), [-1., -1., 0., 0.], [0.25, 2.5]),
        case("nearest_border", with("nearest", "border", false), [9., -9., -0.5, 0.5], [2., 3.]),
        // −2 is reflected at −1 to 0, the middle of the row.
        case("reflection", with("linear", "reflection", true), [-3., -1., -2., 1.], [2., 3.5]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflections_end_inside() {
        assert_eq!(reflected(-1.0, 0.0, 3.0), 1.0);
        assert_eq!(reflected(4.0, 0.0, 3.0), 2.0);
        assert_eq!(reflected(7.0, 0.0, 3.0), 1.0);
        assert_eq!(reflected(-4.0, 0.0, 3.0), 2.0);
        assert_eq!((reflected(5.0, 0.0, 0.0), reflected(f64::NAN, 0.0, 1.0)), (0.0, 0.0));
    }
}

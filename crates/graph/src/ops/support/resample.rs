//! Resampling along one axis: where an output value lies in the input, and which input values it is made of.

use crate::OpError;

/// How output positions map to input positions: `coordinate_transformation_mode` of ONNX.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Coordinates {
    /// Pixel centres map to pixel centres.
    HalfPixel,
    /// As [`HalfPixel`](Coordinates::HalfPixel), with the remainder of a fractional output size split evenly.
    HalfPixelSymmetric,
    /// As [`HalfPixel`](Coordinates::HalfPixel), but a single output value reads position 0.
    PytorchHalfPixel,
    /// First and last values map to each other.
    AlignCorners,
    /// `x / scale`.
    Asymmetric,
    /// `(x + ½) / scale`; ONNX 11 only.
    TfHalfPixelForNn,
    /// Within the part `start ..= end` of the input, as fractions of its extent.
    Crop {
        /// First position.
        start: f64,
        /// Last position.
        end: f64,
    },
}

/// One axis to be resampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    /// Size of the input.
    pub input: usize,
    /// Size of the output.
    pub output: usize,
    /// Output values per input value; `output` is this times `input`, rounded.
    pub scale: f64,
}

impl Axis {
    /// The position in the input of output value `x`; `None` outside a crop.
    pub fn position(&self, coordinates: Coordinates, x: usize) -> Option<f64> {
        let (x, n) = (x as f64, self.input as f64);
        let exact = self.scale * n;
        let centres = (x + 0.5) / self.scale - 0.5;
        Some(match coordinates {
            Coordinates::HalfPixel => centres,
            Coordinates::HalfPixelSymmetric => n / 2.0 * (1.0 - self.output as f64 / exact) + centres,
            Coordinates::PytorchHalfPixel if self.output <= 1 => 0.0,
            Coordinates::PytorchHalfPixel => centres,
            Coordinates::AlignCorners if self.output <= 1 => 0.0,
            Coordinates::AlignCorners => x * (n - 1.0) / (exact - 1.0),
            Coordinates::Asymmetric => x / self.scale,
            Coordinates::TfHalfPixelForNn => (x + 0.5) / self.scale,
            Coordinates::Crop { start, end } => {
                let within = if self.output <= 1 {
                    (end - start) * (n - 1.0) / 2.0
                } else {
                    x * (end - start) * (n - 1.0) / (exact - 1.0)
                };
                let at = within + start * (n - 1.0);
                return (0.0..=n - 1.0).contains(&at).then_some(at);
            }
        })
    }
}

/// How a position between two input values is rounded: `nearest_mode` of ONNX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearest {
    /// To the nearest, halves down.
    RoundPreferFloor,
    /// To the nearest, halves up.
    RoundPreferCeil,
    /// Down.
    Floor,
    /// Up.
    Ceil,
}

impl Nearest {
    /// The index of the value nearest to `position` among `0 .. size`.
    pub fn index(self, position: f64, size: usize) -> usize {
        let rounded = match self {
            Nearest::RoundPreferFloor => (position - 0.5).ceil(),
            Nearest::RoundPreferCeil => (position + 0.5).floor(),
            Nearest::Floor => position.floor(),
            Nearest::Ceil => position.ceil(),
        };
        // NaN, of absurd scales, becomes 0.
        (rounded.max(0.0) as usize).min(size.saturating_sub(1))
    }
}

/// The interpolating polynomial.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kernel {
    /// Two values, weighted by distance.
    Linear,
    /// Four values, by the cubic convolution of Keys (1981) with this coefficient.
    Cubic(f64),
}

impl Kernel {
    fn reach(self) -> f64 {
        match self {
            Kernel::Linear => 1.0,
            Kernel::Cubic(_) => 2.0,
        }
    }

    /// The weight of a value at this distance from the position.
    pub fn weight(self, distance: f64) -> f64 {
        let d = distance.abs();
        match self {
            Kernel::Linear => (1.0 - d).max(0.0),
            Kernel::Cubic(a) if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            Kernel::Cubic(a) if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            Kernel::Cubic(_) => 0.0,
        }
    }

    /// Indices and weights of the input values that make up the value at `position` among `0 .. size`. Positions beyond the
    /// ends repeat the edge, or do not count if `exclude_outside`. `stretch` below 1 widens the kernel by as much, which
    /// removes aliases when downsampling.
    ///
    /// # Errors
    /// If the kernel would span too many values.
    pub fn weights(
        self,
        position: f64,
        size: usize,
        stretch: f64,
        exclude_outside: bool,
    ) -> Result<Vec<(usize, f64)>, OpError> {
        let stretch = stretch.min(1.0);
        let reach = self.reach() / stretch;
        if !(reach < 1e6 && position.abs() < 1e15) || size == 0 {
            return Err(OpError::unsupported(format!("resampling {size} values by {stretch} at {position}")));
        }
        let below = position.ceil() - 1.0;
        let first = (-reach).floor() as i64 + 1;
        let mut taps: Vec<(usize, f64)> = vec![];
        for i in first..2 - first {
            let at = below + i as f64;
            let outside = at < 0.0 || at >= size as f64;
            if outside && exclude_outside {
                continue;
            }
            let index = at.clamp(0.0, (size - 1) as f64) as usize;
            taps.push((index, self.weight((at - position) * stretch)));
        }
        if exclude_outside || stretch < 1.0 {
            let sum: f64 = taps.iter().map(|t| t.1).sum();
            taps.iter_mut().for_each(|t| t.1 /= sum);
        }
        Ok(taps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_as_named() {
        for (mode, expected) in
            [(Nearest::RoundPreferFloor, 1), (Nearest::RoundPreferCeil, 2), (Nearest::Floor, 1), (Nearest::Ceil, 2)]
        {
            assert_eq!(mode.index(1.5, 4), expected, "{mode:?}");
            assert_eq!((mode.index(2.0, 4), mode.index(-3.0, 4), mode.index(9.0, 4)), (2, 0, 3), "{mode:?}");
        }
    }

    #[test]
    fn weights_sum_to_one() {
        for kernel in [Kernel::Linear, Kernel::Cubic(-0.75)] {
            for stretch in [1.0, 0.4] {
                for position in [-0.5, 0.0, 0.3, 2.0, 3.9] {
                    let taps = kernel.weights(position, 4, stretch, false).unwrap();
                    assert!((taps.iter().map(|t| t.1).sum::<f64>() - 1.0).abs() < 1e-12, "{kernel:?} {position}");
                    assert!(taps.iter().all(|t| t.0 < 4));
                }
            }
        }
        assert!(Kernel::Linear.weights(0.0, 4, 0.0, false).is_err());
    }
}

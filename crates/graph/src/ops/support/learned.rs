//! Learned quantization: what it computes, and the estimates that stand for its gradient.

use crate::{Dim, OpError};

/// How the gradient of a rounding is estimated. `u` is `x / scale`, `q` what it becomes, `g` the gradient of `q`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimator {
    /// As if it were not there within the range (straight through), with the gradient of the scale by Esser et al.,
    /// “Learned Step Size Quantization”, arXiv:1902.08153.
    Lsq,
    /// Straight through; the scale learns from what is clipped alone: Choi et al., “PACT”, arXiv:1805.06085.
    Pact,
    /// `1 + delta·sign(g)·(u − q)`: Lee et al., “Network Quantization with Element-wise Gradient Scaling”,
    /// arXiv:2104.00903.
    Ewgs,
    /// `2 − 2·|u|` for signs; for two levels of a range `(1 − |t|) / width`, with `t` the distance to the threshold in widths: Liu
    /// et al., “Bi-Real Net”, arXiv:1808.00278.
    Polynomial,
}

/// A quantizer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    /// Least and largest integer.
    pub range: (f32, f32),
    /// Whether the integers are −1 and +1, the signs of `x`, instead.
    pub bipolar: bool,
    /// Whether the result is `scale · q` rather than `q`.
    pub real: bool,
    /// The gradient.
    pub estimator: Estimator,
    /// The strength of [`Estimator::Ewgs`].
    pub delta: f32,
    /// How far from the threshold, in scales, the slope of [`Estimator::Polynomial`] comes to zero for two levels of a range.
    pub width: f32,
    /// What the gradient of the scale is multiplied by.
    pub factor: f32,
}

/// Integers beyond this have no neighbours at a distance of one half in f32.
const LARGEST: i64 = 1 << 22;

impl Learned {
    /// Reads the attributes.
    ///
    /// # Errors
    /// If they contradict each other.
    pub fn new(
        (lo, hi): (i64, i64),
        bipolar: bool,
        real: bool,
        (estimator, delta, width): (&str, f32, f32),
        factor: f32,
    ) -> Result<Learned, OpError> {
        let estimator = match estimator {
            "lsq" => Estimator::Lsq,
            "pact" => Estimator::Pact,
            "ewgs" => Estimator::Ewgs,
            "polynomial" => Estimator::Polynomial,
            other => {
                return Err(OpError::unsupported(format!(
                    "estimator `{other}`; there are lsq, pact, ewgs and polynomial"
                )));
            }
        };
        let legal = -LARGEST <= lo && lo < hi && hi <= LARGEST;
        if !bipolar && !legal {
            return Err(OpError::invalid(format!("a range of {lo} to {hi}; it must grow and stay within ±2^22")));
        }
        if estimator == Estimator::Polynomial && !bipolar && hi - lo != 1 {
            return Err(OpError::invalid(format!("the polynomial estimator is for two levels, not {lo} to {hi}")));
        }
        if !(width > 0.0 && width.is_finite()) {
            return Err(OpError::invalid(format!("a width of {width}; it must be a number above zero")));
        }
        let range = if bipolar { (-1.0, 1.0) } else { (lo as f32, hi as f32) };
        Ok(Learned { range, bipolar, real, estimator, delta, width, factor })
    }

    /// `q` for `u`; what is no number stays so, that a training which diverged shows.
    pub fn round(&self, u: f32) -> f32 {
        if self.bipolar {
            return if u < 0.0 { -1.0 } else { 1.0 };
        }
        let (lo, hi) = self.range;
        let clamped = if u < lo {
            lo
        } else if u > hi {
            hi
        } else {
            u
        };
        clamped.round_ties_even()
    }

    /// The result for `x`.
    pub fn apply(&self, x: f32, scale: f32) -> f32 {
        let q = self.round(x / scale);
        if self.real { q * scale } else { q }
    }

    /// Between which `u` there is a gradient.
    fn reach(&self) -> (f32, f32) {
        let (lo, hi) = self.range;
        match self.estimator {
            Estimator::Polynomial if !self.bipolar => (lo + 0.5 - self.width, lo + 0.5 + self.width),
            _ => (lo, hi),
        }
    }

    /// The gradients of `x` and of the scale where that of the result is `g`.
    pub fn gradient(&self, x: f32, scale: f32, g: f32) -> (f64, f64) {
        let u = x / scale;
        let q = self.round(u);
        let lo = self.range.0;
        let (from, to) = self.reach();
        let inside = from < u && u < to;
        let (u, q, g, scale) = (f64::from(u), f64::from(q), f64::from(g), f64::from(scale));
        // Of q by u, as x sees it and as the scale sees it.
        let slope = match self.estimator {
            Estimator::Lsq | Estimator::Pact => 1.0,
            Estimator::Ewgs => 1.0 + f64::from(self.delta) * sign(g) * (u - q),
            Estimator::Polynomial if self.bipolar => 2.0 - 2.0 * u.abs(),
            Estimator::Polynomial => {
                let width = f64::from(self.width);
                (1.0 - ((u - f64::from(lo) - 0.5) / width).abs()) / width
            }
        };
        let seen = match self.estimator {
            Estimator::Lsq | Estimator::Ewgs => u,
            Estimator::Pact => q,
            Estimator::Polynomial => slope * u,
        };
        let (slope, seen) = if inside { (slope, seen) } else { (0.0, 0.0) };
        // Signs do not depend on the scale, which is the width of their estimate alone.
        let seen = if self.bipolar { 0.0 } else { seen };
        let (dx, ds) = if self.real { (g * slope, g * (q - seen)) } else { (g * slope / scale, -g * seen / scale) };
        (dx, ds * f64::from(self.factor))
    }
}

fn sign(g: f64) -> f64 {
    if g > 0.0 {
        1.0
    } else if g < 0.0 {
        -1.0
    } else {
        0.0
    }
}

/// Checks that a scale of shape `scale` is one value or one for each slice of `axis` of `x`, as far as both are known.
///
/// # Errors
/// If it is neither.
pub fn check_scale(x: Option<&[Dim]>, scale: Option<&[Dim]>, axis: i64) -> Result<(), OpError> {
    let Some(scale) = scale else { return Ok(()) };
    let count = scale.iter().map(Dim::known).try_fold(1usize, |n, d| n.checked_mul(d?));
    let Some(count) = count else { return Ok(()) };
    if count == 1 {
        return Ok(());
    }
    let Some(x) = x else { return Ok(()) };
    let slices = usize::try_from(axis).ok().and_then(|axis| x.get(axis));
    match slices {
        Some(slices) if scale.len() == 1 && slices.known().is_none_or(|n| n == count) => Ok(()),
        Some(slices) => Err(OpError::invalid(format!("{count} scales for {slices} slices of axis {axis}"))),
        None => Err(OpError::invalid(format!("axis {axis} of a tensor of rank {}", x.len()))),
    }
}

/// For every element of a tensor of `shape` the index of its scale.
///
/// # Errors
/// If the scales do not fit.
pub fn scale_index(shape: &[usize], scales: usize, axis: i64) -> Result<impl Fn(usize) -> usize + use<>, OpError> {
    let dims: Vec<Dim> = shape.iter().map(|d| Dim::Known(*d)).collect();
    check_scale(Some(&dims), Some(&[Dim::Known(scales)]), axis)?;
    let inner: usize = usize::try_from(axis).ok().and_then(|a| shape.get(a + 1..)).map_or(1, |s| s.iter().product());
    Ok(move |i: usize| if scales <= 1 { 0 } else { i / inner.max(1) % scales })
}

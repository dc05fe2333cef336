//! Ranges of activations, and the scale and zero point that follow.

use qing_graph::{Element, OpError, Quant};

use super::options::RangeMethod;
use crate::calibrate::Histogram;

/// Quantization of an activation: unsigned integers whose zero point is exact, so that padding and ReLU are.
///
/// # Errors
/// If the width is not one of 1–8 bits.
pub(super) fn activation(histogram: &Histogram, bits: u8, method: RangeMethod) -> Result<(Element, Quant), OpError> {
    let element =
        Element::integer(bits, false).ok_or_else(|| OpError::invalid(format!("{bits} bits; widths go from 1 to 8")))?;
    let (lo, hi) = choose(histogram, bits, method);
    let (scale, zero) = affine(lo, hi, bits);
    Ok((element, Quant::per_tensor(scale, zero)?))
}

/// Scale and zero point for the reals `[lo, hi]`, which hold zero.
fn affine(lo: f64, hi: f64, bits: u8) -> (f32, i32) {
    let levels = f64::from((1u32 << bits) - 1);
    let scale = ((hi - lo) / levels) as f32;
    if !(scale.is_finite() && scale > f32::MIN_POSITIVE) {
        // Nothing but zero was seen: any scale will do.
        return (1.0, 0);
    }
    let zero = (-lo / f64::from(scale)).round_ties_even().clamp(0.0, levels);
    (scale, zero as i32)
}

fn choose(histogram: &Histogram, bits: u8, method: RangeMethod) -> (f64, f64) {
    let Some((min, max)) = histogram.range() else { return (0.0, 0.0) };
    let (min, max) = (f64::from(min), f64::from(max));
    match method {
        RangeMethod::MinMax => (min, max),
        RangeMethod::Percentile(p) => percentile(histogram, p, min, max),
        RangeMethod::LeastSquares => least_squares(histogram, bits, min, max),
    }
}

/// Cuts the tails so that `percent` of the values are inside, the same number from each tail that exists.
fn percentile(histogram: &Histogram, percent: f64, min: f64, max: f64) -> (f64, f64) {
    let bins: Vec<(f64, u64)> = histogram.bins().collect();
    let sides = if min < 0.0 && max > 0.0 { 2.0 } else { 1.0 };
    let outside = histogram.total() as f64 * (1.0 - percent / 100.0) / sides;
    let cut = |bins: &mut dyn Iterator<Item = &(f64, u64)>| {
        let mut seen = 0.0;
        for (x, count) in bins {
            seen += *count as f64;
            if seen > outside {
                return *x;
            }
        }
        0.0
    };
    let lo = if min < 0.0 { cut(&mut bins.iter()) } else { 0.0 };
    let hi = if max > 0.0 { cut(&mut bins.iter().rev()) } else { 0.0 };
    (lo.min(0.0), hi.max(0.0))
}

/// Searches both ends, one after the other, for the least squared error.
fn least_squares(histogram: &Histogram, bits: u8, min: f64, max: f64) -> (f64, f64) {
    const STEPS: usize = 60;
    let bins: Vec<(f64, f64)> = histogram.bins().map(|(x, c)| (x, c as f64)).collect();
    let error = |lo: f64, hi: f64| {
        let (scale, zero) = affine(lo, hi, bits);
        let (scale, zero) = (f64::from(scale), f64::from(zero));
        let top = f64::from((1u32 << bits) - 1);
        bins.iter()
            .map(|(x, count)| {
                let q = ((x / scale).round_ties_even() + zero).clamp(0.0, top);
                let e = (q - zero) * scale - x;
                count * e * e
            })
            .sum::<f64>()
    };
    // Candidates shrink geometrically: low widths want much narrower ranges than the extremes.
    let candidates = |end: f64| (0..STEPS).map(move |i| end * 0.96f64.powi(i as i32));
    let (mut lo, mut hi) = (min, max);
    for _ in 0..3 {
        let before = (lo, hi);
        if max > 0.0 {
            hi = best(candidates(max), |hi| error(lo, hi));
        }
        if min < 0.0 {
            lo = best(candidates(min), |lo| error(lo, hi));
        }
        if before == (lo, hi) {
            break;
        }
    }
    (lo, hi)
}

/// The candidate with the least error; the first of equals.
fn best(candidates: impl Iterator<Item = f64>, error: impl Fn(f64) -> f64) -> f64 {
    let mut found = (f64::INFINITY, 0.0);
    for c in candidates {
        let e = error(c);
        if e < found.0 {
            found = (e, c);
        }
    }
    found.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f32]) -> Histogram {
        let mut h = Histogram::default();
        h.add(values);
        h
    }

    #[test]
    fn relu_outputs_start_at_zero() {
        let h = histogram(&[0.0, 0.0, 1.0, 2.55]);
        let (element, quant) = activation(&h, 8, RangeMethod::MinMax).unwrap();
        assert_eq!((element, quant.as_per_tensor()), (Element::U8, Some((0.01, 0))));
    }

    #[test]
    fn zero_is_exact_in_every_range() {
        let values: Vec<f32> = (0..999).map(|i| (i as f32 / 999.0).powi(3) * 7.0 - 1.3).collect();
        for method in [RangeMethod::MinMax, RangeMethod::Percentile(99.0), RangeMethod::LeastSquares] {
            for bits in 1..=8 {
                let (element, quant) = activation(&histogram(&values), bits, method).unwrap();
                let (lo, hi) = element.range().unwrap();
                assert!((lo..=hi).contains(&i64::from(quant.zero(0))), "{method:?} {bits}");
            }
        }
    }

    #[test]
    fn an_outlier_does_not_spoil_few_bits() {
        let mut values: Vec<f32> = (0..10_000).map(|i| i as f32 / 10_000.0).collect();
        values.push(20.0);
        let scale = |m| activation(&histogram(&values), 2, m).unwrap().1.scale(0);
        assert!(scale(RangeMethod::LeastSquares) < 0.1 * scale(RangeMethod::MinMax));
        assert!(scale(RangeMethod::Percentile(99.9)) < 0.1 * scale(RangeMethod::MinMax));
    }

    #[test]
    fn silence_has_a_legal_scale() {
        assert!(activation(&Histogram::default(), 8, RangeMethod::LeastSquares).is_ok());
        assert!(activation(&histogram(&[0.0; 5]), 4, RangeMethod::LeastSquares).is_ok());
    }
}

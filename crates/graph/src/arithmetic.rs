//! The integer arithmetic of qing, to the bit: the one place that says what a quantized op computes.
//!
//! Training, CPU kernels, simulator and silicon are held to these functions by equality. They are what the integer
//! operators of ONNX compute in ONNX Runtime.

use crate::{Element, OpError, Quant, Type};

/// Fraction bits of the multipliers of a quantized addition.
pub const ADD_BITS: u32 = 14;

/// Scale of the requantization after a dot: `(x_scale ⊗ w_scale) ⊘ y_scale`, in f32 and in this order.
pub fn dot_scale(x_scale: f32, w_scale: f32, y_scale: f32) -> f32 {
    (x_scale * w_scale) / y_scale
}

/// `clamp(rint(f32(acc) ⊗ scale) + zero, lo, hi)`: one rounding of the accumulator, one product, round half to even.
pub fn requantize(acc: i32, scale: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    round_to_range(acc as f32 * scale, zero, lo, hi)
}

/// A real number to an integer: `clamp(rint(x ⊘ scale) + zero, lo, hi)`; NaN becomes the zero point.
pub fn quantize(x: f32, scale: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    round_to_range(x / scale, zero, lo, hi)
}

/// `scale ⊗ (q − zero)`.
pub fn dequantize(q: i32, scale: f32, zero: i32) -> f32 {
    (q - zero) as f32 * scale
}

fn round_to_range(v: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    if v.is_nan() {
        return zero.clamp(lo, hi);
    }
    (v.round_ties_even() as i64).saturating_add(zero.into()).clamp(lo.into(), hi.into()) as i32
}

/// The integers a fused clip to the reals `[min, max]` narrows an output range to.
pub fn clip_range(min: f32, max: f32, scale: f32, zero: i32, lo: i32, hi: i32) -> (i32, i32) {
    let low = if min == f32::NEG_INFINITY { lo } else { quantize(min, scale, zero, lo, hi) };
    let high = if max == f32::INFINITY { hi } else { quantize(max, scale, zero, lo, hi) };
    (low, high.max(low))
}

/// The constants of a quantized addition: `acc = (a − a_zero)·a + (b − b_zero)·b`, then requantize with `scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AddScales {
    /// `rint(2^14 · a_scale / max)`.
    pub a: i32,
    /// `rint(2^14 · b_scale / max)`.
    pub b: i32,
    /// `(max ⊗ 2^−14) ⊘ y_scale`.
    pub scale: f32,
}

/// The constants for adding values of two scales.
pub fn add_scales(a_scale: f32, b_scale: f32, y_scale: f32) -> AddScales {
    let max = a_scale.max(b_scale);
    let one = (1u32 << ADD_BITS) as f32;
    let multiplier = |s: f32| (f64::from(one) * f64::from(s) / f64::from(max)).round_ties_even() as i32;
    AddScales { a: multiplier(a_scale), b: multiplier(b_scale), scale: (max * (1.0 / one)) / y_scale }
}

/// Scale of the requantization after summing `n` values: `x_scale ⊘ (n ⊗ y_scale)`.
pub fn mean_scale(x_scale: f32, n: usize, y_scale: f32) -> f32 {
    x_scale / (n as f32 * y_scale)
}

/// Scale of a change of quantization, a dot of one tap: `x_scale ⊘ y_scale`.
pub fn rescale_scale(x_scale: f32, y_scale: f32) -> f32 {
    x_scale / y_scale
}

/// Scale, zero point, and range of a type quantized per tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerTensor {
    /// Scale.
    pub scale: f32,
    /// Zero point.
    pub zero: i32,
    /// Smallest integer.
    pub lo: i32,
    /// Largest integer.
    pub hi: i32,
}

/// Reads a type that must be quantized per tensor.
///
/// # Errors
/// If it is not.
pub fn per_tensor(ty: &Type) -> Result<PerTensor, OpError> {
    let quant: Option<(f32, i32)> = ty.quant.as_deref().and_then(Quant::as_per_tensor);
    // Wider elements never hold quantized values, and a table over one would have no end.
    let range = ty.range().filter(|_| ty.element.bits() <= 16);
    let (Some((scale, zero)), Some((lo, hi))) = (quant, range) else {
        return Err(OpError::unsupported(format!("{ty} where a value quantized per tensor is needed")));
    };
    Ok(PerTensor { scale, zero, lo, hi })
}

/// The table of a unary function: `T[q] = clamp(rint(f(x_scale·(q − x_zero)) / y_scale) + y_zero)` in f64, for every `q`
/// from the lowest to the highest integer of `x`.
///
/// # Errors
/// If a type is not quantized per tensor.
pub fn table(x: &Type, y: &Type, f: impl Fn(f64) -> f64) -> Result<Vec<i32>, OpError> {
    let (x, y) = (per_tensor(x)?, per_tensor(y)?);
    Ok((x.lo..=x.hi)
        .map(|q| {
            let v = f(f64::from(x.scale) * f64::from(q - x.zero)) / f64::from(y.scale);
            if v.is_nan() {
                return y.zero.clamp(y.lo, y.hi);
            }
            (v.round_ties_even() as i64).saturating_add(y.zero.into()).clamp(y.lo.into(), y.hi.into()) as i32
        })
        .collect())
}

/// The table of a change of quantization with a clip to the reals `[min, max]` fused: one tap, requantized.
///
/// # Errors
/// If a type is not quantized per tensor.
pub fn rescale_table(x: &Type, y: &Type, min: f32, max: f32) -> Result<Vec<i32>, OpError> {
    let (x, y) = (per_tensor(x)?, per_tensor(y)?);
    let (lo, hi) = clip_range(min, max, y.scale, y.zero, y.lo, y.hi);
    let same = x.scale == y.scale && x.zero == y.zero;
    let scale = rescale_scale(x.scale, y.scale);
    Ok((x.lo..=x.hi)
        .map(|q| if same { q.clamp(lo, hi) } else { requantize(q - x.zero, scale, y.zero, lo, hi) })
        .collect())
}

/// The weights' integers are those of `element` without the most negative one, unless there is nothing else.
pub fn symmetric_range(element: Element) -> Option<(i32, i32)> {
    match element {
        Element::Bipolar => Some((-1, 1)),
        Element::Bits { width: 1, signed: true } => Some((-1, 0)),
        _ => element.range().map(|(lo, hi)| (if lo < 0 { -hi as i32 } else { lo as i32 }, hi as i32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requantize_rounds_half_to_even_and_saturates() {
        assert_eq!(requantize(5, 0.5, 0, -128, 127), 2);
        assert_eq!(requantize(7, 0.5, 0, -128, 127), 4);
        assert_eq!(requantize(-5, 0.5, 10, -128, 127), 8);
        assert_eq!(requantize(i32::MAX, 1e30, 3, 0, 255), 255);
        assert_eq!(requantize(i32::MIN, 1e30, 3, 0, 255), 0);
        // The accumulator is rounded to f32 first: 2^24 + 1 becomes 2^24.
        assert_eq!(requantize((1 << 24) + 1, 1.0, -(1 << 24), 0, 255), 0);
    }

    #[test]
    fn quantize_survives_what_is_not_a_number() {
        assert_eq!(quantize(f32::NAN, 1.0, 7, 0, 255), 7);
        assert_eq!(quantize(f32::INFINITY, 1.0, 7, 0, 255), 255);
        assert_eq!(quantize(f32::NEG_INFINITY, 1.0, 7, 0, 255), 0);
    }

    #[test]
    fn adding_equal_scales_is_exact() {
        let s = add_scales(0.5, 0.5, 0.5);
        assert_eq!((s.a, s.b, s.scale), (1 << 14, 1 << 14, 1.0 / 16384.0));
        for (a, b) in [(3, 4), (-100, 27), (127, 127)] {
            assert_eq!(requantize(a * s.a + b * s.b, s.scale, 0, -1000, 1000), a + b);
        }
    }

    #[test]
    fn a_rescale_to_itself_changes_nothing_but_the_range() {
        let t = Type::new(Element::F32, [1usize]).quantized(Element::U8, Quant::per_tensor(0.1, 128).unwrap());
        let table = rescale_table(&t, &t, 0.0, f32::INFINITY).unwrap();
        assert_eq!((table[0], table[127], table[128], table[255]), (128, 128, 128, 255));
    }
}

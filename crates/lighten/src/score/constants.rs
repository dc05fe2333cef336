//! Bits in which constants are stored.

use qing_graph::{Quant, Tensor, Type};

use super::Cost;

/// A format for reals below f32: significand bits with the hidden one, smallest and largest exponent of normal numbers,
/// largest value.
struct Format {
    bits: u8,
    precision: i32,
    smallest: i32,
    largest: f64,
}

/// From narrow to wide. E5M2 and E4M3 as in the OCP 8-bit floating point specification; f16; bf16.
const FORMATS: [Format; 4] = [
    Format { bits: 8, precision: 3, smallest: -14, largest: 57344.0 },
    Format { bits: 8, precision: 4, smallest: -6, largest: 448.0 },
    Format { bits: 16, precision: 11, smallest: -14, largest: 65504.0 },
    Format { bits: 16, precision: 8, smallest: -126, largest: f64::MAX },
];

impl Format {
    fn holds(&self, v: f64) -> bool {
        if v == 0.0 {
            return true;
        }
        if !v.is_finite() || v.abs() > self.largest {
            return false;
        }
        // A multiple of the last place: that of its own exponent, or of the smallest for subnormal numbers.
        let exponent = v.abs().log2().floor() as i32;
        let unit = f64::from(exponent.max(self.smallest) - self.precision + 1).exp2();
        (v / unit).fract() == 0.0
    }
}

/// Integers as a tensor stores them.
pub(super) struct Stored {
    /// Values that are not zero.
    pub nonzero: u64,
    /// Bits of each value that is stored.
    pub bits: u8,
    /// True if only values that are not zero are, with a mask.
    pub sparse: bool,
    /// Values in all.
    pub len: u64,
}

impl Stored {
    /// As weights.
    pub(super) fn cost(&self) -> Cost {
        let (values, masks) = match self.sparse {
            true => (self.nonzero, self.len),
            false => (self.len, 0),
        };
        Cost { values: values as f64 * f64::from(self.bits), masks: masks as f64, ..Cost::default() }
    }
}

/// Bits of the narrowest format that holds all values exactly.
pub(super) fn real_bits(values: &[f64]) -> u8 {
    if let Some(bits) = integer_bits(values) {
        return bits;
    }
    let power = |v: &f64| *v > 0.0 && is_power_of_two(*v);
    if values.iter().all(power) {
        return 8;
    }
    FORMATS.iter().find(|f| values.iter().all(|v| f.holds(*v))).map_or(32, |f| f.bits)
}

/// True for …, ½, 1, 2, 4, … and their negatives.
pub(super) fn is_power_of_two(v: f64) -> bool {
    v.is_finite() && v != 0.0 && v.abs().log2().fract() == 0.0
}

/// Bits of the narrowest integers that hold all values; `None` if one is no integer of up to 16 bits.
pub(super) fn integer_bits(values: &[f64]) -> Option<u8> {
    let (lo, hi) = range(values)?;
    let fits = |b: &i32| {
        let span = f64::from(*b).exp2();
        if lo < 0.0 { lo >= -span / 2.0 && hi < span / 2.0 } else { hi < span }
    };
    (1..=16).find(fits).map(|b| b as u8)
}

/// Smallest and largest value if all are integers.
fn range(values: &[f64]) -> Option<(f64, f64)> {
    values.iter().try_fold((0.0f64, 0.0f64), |(lo, hi), v| (v.fract() == 0.0).then(|| (lo.min(*v), hi.max(*v))))
}

/// The values of a constant: integers without their zero point where they are quantized, in row-major order.
pub(super) fn values(tensor: &Tensor, ty: &Type) -> Vec<f64> {
    match ty.quant.as_deref() {
        Some(quant) if quant.zeros() != [0] => {
            let zero = |i: usize| f64::from(quant.zero(zero_index(quant, tensor, i)));
            tensor.to_f64s().into_iter().enumerate().map(|(i, q)| q - zero(i)).collect()
        }
        _ => tensor.to_f64s(),
    }
}

fn zero_index(quant: &Quant, tensor: &Tensor, i: usize) -> usize {
    if quant.zeros().len() == 1 { 0 } else { quant.slice_of(tensor.shape(), i) }
}

/// How weights are stored: dense or sparse, whichever is shorter; `always_sparse` takes the mask as soon as there is a zero.
pub(super) fn stored(values: &[f64], always_sparse: bool) -> Stored {
    let len = values.len() as u64;
    let kept: Vec<f64> = values.iter().copied().filter(|v| *v != 0.0).collect();
    let nonzero = kept.len() as u64;
    let dense = real_bits(values);
    // Without zero, positive integers move down by one.
    let moved: Vec<f64> = kept.iter().map(|v| if *v > 0.0 { v - 1.0 } else { *v }).collect();
    let sparse = match integer_bits(&moved) {
        Some(bits) if moved.iter().any(|v| *v < 0.0) => bits,
        Some(bits) => bits.min(real_bits(&kept)),
        None => real_bits(&kept),
    };
    let shorter = nonzero * u64::from(sparse) + len < len * u64::from(dense);
    match nonzero < len && (shorter || always_sparse) {
        true => Stored { nonzero, bits: sparse, sparse: true, len },
        false => Stored { nonzero, bits: dense, sparse: false, len },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reals_take_the_narrowest_format() {
        let cases: [(&[f64], u8); 11] = [
            (&[0.0, 1.0], 1),
            (&[-1.0, 1.0], 2),
            (&[-8.0, 7.0], 4),
            (&[-8.0, 8.0], 5),
            (&[-29.0, 31.0], 6),
            (&[0.25, 2.0_f64.powi(-90)], 8),
            (&[1.25, -0.4375], 8),
            (&[1.125, 0.001953125], 8),
            (&[1.125, 1000.5], 16),
            (&[0.1f32.into()], 32),
            (&[1.0, 2.0_f64.powi(40) * 1.5], 16),
        ];
        for (values, bits) in cases {
            assert_eq!(real_bits(values), bits, "{values:?}");
        }
    }

    #[test]
    fn sparse_where_that_is_shorter() {
        // Eight codes without zero fit into three bits: 2 · 3 + 8 bits instead of 8 · 4.
        let s = stored(&[0.0, 4.0, 0.0, 0.0, -4.0, 0.0, 0.0, 0.0], false);
        assert_eq!((s.nonzero, s.bits, s.sparse, s.len), (2, 3, true, 8));
        assert_eq!(s.cost().storage(), 14.0);
        // Signs alone.
        let s = stored(&[1.0, -1.0, 0.0, 1.0], false);
        assert_eq!((s.bits, s.sparse), (1, true));
        // A mask does not pay for one zero.
        let s = stored(&[1.0, -1.0, 0.0, 3.0], false);
        assert_eq!((s.bits, s.sparse), (3, false));
        assert!(stored(&[1.0, -1.0, 0.0, 3.0], true).sparse);
    }
}

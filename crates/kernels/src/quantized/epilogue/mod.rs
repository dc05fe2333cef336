//! From 32-bit sums back to what the next layer reads.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) mod wasm;

use super::elementwise::QAdd;
use crate::error::{KernelError, expect_len};

/// Where a dot writes: bytes after [`Epilogue::Requantize`], real numbers after [`Epilogue::Dequantize`].
#[derive(Debug)]
pub enum Output<'a> {
    /// Quantized values as stored bytes.
    U8(&'a mut [u8]),
    /// Real numbers.
    F32(&'a mut [f32]),
}

impl Output<'_> {
    /// How many values there is room for.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Output::U8(values) => values.len(),
            Output::F32(values) => values.len(),
        }
    }

    /// Whether there is room for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `y = clamp(rint(f32(acc) ⊗ scale[c]) + zero, lo, hi)`, then `table[y]` where there is a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Requantize {
    /// One factor per output channel, `(x_scale ⊗ w_scale[c]) ⊘ y_scale`.
    pub scale: Vec<f32>,
    /// Zero point of the output, as stored.
    pub zero: u8,
    /// Smallest stored value, after a fused ReLU or clip.
    pub lo: u8,
    /// Largest stored value.
    pub hi: u8,
    /// A unary function applied to the stored value at no extra pass over memory.
    pub table: Option<Box<[u8; 256]>>,
}

/// Quantized values added to a layer's results before they are stored: `y = add(result, value)`.
#[derive(Debug, Clone, Copy)]
pub struct Residual<'a> {
    /// One value for every output.
    pub values: &'a [u8],
    /// How: operand `a` is the layer's result as it would be stored without the addition, `b` the value.
    pub add: &'a QAdd,
}

/// What becomes of a 32-bit sum.
#[derive(Debug, Clone, PartialEq)]
pub enum Epilogue {
    /// Back to bytes.
    Requantize(Requantize),
    /// To real numbers: `f32(acc) ⊗ scale[c]`.
    Dequantize {
        /// One factor per output channel, `x_scale ⊗ w_scale[c]`.
        scale: Vec<f32>,
    },
}

impl Epilogue {
    /// The factor of every output channel.
    #[must_use]
    pub fn scale(&self) -> &[f32] {
        match self {
            Epilogue::Requantize(to) => &to.scale,
            Epilogue::Dequantize { scale } => scale,
        }
    }

    /// [`Requantize::saturates`]; no for real results.
    pub(crate) fn saturates(&self) -> bool {
        matches!(self, Epilogue::Requantize(to) if to.saturates())
    }

    /// Checks one finite factor per channel and an ordered clamp.
    pub(crate) fn check(&self, channels: usize) -> Result<(), KernelError> {
        expect_len("requantization scale", self.scale().len(), channels)?;
        if let Some(channel) = self.scale().iter().position(|s| !s.is_finite()) {
            return Err(KernelError::Unsupported(format!(
                "requantization scale of channel {channel} is {}",
                self.scale()[channel]
            )));
        }
        match self {
            Epilogue::Requantize(to) if to.lo > to.hi => {
                Err(KernelError::Unsupported(format!("output clamp is empty: {} to {}", to.lo, to.hi)))
            }
            _ => Ok(()),
        }
    }

    /// Checks that `y` is of the kind this epilogue writes and holds `len` values.
    pub(crate) fn check_output(&self, y: &Output<'_>, len: usize) -> Result<(), KernelError> {
        match (self, y) {
            (Epilogue::Requantize(_), Output::F32(_)) => {
                Err(KernelError::Unsupported("a requantizing kernel writes bytes, the output holds floats".into()))
            }
            (Epilogue::Dequantize { .. }, Output::U8(_)) => {
                Err(KernelError::Unsupported("a dequantizing kernel writes floats, the output holds bytes".into()))
            }
            _ => expect_len("output", y.len(), len),
        }
    }
}

/// Zero point and range of quantized values, as stored, for kernels with one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clip {
    /// Stored value that means zero.
    pub zero: u8,
    /// Smallest stored value.
    pub lo: u8,
    /// Largest stored value.
    pub hi: u8,
}

impl Clip {
    /// Checks that the range is not empty.
    pub(crate) fn check(self) -> Result<(), KernelError> {
        if self.lo > self.hi {
            return Err(KernelError::Unsupported(format!("output clamp is empty: {} to {}", self.lo, self.hi)));
        }
        Ok(())
    }

    /// The constants of [`Limits::close`].
    #[inline(always)]
    pub(crate) fn limits(self) -> Limits {
        let zero = f32::from(self.zero);
        Limits { zero, lo: f32::from(self.lo) - zero, hi: f32::from(self.hi) - zero }
    }
}

/// A [`Clip`] as floats around the zero point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    zero: f32,
    lo: f32,
    hi: f32,
}

impl Limits {
    /// `clamp(rint(real) + zero, lo, hi)` for a number that is not NaN. Clamping before the zero is added gives the
    /// same value and keeps everything an exact small float.
    #[inline(always)]
    pub(crate) fn close(self, real: f32) -> u8 {
        let whole = real.round_ties_even();
        let whole = if whole > self.lo { whole } else { self.lo };
        let whole = if whole < self.hi { whole } else { self.hi };
        // SAFETY: between 0 and 255 after the clamp (a NaN compares false and becomes `lo`).
        let value: i32 = unsafe { (whole + self.zero).to_int_unchecked() };
        value as u8
    }
}

/// Brings one sum back to a stored byte; the definition the vector kernels are held to.
#[must_use]
pub fn requantize(acc: i32, scale: f32, zero: u8, lo: u8, hi: u8) -> u8 {
    let rounded = (acc as f32 * scale).round_ties_even() as i64;
    rounded.saturating_add(i64::from(zero)).clamp(i64::from(lo), i64::from(hi)) as u8
}

impl Requantize {
    /// Whether narrowing with saturation does all the clamping there is to do: the range is that of a byte around zero, and
    /// no product of a sum and a scale leaves the range of `i32`.
    pub(crate) fn saturates(&self) -> bool {
        self.zero == 0 && self.lo == 0 && self.hi == 255 && self.scale.iter().all(|s| s.abs() < 1.0)
    }

    /// [`requantize`] with the factor of `channel`, then the table.
    #[must_use]
    pub fn apply(&self, acc: i32, channel: usize) -> u8 {
        let y = requantize(acc, self.scale[channel], self.zero, self.lo, self.hi);
        match &self.table {
            Some(table) => table[y as usize],
            None => y,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requantize_rounds_to_even_and_clamps() {
        let cases = [
            (5, 0.5, 0, 0, 255, 2),
            (7, 0.5, 0, 0, 255, 4),
            (-5, 0.5, 10, 0, 255, 8),
            (i32::MAX, 1e30, 0, 0, 255, 255),
            (i32::MIN, 1e30, 200, 3, 255, 3),
            (100, 1.0, 128, 128, 134, 134),
            (-100, 1.0, 128, 128, 134, 128),
        ];
        for (acc, scale, zero, lo, hi, want) in cases {
            assert_eq!(requantize(acc, scale, zero, lo, hi), want, "{acc} × {scale}");
        }
    }
}

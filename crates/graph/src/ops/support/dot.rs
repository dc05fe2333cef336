//! Dots and what follows them: requantize, or a real number.

use qing_tensor::Tensor;

use crate::{OpError, Quant, Type, arithmetic};

/// Output of a dot: what becomes of the accumulator of a channel.
#[derive(Debug)]
pub enum Output {
    /// `clamp(rint(f32(acc) ⊗ s[c]) + zero, lo, hi)`.
    Integer {
        /// One scale, or one per channel.
        scale: Vec<f32>,
        /// The output's type, for its zero point and range.
        to: arithmetic::PerTensor,
    },
    /// `f32(acc) ⊗ s[c]`.
    Real {
        /// One scale, or one per channel.
        scale: Vec<f32>,
    },
}

impl Output {
    /// The output of a dot between `x` (per tensor) and `w` (per tensor or per output channel) of type `y`.
    ///
    /// # Errors
    /// If the types are not quantized so.
    pub fn of_dot(x: &Type, w: &Type, y: &Type) -> Result<Output, OpError> {
        let xs = arithmetic::per_tensor(x)?.scale;
        let quant = w.quant.as_deref().filter(|_| w.element.bits() <= 16);
        let w: &Quant = quant.ok_or_else(|| OpError::unsupported(format!("weights of type {w}")))?;
        if y.quant.is_none() {
            return Ok(Output::Real { scale: w.scales().iter().map(|ws| xs * ws).collect() });
        }
        let to = arithmetic::per_tensor(y)?;
        let scale = w.scales().iter().map(|ws| arithmetic::dot_scale(xs, *ws, to.scale)).collect();
        Ok(Output::Integer { scale, to })
    }

    /// The tensor of `shape` from accumulators; `channel` gives the channel of each.
    ///
    /// # Errors
    /// If the values do not fill the shape.
    pub fn finish(
        &self,
        y: &Type,
        shape: &[usize],
        acc: &[i64],
        channel: impl Fn(usize) -> usize,
    ) -> Result<Tensor, OpError> {
        let at = |scale: &[f32], i: usize| if scale.len() == 1 { scale[0] } else { scale[channel(i)] };
        let narrow = |v: i64| {
            i32::try_from(v).map_err(|_| OpError::unsupported("a dot whose accumulator overflows 32 bits".to_string()))
        };
        match self {
            Output::Real { scale } => {
                let values = acc
                    .iter()
                    .enumerate()
                    .map(|(i, a)| Ok(narrow(*a)? as f32 * at(scale, i)))
                    .collect::<Result<Vec<f32>, OpError>>()?;
                Ok(Tensor::new(shape, values)?)
            }
            Output::Integer { scale, to } => {
                let values = acc
                    .iter()
                    .enumerate()
                    .map(|(i, a)| Ok(arithmetic::requantize(narrow(*a)?, at(scale, i), to.zero, to.lo, to.hi)))
                    .collect::<Result<Vec<i32>, OpError>>()?;
                Ok(Tensor::from_ints(y.element, shape, &values)?)
            }
        }
    }
}

/// Integers minus their zero points.
pub fn centered(tensor: &Tensor, quant: &Quant) -> Vec<i64> {
    let values = tensor.to_ints();
    let zeros = quant.zeros();
    if let [zero] = zeros {
        return values.into_iter().map(|v| i64::from(v - zero)).collect();
    }
    let shape = tensor.shape();
    values.into_iter().enumerate().map(|(i, v)| i64::from(v - quant.zero(quant.slice_of(shape, i)))).collect()
}

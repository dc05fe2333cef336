//! Means over sets of values: average pooling.

use qing_tensor::Tensor;

use super::dot::centered;
use crate::{Element, Eval, Infer, OpError, arithmetic};

/// Element of a mean of input 0: its own, or a real number of quantized values.
///
/// # Errors
/// If the input is absent.
pub fn infer_element(cx: &Infer<'_>) -> Result<Element, OpError> {
    let x = cx.ty(0)?;
    Ok(if x.quant.is_some() { Element::F32 } else { x.element })
}

/// For each window the mean of input 0 over its linear indices, divided by its count: f64 on floats; on quantized values
/// the exact sum of `x − zero`, requantized with `x_scale ⊘ (n ⊗ y_scale)`. A window of no taps gives 0.
///
/// # Errors
/// If the input is neither, or a sum leaves 32 bits.
pub fn means<W>(cx: &Eval<'_>, shape: &[usize], windows: impl Iterator<Item = (W, usize)>) -> Result<Tensor, OpError>
where
    W: Iterator<Item = usize>,
{
    let x = cx.input(0)?;
    if let Some(quant) = cx.quant(0) {
        let (from, values) = (arithmetic::per_tensor(cx.ty(0)?)?, centered(x, quant));
        let sums = windows.map(|(taps, n)| {
            let sum: i64 = taps.map(|i| values[i]).sum();
            let sum = i32::try_from(sum).map_err(|_| OpError::unsupported("a sum that overflows 32 bits"))?;
            Ok((sum, n.max(1)))
        });
        let y = cx.output(0);
        if y.quant.is_none() {
            let real = |(sum, n)| sum as f32 * arithmetic::mean_scale(from.scale, n, 1.0);
            return Ok(Tensor::new(shape, sums.map(|s| s.map(real)).collect::<Result<Vec<f32>, OpError>>()?)?);
        }
        let to = arithmetic::per_tensor(y)?;
        let integer = |(sum, n)| {
            let scale = arithmetic::mean_scale(from.scale, n, to.scale);
            arithmetic::requantize(sum, scale, to.zero, to.lo, to.hi)
        };
        let values = sums.map(|s| s.map(integer)).collect::<Result<Vec<i32>, OpError>>()?;
        return Ok(Tensor::from_ints(y.element, shape, &values)?);
    }
    if !x.element().is_float() {
        return Err(OpError::unsupported(format!("X of {}; expected floats or quantized values", x.element())));
    }
    let values = x.to_f64s();
    let means = windows.map(|(taps, n)| taps.map(|i| values[i]).sum::<f64>() / n.max(1) as f64).collect();
    Ok(Tensor::new::<f64>(shape, means)?.cast(x.element()))
}

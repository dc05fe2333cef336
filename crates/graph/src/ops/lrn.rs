use qing_tensor::Tensor;

use super::support::axes::Along;
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Local response normalization: `x / (bias + alpha / size · Σ x²)^beta`, the sum over `size` neighbouring channels.
    Lrn = "LRN" {
        /// Weight of the squares.
        alpha: f32 = 1e-4,
        /// Exponent of the divisor.
        beta: f32 = 0.75,
        /// Keeps the divisor from zero.
        bias: f32 = 1.0,
        /// Number of channels.
        size: i64 = 1,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Lrn {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let size = usize::try_from(self.size).ok().filter(|s| *s > 0);
        let size = size.ok_or_else(|| OpError::invalid(format!("size {}", self.size)))?;
        if x.rank() < 2 || !x.element().is_float() {
            return Err(OpError::invalid(format!("{}{:?}; expected floats with channels", x.element(), x.shape())));
        }
        let (before, after) = ((size - 1) / 2, size / 2);
        let (alpha, beta, bias) = (f64::from(self.alpha), f64::from(self.beta), f64::from(self.bias));
        let y = Along::new(x.shape(), 1).map_lines(&x.to_f64s(), |line, out| {
            for c in 0..line.len() {
                let window = &line[c.saturating_sub(before)..line.len().min(c.saturating_add(after + 1))];
                let square: f64 = window.iter().map(|v| v * v).sum();
                out[c] = line[c] / (bias + alpha / size as f64 * square).powf(beta);
            }
        });
        Ok(vec![Tensor::new(x.shape(), y)?.cast(x.element())])
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Windows of two: the channel and the next. Divisors 1 + (1 + 9), 1 + (9 + 4), 1 + 4.
        Case::new("two", Lrn { alpha: 2.0, beta: 1.0, bias: 1.0, size: 2 })
            .f32(&[1, 3, 1, 1], &[1., 3., 2.])
            .gives(&[1, 3, 1, 1], &[1. / 11., 3. / 14., 0.4]),
    ]
}

use qing_tensor::Tensor;

use super::support::axes::Along;
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

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

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| {
            let x = cx.input(0)?;
            let shape = cx.shape(x)?;
            let size = usize::try_from(self.size).unwrap_or(1);
            let (channels, before, after) = (shape[1], (size - 1) / 2, size / 2);
            // The sum over neighbours is a product with a band of ones.
            let near = |c: usize, k: usize| k + before >= c && k <= c + after;
            let band = (0..channels).flat_map(|c| (0..channels).map(move |k| f64::from(u8::from(near(c, k))))).collect();
            let band = cx.tensor(Tensor::new::<f64>(&[channels, channels], band)?.cast(cx.element(x)));
            let rows = cx.reshape(cx.square(x)?, &[shape[0], channels, shape[2..].iter().product()])?;
            let sums = cx.reshape(cx.matmul(band, rows)?, &shape)?;
            let divisor = cx.offset(cx.scale(sums, f64::from(self.alpha) / size as f64)?, self.bias.into())?;
            let factor = cx.emit(super::Pow {}, &[divisor, cx.scalar(x, -f64::from(self.beta))])?;
            Ok(vec![Some(cx.mul(x, factor)?)])
        })
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

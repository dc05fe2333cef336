use qing_tensor::Tensor;

use super::support::normalization::{by_channel, channel_vectors, infer_channels};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// What flows back through a [`BatchNormTraining`](super::BatchNormTraining). Inputs: `X`, scale, the mean and variance of
    /// the batch, and the gradient `dY`; outputs: the gradients of `X`, scale and bias. With `x̂ = (X − mean) / √(var + epsilon)`
    /// over `n` values of a channel: `dbias = Σ dY`, `dscale = Σ dY · x̂`,
    /// `dX = scale / √(var + epsilon) · (dY − dbias / n − x̂ · dscale / n)`.
    BatchNormGrad = "BatchNormGrad" in "qing" {
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-5,
    }
    inputs: 5..=5, outputs: 3..=3,
    gradient: Gradient::None("second derivatives are not taken"),
    cases: cases
}

impl Op for BatchNormGrad {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let vector = infer_channels(cx, &[1, 2, 3])?;
        let x = cx.ty(0)?;
        if let (Some(x), Some(dy)) = (x.known_shape(), cx.ty(4)?.known_shape())
            && x != dy
        {
            return Err(OpError::invalid(format!("X of {x:?} and dY of {dy:?}")));
        }
        Ok(vec![Type::maybe(x.element, x.shape.clone()), vector.clone(), vector])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, dy) = (cx.input(0)?, cx.input(4)?);
        if x.shape() != dy.shape() {
            return Err(OpError::invalid(format!("X {x:?} and dY {dy:?}")));
        }
        let (along, [scale, mean, var]) = channel_vectors(cx, [1, 2, 3])?;
        let (xs, mut dx) = (x.to_f64s(), dy.to_f64s());
        let (mut dscale, mut dbias) = (vec![0.0; along.length], vec![0.0; along.length]);
        for (c, places) in by_channel(x.shape()).enumerate() {
            let n = places.len() as f64;
            let inverse = 1.0 / (var[c] + f64::from(self.epsilon)).sqrt();
            let normal = |i: usize| (xs[i] - mean[c]) * inverse;
            dbias[c] = places.iter().map(|i| dx[*i]).sum();
            dscale[c] = places.iter().map(|i| dx[*i] * normal(*i)).sum();
            for i in places {
                dx[i] = scale[c] * inverse * (dx[i] - dbias[c] / n - normal(i) * dscale[c] / n);
            }
        }
        let vector = |v: Vec<f64>| Tensor::vector(v).cast(x.element());
        Ok(vec![Tensor::new(x.shape(), dx)?.cast(x.element()), vector(dscale), vector(dbias)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        // The normalized values are −1, 1 and, with a variance of 4 − epsilon, −1, 1 again: what is left of dY is what is
        // neither constant nor in their direction, which two values never have.
        Case::new("two_values_have_no_freedom", BatchNormGrad { epsilon: 3.0 })
            .f32(&[2, 2], &[1., 0., 5., 4.])
            .f32(&[2], &[2., 4.])
            .f32(&[2], &[3., 2.])
            .f32(&[2], &[1., 1.])
            .f32(&[2, 2], &[1., 2., 3., 8.])
            .gives(&[2, 2], &[0., 0., 0., 0.])
            .gives(&[2], &[2., 6.])
            .gives(&[2], &[4., 10.]),
        Case::new("one_channel", BatchNormGrad { epsilon: 1.0 })
            .f32(&[1, 1, 4], &[0., 2., 4., 6.])
            .f32(&[1], &[3.])
            .f32(&[1], &[3.])
            .f32(&[1], &[8.])
            .f32(&[1, 1, 4], &[4., 0., 0., 0.])
            .gives(&[1, 1, 4], &[2., -4. / 3., -2. / 3., 0.])
            .gives(&[1], &[-4.])
            .gives(&[1], &[4.]),
    ]
}

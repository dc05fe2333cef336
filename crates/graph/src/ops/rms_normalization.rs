use qing_tensor::Tensor;

use super::support::{axes::normalize, normalization::Affine};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `X / √(mean(X²) + epsilon) · scale`, the mean over all axes from `axis` on.
    RmsNormalization = "RMSNormalization" {
        /// First normalized axis; negative counts from the end.
        axis: i64 = -1,
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-5,
        /// Element of the statistics, as ONNX numbers it.
        stash_type: i64 = 1,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for RmsNormalization {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        if let Some(rank) = x.rank() {
            normalize(self.axis, rank)?;
        }
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let axis = normalize(self.axis, x.rank())?;
        let size = x.shape()[axis..].iter().product::<usize>().max(1);
        let affine = Affine::new(x.shape(), cx.input(1)?, None)?;
        let mut y = x.to_f64s();
        for (row, values) in y.chunks_exact_mut(size).enumerate() {
            let square = values.iter().map(|v| v * v).sum::<f64>() / size as f64;
            let inverse = 1.0 / (square + f64::from(self.epsilon)).sqrt();
            for (i, v) in values.iter_mut().enumerate() {
                *v = affine.apply(row * size + i, *v * inverse);
            }
        }
        Ok(vec![Tensor::new(x.shape(), y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, scale, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let rank = cx.rank(x)?;
        let axes: Vec<usize> = (normalize(self.axis, rank)?..rank).collect();
        let square = cx.mean(cx.square(x)?, &axes)?;
        let inverse = cx.emit(super::Reciprocal {}, &[cx.sqrt(cx.offset(square, self.epsilon.into())?)?])?;
        let normal = cx.mul(x, inverse)?;
        let dscale = cx.wanted(1, || cx.sum_like(cx.mul(dy, normal)?, scale))?;
        let dx = cx.wanted(0, || {
            let g = cx.mul(dy, scale)?;
            let along = cx.mul(normal, cx.mean(cx.mul(g, normal)?, &axes)?)?;
            cx.mul(inverse, cx.sub(g, along)?)
        })?;
        Ok(vec![dx, dscale])
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Mean squares 25 and 4.
        Case::new("rows", RmsNormalization { epsilon: 0.0, ..RmsNormalization::default() })
            .f32(&[2, 2], &[1., 7., 2., -2.])
            .f32(&[2], &[5., 10.])
            .gives(&[2, 2], &[1., 14., 5., -10.]),
    ]
}

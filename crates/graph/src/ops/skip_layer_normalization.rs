use qing_tensor::{Element, Tensor};

use super::support::{
    elementwise::arithmetic,
    normalization::{Affine, moments},
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Layer normalization over the last axis of `input + skip + bias`. Outputs are the result, the means, the inverses of
    /// the standard deviations and the sum.
    SkipLayerNormalization = "SkipLayerNormalization" in "com.microsoft" {
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-12,
    }
    inputs: 3..=5, outputs: 1..=4,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for SkipLayerNormalization {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let stats = x.shape.clone().map(|mut dims| {
            if let Some(last) = dims.last_mut() {
                *last = Dim::Known(1);
            }
            dims
        });
        let (y, stats) = (Type::maybe(x.element, x.shape.clone()), Type::maybe(Element::F32, stats));
        Ok(vec![y.clone(), stats.clone(), stats, y])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let add = |a: &Tensor, b: &Tensor| arithmetic(a, b, |a, b| a + b, i128::wrapping_add);
        let mut sum = add(x, cx.input(1)?)?;
        if let Some(bias) = cx.optional(4) {
            sum = add(&sum, bias)?;
        }
        let Some(&size) = x.shape().last().filter(|_| sum.shape() == x.shape()) else {
            return Err(OpError::invalid(format!("a sum of shape {:?} for {:?}", sum.shape(), x.shape())));
        };
        let affine = Affine::new(x.shape(), cx.input(2)?, cx.optional(3))?;
        let (mut y, mut means, mut inverses) = (sum.to_f64s(), vec![], vec![]);
        for (row, values) in y.chunks_exact_mut(size.max(1)).enumerate() {
            let (mean, var) = moments(values);
            let inverse = 1.0 / (var + f64::from(self.epsilon)).sqrt();
            for (i, v) in values.iter_mut().enumerate() {
                *v = affine.apply(row * size + i, (*v - mean) * inverse);
            }
            means.push(mean as f32);
            inverses.push(inverse as f32);
        }
        let mut stats = x.shape().to_vec();
        if let Some(last) = stats.last_mut() {
            *last = usize::from(size > 0);
        }
        let y = Tensor::new(x.shape(), y)?.cast(x.element());
        Ok(vec![y, Tensor::new(&stats, means)?, Tensor::new(&stats, inverses)?, sum])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| {
            let mut sum = cx.add(cx.input(0)?, cx.input(1)?)?;
            if let Some(bias) = cx.optional(4) {
                sum = cx.add(sum, bias)?;
            }
            let op = super::LayerNormalization { epsilon: self.epsilon, ..super::LayerNormalization::default() };
            let y = cx.emit_all(op, &[Some(sum), cx.optional(2), cx.optional(3)], 1)?[0];
            Ok(vec![Some(y), None, None, Some(sum)])
        })
    }
}

fn cases() -> Vec<Case> {
    vec![
        // The sum is (1, 3): mean 2, variance 1.
        Case::new("all", SkipLayerNormalization { epsilon: 0.0 })
            .f32(&[1, 1, 2], &[1., 1.])
            .f32(&[1, 1, 2], &[0., 1.])
            .f32(&[2], &[2., 3.])
            .f32(&[2], &[0.5, 0.])
            .f32(&[2], &[0., 1.])
            .gives(&[1, 1, 2], &[-1.5, 3.])
            .gives(&[1, 1, 1], &[2.])
            .gives(&[1, 1, 1], &[1.])
            .gives(&[1, 1, 2], &[1., 3.]),
    ]
}

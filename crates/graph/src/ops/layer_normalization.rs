use qing_tensor::{Element, Tensor};

use super::support::{
    axes::normalize,
    normalization::{Affine, gradient_of_standardized, moments, standardized},
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `(X − mean) / √(var + epsilon) · Scale + B`, mean and variance over all axes from `axis` on. Further outputs are the
    /// means and the inverses of the standard deviations.
    LayerNormalization = "LayerNormalization" {
        /// First normalized axis; negative counts from the end.
        axis: i64 = -1,
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-5,
        /// Element of the statistics, as ONNX numbers it.
        stash_type: i64 = 1,
    }
    inputs: 2..=3, outputs: 1..=3,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for LayerNormalization {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let stats = match &x.shape {
            None => None,
            Some(dims) => {
                let axis = normalize(self.axis, dims.len())?;
                Some(dims.iter().enumerate().map(|(i, d)| if i < axis { d.clone() } else { Dim::Known(1) }).collect())
            }
        };
        let stats = Type::maybe(Element::F32, stats);
        Ok(vec![Type::maybe(x.element, x.shape.clone()), stats.clone(), stats])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let axis = normalize(self.axis, x.rank())?;
        let size: usize = x.shape()[axis..].iter().product();
        let affine = Affine::new(x.shape(), cx.input(1)?, cx.optional(2))?;
        let (mut y, mut means, mut inverses) = (x.to_f64s(), vec![], vec![]);
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
        stats[axis..].fill(1);
        let y = Tensor::new(x.shape(), y)?.cast(x.element());
        if means.len() != qing_tensor::element_count(&stats)? {
            return Err(OpError::unsupported(format!("an empty normalized axis of {:?}", x.shape())));
        }
        Ok(vec![y, Tensor::new(&stats, means)?, Tensor::new(&stats, inverses)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, scale, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let rank = cx.rank(x)?;
        let axes: Vec<usize> = (normalize(self.axis, rank)?..rank).collect();
        let normal = standardized(cx, x, &axes, self.epsilon)?;
        let dscale = cx.wanted(1, || cx.sum_like(cx.mul(dy, normal.0)?, scale))?;
        let dbias = cx.wanted(2, || cx.sum_like(dy, cx.input(2)?))?;
        let dx = cx.wanted(0, || gradient_of_standardized(cx, normal, &axes, cx.mul(dy, scale)?))?;
        Ok(vec![dx, dscale, dbias])
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Means 2 and 6, variances 1 and 4; epsilon is 0.
        Case::new("rows", LayerNormalization { epsilon: 0.0, ..LayerNormalization::default() })
            .f32(&[2, 2], &[1., 3., 4., 8.])
            .f32(&[2], &[1., 2.])
            .f32(&[2], &[0., 10.])
            .gives(&[2, 2], &[-1., 12., -1., 12.])
            .gives(&[2, 1], &[2., 6.])
            .gives(&[2, 1], &[1., 0.5]),
        Case::new("all_axes", LayerNormalization { axis: 0, epsilon: 3.0, ..LayerNormalization::default() })
            .f32(&[2, 1], &[1., 3.])
            .f32(&[2, 1], &[1., 1.])
            .gives(&[2, 1], &[-0.5, 0.5]),
    ]
}

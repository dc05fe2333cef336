use qing_tensor::Tensor;

use super::support::{axes::{Along, normalize}, movement::gradient_of_moved};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// The slices along an axis whose condition is true; of the flattened values if there is no axis.
    Compress = "Compress" {
        /// The axis; negative counts from the end.
        axis: Option<i64> = None,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Compress {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (self.axis, &x.shape) {
            (None, _) => Some(vec![Dim::Unknown]),
            (Some(_), None) => None,
            (Some(axis), Some(dims)) => {
                let mut shape = dims.clone();
                shape[normalize(axis, dims.len())?] = Dim::Unknown;
                Some(shape)
            }
        };
        Ok(vec![x.with_shape(shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, condition) = (cx.input(0)?, cx.input(1)?.to_bools());
        let mut shape = if self.axis.is_some() { x.shape().to_vec() } else { vec![x.len()] };
        let axis = normalize(self.axis.unwrap_or(0), shape.len())?;
        let along = Along::new(&shape, axis);
        if condition.len() > along.length {
            return Err(OpError::invalid(format!("{} conditions for {} slices", condition.len(), along.length)));
        }
        let kept: Vec<usize> = (0..condition.len()).filter(|i| condition[*i]).collect();
        shape[axis] = kept.len();
        let mut from = vec![];
        for o in 0..along.outer {
            for i in &kept {
                let start = (o * along.length + i) * along.inner;
                from.extend(start..start + along.inner);
            }
        }
        Ok(vec![x.take(&shape, from)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(gradient_of_moved(cx, self, 0)?), None])
    }
}

fn cases() -> Vec<Case> {
    let when = |v: &[bool]| Tensor::from_bools(&[v.len()], v).expect("fits");
    let x = [1., 2., 3., 4., 5., 6.];
    vec![
        Case::new("rows", Compress { axis: Some(0) })
            .f32(&[3, 2], &x)
            .input(when(&[false, true, true]))
            .gives(&[2, 2], &[3., 4., 5., 6.]),
        Case::new("flat", Compress::default())
            .f32(&[3, 2], &x)
            .input(when(&[false, true, false, true]))
            .gives(&[2], &[2., 4.]),
    ]
}

use qing_tensor::{Element, Tensor};

use super::support::data_type::element_of;
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// A matrix of the shape of its input with ones on a diagonal and zeros elsewhere.
    EyeLike = "EyeLike" {
        /// ONNX type of the output; that of the input if absent.
        dtype: Option<i64> = None,
        /// The diagonal: 0 is the main one, positive ones lie above.
        k: i64 = 0,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("it does not depend on values"),
    cases: cases
}

impl EyeLike {
    fn element(&self, x: Element) -> Result<Element, OpError> {
        self.dtype.map_or(Ok(x), element_of)
    }
}

impl Op for EyeLike {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(self.element(x.element)?, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let &[_, columns] = x.shape() else {
            return Err(OpError::invalid(format!("a tensor of shape {:?}; expected a matrix", x.shape())));
        };
        let one = |i: usize| i32::from((i / columns) as i64 == ((i % columns) as i64).saturating_sub(self.k));
        let values = (0..x.len()).map(one).collect();
        Ok(vec![Tensor::new::<i32>(x.shape(), values)?.cast(self.element(x.element())?)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("main", EyeLike::default()).f32(&[2, 3], &[9.; 6]).gives(&[2, 3], &[1., 0., 0., 0., 1., 0.]),
        Case::new("above_as_i32", EyeLike { dtype: Some(6), k: 1 })
            .f32(&[2, 2], &[9.; 4])
            .output(Tensor::new(&[2, 2], vec![0i32, 1, 0, 0]).expect("fits")),
    ]
}

use qing_tensor::Tensor;

use crate::{Case, Dim, Element, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Where its input is not zero: `[rank, count]` coordinates in row-major order.
    NonZero = "NonZero" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("coordinates are integers"),
    cases: cases
}

impl Op for NonZero {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let rank = cx.shape(0)?.map_or(Dim::Unknown, |dims| Dim::Known(dims.len()));
        Ok(vec![Type::new(Element::I64, [rank, Dim::Unknown])])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let found: Vec<usize> = x.to_bools().iter().enumerate().filter(|(_, b)| **b).map(|(i, _)| i).collect();
        let own = qing_tensor::strides(x.shape());
        let coordinate = |axis: usize, i: usize| (i / own[axis] % x.shape()[axis]) as i64;
        let mut values: Vec<i64> = vec![];
        for axis in 0..x.rank() {
            values.extend(found.iter().map(|i| coordinate(axis, *i)));
        }
        Ok(vec![Tensor::new(&[x.rank(), found.len()], values)?])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("matrix", NonZero {})
            .f32(&[2, 2], &[1., 0., -2., 3.])
            .output(Tensor::new(&[2, 3], vec![0i64, 1, 1, 0, 0, 1]).expect("fits")),
        Case::new("nothing", NonZero {})
            .f32(&[2], &[0., 0.])
            .output(Tensor::new(&[1, 0], Vec::<i64>::new()).expect("fits")),
    ]
}

use qing_tensor::{Element, Tensor};

use super::support::{
    integers::{centered_along, narrow},
    matmul::{Product, accumulate, batched_dims},
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Matrix product of integers minus their zero points, exact, in i32. Inputs: a, b, a_zero (one, or one a row), b_zero
    /// (one, or one a column).
    MatMulInteger = "MatMulInteger" {}
    inputs: 2..=4, outputs: 1..=1,
    gradient: Gradient::None("its inputs are integers"),
    cases: cases
}

impl Op for MatMulInteger {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let (Some(a), Some(b)) = (cx.shape(0)?, cx.shape(1)?) else { return Ok(vec![Type::maybe(Element::I32, None)]) };
        Ok(vec![Type::maybe(Element::I32, Some(batched_dims(a, b)?))])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let product = Product::new(a.shape(), b.shape())?;
        let acc = accumulate(&product, &centered_along(a, cx.optional(2), 2)?, &centered_along(b, cx.optional(3), 1)?, &[]);
        let values = acc.into_iter().map(narrow).collect::<Result<Vec<i32>, OpError>>()?;
        Ok(vec![Tensor::new(&product.shape, values)?])
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        super::MatMul {}.macs(&Infer { types: &[cx.optional(0), cx.optional(1)], constants: &[], outputs: 1 })
    }
}

fn cases() -> Vec<Case> {
    let m = |v: [u8; 4]| Tensor::new(&[2, 2], v.to_vec()).expect("fits");
    vec![
        // (1, −2; 0, 3) · (1, 0; −1, 2)
        Case::new("zero_points", MatMulInteger {})
            .input(m([11, 8, 10, 13]))
            .input(m([3, 2, 1, 4]))
            .input(Tensor::scalar(10u8))
            .input(Tensor::scalar(2u8))
            .output(Tensor::new(&[2, 2], vec![3i32, -4, -3, 6]).expect("fits")),
        // (0, −3; −1, 2) · (1, 0; −1, 2), with zero points 11 of both rows, and (2, 2) of the columns.
        Case::new("one_a_slice", MatMulInteger {})
            .input(m([11, 8, 10, 13]))
            .input(m([3, 2, 1, 4]))
            .input(Tensor::vector(vec![11u8, 11]))
            .input(Tensor::vector(vec![2u8, 2]))
            .output(Tensor::new(&[2, 2], vec![3i32, -6, -3, 4]).expect("fits")),
    ]
}

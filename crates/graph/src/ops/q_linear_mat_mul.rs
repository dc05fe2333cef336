use qing_tensor::Tensor;

use super::support::{
    integers::{centered_along, from_ints, narrow, one_scale, one_zero, range, slices_along},
    matmul::{Product, accumulate, batched_dims},
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, arithmetic, op};

op! {
    /// Matrix product of quantized tensors with scales and zero points as inputs: a, a_scale, a_zero, b, b_scale, b_zero,
    /// y_scale, y_zero. Scales of `a` may be one a row, those of `b` one a column.
    QLinearMatMul = "QLinearMatMul" {}
    inputs: 8..=8, outputs: 1..=1,
    gradient: Gradient::None("training uses quantized types instead"),
    cases: cases
}

impl Op for QLinearMatMul {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = cx.element(7)?;
        let (Some(a), Some(b)) = (cx.shape(0)?, cx.shape(3)?) else { return Ok(vec![Type::maybe(element, None)]) };
        Ok(vec![Type::maybe(element, Some(batched_dims(a, b)?))])
    }

    fn takes_integers(&self) -> bool {
        true
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.input(0)?, cx.input(3)?);
        let (a_scale, b_scale, y_scale) = (cx.input(1)?, cx.input(4)?, one_scale(cx.input(6)?)?);
        let (zero, element) = (one_zero(Some(cx.input(7)?))?, cx.input(7)?.element());
        let (lo, hi) = range(element)?;
        let product = Product::new(a.shape(), b.shape())?;
        let (rows, columns) = (slices_along(a.shape(), a_scale.shape(), 2)?, slices_along(b.shape(), b_scale.shape(), 1)?);
        let (a_scales, b_scales) = (a_scale.to_f32s(), b_scale.to_f32s());
        let acc = accumulate(
            &product,
            &centered_along(a, Some(cx.input(2)?), 2)?,
            &centered_along(b, Some(cx.input(5)?), 1)?,
            &[],
        );
        let (m, n) = (product.m, product.n);
        let values = acc
            .into_iter()
            .enumerate()
            .map(|(i, acc)| {
                let (batch, row, column) = (i / (m * n), i / n % m, i % n);
                let (first_a, first_b) = product.batches[batch];
                let scale = arithmetic::dot_scale(
                    a_scales[rows[first_a + row * product.k]],
                    b_scales[columns[first_b + column]],
                    y_scale,
                );
                Ok(arithmetic::requantize(narrow(acc)?, scale, zero, lo, hi))
            })
            .collect::<Result<Vec<i32>, OpError>>()?;
        Ok(vec![from_ints(element, &product.shape, values)?])
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        super::MatMul {}.macs(&Infer { types: &[cx.optional(0), cx.optional(3)], constants: &[], outputs: 1 })
    }
}

fn cases() -> Vec<Case> {
    let f = |v: f32| Tensor::scalar(v);
    vec![
        // The numbers of the quantized case of MatMul: columns accumulate 1 and −14.
        Case::new("per_column", QLinearMatMul {})
            .input(Tensor::new(&[1, 2], vec![11u8, 8]).expect("fits"))
            .input(f(0.5))
            .input(Tensor::scalar(10u8))
            .input(Tensor::new(&[2, 2], vec![3i8, -4, 1, 5]).expect("fits"))
            .f32(&[2], &[0.5, 2.])
            .input(Tensor::vector(vec![0i8, 0]))
            .input(f(1.0))
            .input(Tensor::scalar(120u8))
            .output(Tensor::new(&[1, 2], vec![120u8, 106]).expect("fits")),
    ]
}

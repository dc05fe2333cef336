// Attributes are called as in ONNX Runtime.
#![allow(non_snake_case)]

use qing_tensor::{Tensor, strides};

use super::support::{
    elementwise::each_index,
    matmul::{Product, accumulate, batched_dims},
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `alpha` times the matrix product of the last two axes, either operand transposed on request, as ONNX Runtime's
    /// optimizer writes it.
    FusedMatMul = "FusedMatMul" in "com.microsoft" {
        /// Factor of the product.
        alpha: f32 = 1.0,
        /// Whether the last two axes of `A` are exchanged.
        transA: bool = false,
        /// Whether the first axis of `A` is its last but one; not supported.
        transBatchA: bool = false,
        /// Whether the last two axes of `B` are exchanged.
        transB: bool = false,
        /// Whether the first axis of `B` is its last but one; not supported.
        transBatchB: bool = false,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

/// The last two axes exchanged.
fn swapped<T: Clone>(shape: &[T], swap: bool) -> Vec<T> {
    let mut shape = shape.to_vec();
    let rank = shape.len();
    if swap && rank >= 2 {
        shape.swap(rank - 1, rank - 2);
    }
    shape
}

fn transposed(t: &Tensor, swap: bool) -> Result<Tensor, OpError> {
    if !swap || t.rank() < 2 {
        return Ok(t.clone());
    }
    let shape = swapped(t.shape(), true);
    let steps = swapped(&strides(t.shape()), true);
    let mut order = Vec::with_capacity(t.len());
    each_index(&shape, |at| order.push(at.iter().zip(&steps).map(|(i, s)| i * s).sum()));
    Ok(t.take(&shape, order)?)
}

impl Op for FusedMatMul {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        if self.transBatchA || self.transBatchB {
            return Err(OpError::unsupported("transBatchA and transBatchB"));
        }
        let element = cx.element(0)?;
        let (Some(a), Some(b)) = (cx.shape(0)?, cx.shape(1)?) else { return Ok(vec![Type::maybe(element, None)]) };
        let (a, b): (Vec<Dim>, Vec<Dim>) = (swapped(a, self.transA), swapped(b, self.transB));
        Ok(vec![Type::maybe(element, Some(batched_dims(&a, &b)?))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (transposed(cx.input(0)?, self.transA)?, transposed(cx.input(1)?, self.transB)?);
        let product = Product::new(a.shape(), b.shape())?;
        let mut y = accumulate(&product, &a.to_f64s(), &b.to_f64s(), &[]);
        y.iter_mut().for_each(|v| *v *= f64::from(self.alpha));
        Ok(vec![Tensor::new(&product.shape, y)?.cast(a.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| {
            let a = if self.transA { cx.transpose_last(cx.input(0)?)? } else { cx.input(0)? };
            let b = if self.transB { cx.transpose_last(cx.input(1)?)? } else { cx.input(1)? };
            Ok(vec![Some(cx.scale(cx.matmul(a, b)?, self.alpha.into())?)])
        })
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("transposed", FusedMatMul { alpha: 0.5, transB: true, ..FusedMatMul::default() })
            .f32(&[1, 1, 2], &[1., 2.])
            .f32(&[1, 2, 2], &[5., 7., 6., 8.])
            .gives(&[1, 1, 2], &[9.5, 11.]),
    ]
}

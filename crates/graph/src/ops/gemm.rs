// Attributes are called as in ONNX.
#![allow(non_snake_case)]

use qing_tensor::{Element, Tensor};

use super::support::{
    elementwise::{arithmetic, broadcast_dims},
    matmul::{Product, accumulate, accumulate_wrapping, per_column, transposed},
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, Quant, QuantRule, Type, op};

op! {
    /// `alpha · A · B + beta · C` with matrices `A [M, K]` and `B [K, N]`, either transposed on request, and `C` broadcast
    /// to `[M, N]`. On quantized values a dot with `C [N]` as its bias; `alpha` and `beta` must be 1 then.
    Gemm = "Gemm" {
        /// Factor of the product.
        alpha: f32 = 1.0,
        /// Factor of `C`.
        beta: f32 = 1.0,
        /// Whether `A` is given as `[K, M]`.
        transA: bool = false,
        /// Whether `B` is given as `[N, K]`.
        transB: bool = false,
    }
    inputs: 2..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 7 `C` broadcast only when told to.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    if node.opset < 7 {
        node.attrs.remove("broadcast");
    }
    Ok(())
}

fn matrix<'a, T>(shape: &'a [T], transposed: bool, name: &str) -> Result<(&'a T, &'a T), OpError> {
    match shape {
        [a, b] if transposed => Ok((b, a)),
        [a, b] => Ok((a, b)),
        _ => Err(OpError::invalid(format!("{name} of rank {}; expected a matrix", shape.len()))),
    }
}

impl Op for Gemm {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = if cx.ty(0)?.quant.is_some() { Element::F32 } else { cx.element(0)? };
        let (mut m, mut n) = (Dim::Unknown, Dim::Unknown);
        let (mut k, mut l) = (Dim::Unknown, Dim::Unknown);
        if let Some(a) = cx.shape(0)? {
            let (rows, depth) = matrix(a, self.transA, "A")?;
            (m, k) = (rows.clone(), depth.clone());
        }
        if let Some(b) = cx.shape(1)? {
            let (depth, columns) = matrix(b, self.transB, "B")?;
            (l, n) = (depth.clone(), columns.clone());
        }
        if let (Some(k), Some(l)) = (k.known(), l.known())
            && k != l
        {
            return Err(OpError::invalid(format!("A of {k} columns and B of {l} rows")));
        }
        let shape = vec![m, n];
        if let Some(c) = cx.optional(2).and_then(|c| c.shape.as_ref())
            && shape.iter().all(|d| d.known().is_some())
            && broadcast_dims(&shape, c)?.iter().zip(&shape).any(|(a, b)| a != b && a.known().is_some())
        {
            return Err(OpError::invalid(format!("C of rank {} does not fit the product", c.len())));
        }
        Ok(vec![Type::maybe(element, Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b, c) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
        let (_, depth) = matrix(a.shape(), self.transA, "A")?;
        let (rows, _) = matrix(b.shape(), self.transB, "B")?;
        if depth != rows {
            return Err(OpError::invalid(format!("A of shape {:?} and B of shape {:?}", a.shape(), b.shape())));
        }
        let a = if self.transA { transposed(a)? } else { a.clone() };
        if let (Some(_), Some(bq)) = (cx.quant(0), cx.quant(1)) {
            if self.alpha != 1.0 || self.beta != 1.0 {
                return Err(OpError::unsupported(format!("alpha {} and beta {} on quantized values", self.alpha, self.beta)));
            }
            let mut w = cx.ty(1)?.clone();
            let b = if self.transB {
                w.quant = Some(bq.transposed()?.into());
                transposed(b)?
            } else {
                b.clone()
            };
            let bias = c.map_or(vec![], Tensor::to_i64s);
            let product = Product::new(a.shape(), b.shape())?;
            return Ok(vec![per_column(&product, &a, &b, &bias, cx.ty(0)?, &w, cx.output(0))?]);
        }
        let b = if self.transB { transposed(b)? } else { b.clone() };
        let product = Product::new(a.shape(), b.shape())?;
        let (alpha, beta) = (f64::from(self.alpha), f64::from(self.beta));
        let mut y: Vec<f64> = if a.element().is_float() {
            accumulate(&product, &a.to_f64s(), &b.to_f64s(), &[])
        } else {
            let exact: Vec<i64> = accumulate_wrapping(&product, &a, &b);
            exact.into_iter().map(|v| v as f64).collect()
        };
        y.iter_mut().for_each(|v| *v *= alpha);
        let y = Tensor::new(&product.shape, y)?;
        let Some(c) = c else { return Ok(vec![y.cast(a.element())]) };
        if qing_tensor::broadcast(&product.shape, c.shape())? != product.shape {
            return Err(OpError::invalid(format!("C of shape {:?} for {:?}", c.shape(), product.shape)));
        }
        let sum = arithmetic(&y, &c.cast(Element::F64), |y, c| y + beta * c, |y, _| y)?;
        Ok(vec![sum.cast(a.element())])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Dot { weight: 1, bias: 2, axis: usize::from(!self.transB) }
    }

    fn macs(&self, cx: &Infer<'_>) -> u64 {
        let Ok(types) = self.infer(cx) else { return 0 };
        let (Some(y), Some(a)) = (types[0].known_shape(), cx.optional(0).and_then(Type::known_shape)) else { return 0 };
        y.iter().product::<usize>() as u64 * a[usize::from(!self.transA)] as u64
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (a, b, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let product = |transA, transB, x, y| cx.emit(Gemm { alpha: self.alpha, transA, transB, ..Gemm::default() }, &[x, y]);
        let db = cx.wanted(1, || {
            if self.transB { product(true, self.transA, dy, a) } else { product(!self.transA, false, a, dy) }
        })?;
        let dc = cx.wanted(2, || cx.scale(cx.sum_like(dy, cx.input(2)?)?, self.beta.into()))?;
        let da = cx.wanted(0, || {
            if self.transA { product(self.transB, true, b, dy) } else { product(false, !self.transB, dy, b) }
        })?;
        Ok(vec![da, db, dc])
    }
}

fn cases() -> Vec<Case> {
    let quant = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let u8s = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::U8, shape, v).expect("fits");
    let i8s = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::I8, shape, v).expect("fits");
    vec![
        Case::new("plain", Gemm::default())
            .f32(&[1, 2], &[1., 2.])
            .f32(&[2, 2], &[5., 6., 7., 8.])
            .f32(&[2], &[0.5, -0.5])
            .gives(&[1, 2], &[19.5, 21.5]),
        Case::new("transposed", Gemm { alpha: 2.0, beta: 0.5, transA: true, transB: true })
            .f32(&[2, 1], &[1., 2.])
            .f32(&[2, 2], &[5., 7., 6., 8.])
            .f32(&[1, 1], &[4.])
            .gives(&[1, 2], &[40., 46.]),
        // x − zero is (1, −2); rows accumulate 3 − 2 + 10 = 11 and −4 − 10 − 1 = −15.
        Case::new("quantized", Gemm { transB: true, ..Gemm::default() })
            .quantized_input(u8s(&[1, 2], &[11, 8]), quant(0.5, 10))
            .quantized_input(i8s(&[2, 2], &[3, 1, -4, 5]), Quant::per_axis(0, vec![0.5, 2.0]).expect("valid"))
            .input(Tensor::vector(vec![10i32, -1]))
            .quantized_output(u8s(&[1, 2], &[123, 105]), quant(1.0, 120)),
    ]
}

use qing_tensor::Tensor;

use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The determinant of the square matrices of the last two axes.
    Det = "Det" {}
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

/// By elimination with row pivoting; `a` is destroyed.
fn determinant(a: &mut [f64], n: usize) -> f64 {
    let mut det = 1.0;
    for c in 0..n {
        let pivot = (c..n).fold(c, |p, r| if a[r * n + c].abs() > a[p * n + c].abs() { r } else { p });
        if a[pivot * n + c] == 0.0 {
            return 0.0;
        }
        if pivot != c {
            (0..n).for_each(|i| a.swap(pivot * n + i, c * n + i));
            det = -det;
        }
        det *= a[c * n + c];
        for r in c + 1..n {
            let factor = a[r * n + c] / a[c * n + c];
            for i in c..n {
                a[r * n + i] -= factor * a[c * n + i];
            }
        }
    }
    det
}

impl Op for Det {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match x.shape.as_deref() {
            None => None,
            Some([batch @ .., rows, columns]) => match (rows, columns) {
                (Dim::Known(r), Dim::Known(c)) if r != c => {
                    return Err(OpError::invalid(format!("the determinant of matrices of {r}×{c}")));
                }
                _ => Some(batch.to_vec()),
            },
            Some(_) => return Err(OpError::invalid("the determinant of no matrix")),
        };
        Ok(vec![Type::maybe(x.element, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let [batch @ .., rows, columns] = x.shape() else {
            return Err(OpError::invalid(format!("the determinant of shape {:?}", x.shape())));
        };
        if rows != columns || *rows == 0 {
            return Err(OpError::invalid(format!("the determinant of matrices of {rows}×{columns}")));
        }
        let mut values = x.to_f64s();
        let dets = values.chunks_exact_mut(rows * rows).map(|a| determinant(a, *rows)).collect();
        Ok(vec![Tensor::new::<f64>(batch, dets)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        // Cofactors: the determinants of what is left without a row and a column, of alternating sign.
        let (x, dy) = (cx.input(0)?, cx.dy()?);
        let shape = cx.shape(x)?;
        let (batch, n) = (&shape[..shape.len() - 2], shape[shape.len() - 1]);
        let dy = cx.reshape(dy, &[batch, &[1, 1]].concat())?;
        if n == 1 {
            return Ok(vec![Some(dy)]);
        }
        let mut places = vec![];
        let mut signs = vec![];
        for (row, column) in (0..n).flat_map(|r| (0..n).map(move |c| (r, c))) {
            let rest = |without: usize| (0..n).filter(move |i| *i != without);
            places.extend(rest(row).flat_map(|r| rest(column).map(move |c| (r * n + c) as i64)));
            signs.push(if (row + column) % 2 == 0 { 1.0 } else { -1.0 });
        }
        let places = cx.tensor(Tensor::new::<i64>(&[n * n, n - 1, n - 1], places)?);
        let flat = cx.reshape(x, &[batch, &[n * n]].concat())?;
        let minors = cx.emit(super::Gather { axis: -1 }, &[flat, places])?;
        let signs = cx.tensor(Tensor::vector::<f64>(signs).cast(cx.element(x)));
        let cofactors = cx.mul(cx.emit(Det {}, &[minors])?, signs)?;
        Ok(vec![Some(cx.mul(dy, cx.reshape(cofactors, &shape)?)?)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("two", Det {}).f32(&[2, 2, 2], &[1., 2., 3., 4., 0., 2., 3., 5.]).gives(&[2], &[-2., -6.]),
        Case::new("three", Det {}).f32(&[3, 3], &[2., 0., 1., 1., 3., 2., 1., 1., 4.]).gives(&[], &[18.]),
    ]
}

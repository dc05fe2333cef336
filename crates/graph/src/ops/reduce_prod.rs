use super::support::reduce::{Reduction, reduction};
use crate::{Case, Tensor};

reduction! {
    /// The product over `axes`.
    ReduceProd = "ReduceProd",
    reduction: Reduction {
        real: |v| v.iter().product(),
        integer: Some(|v| v.iter().fold(1, |a, b| a.wrapping_mul(*b))),
    },
    backward: |cx, at| {
        // The product of all others, so that a zero does no harm: of those before times of those behind.
        let shape = cx.shape(at.x)?;
        let mut order: Vec<usize> = (0..shape.len()).filter(|i| !at.axes.contains(i)).collect();
        order.extend(&at.axes);
        let moved: Vec<usize> = order.iter().map(|i| shape[*i]).collect();
        let rows = moved.iter().product::<usize>() / at.count.max(1);
        let x = cx.reshape(cx.transpose(at.x, &order)?, &[rows, at.count])?;
        let axis = cx.tensor(Tensor::scalar(1i64));
        let before = cx.emit(super::CumProd { exclusive: true, reverse: false }, &[x, axis])?;
        let behind = cx.emit(super::CumProd { exclusive: true, reverse: true }, &[x, axis])?;
        let others = cx.reshape(cx.mul(before, behind)?, &moved)?;
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(i, o)| back[*o] = i);
        cx.mul(at.dy, cx.transpose(others, &back)?)
    },
    cases: cases
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last_axis", ReduceProd { keepdims: false, ..ReduceProd::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[2., 12.]),
        Case::new("all", ReduceProd::default()).i64s(&[3, -1, 5]).output(crate::Tensor::vector(vec![-15i64])),
    ]
}

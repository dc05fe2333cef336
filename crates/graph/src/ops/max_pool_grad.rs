use qing_tensor::Tensor;

use super::{
    MaxPool,
    support::{movement::zeros, scatter::scatter},
};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// What flows back through a [`MaxPool`](super::MaxPool) over `X`: every value of `dY` goes to the maximum of its window, the
    /// first of equal ones, and what several windows choose is summed.
    MaxPoolGrad = "MaxPoolGrad" in "qing" {
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Taps per spatial axis.
        kernel_shape: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::None("second derivatives are not taken"),
    cases: cases
}

impl MaxPoolGrad {
    /// The pooling whose gradient this is.
    pub fn pool(&self) -> MaxPool {
        MaxPool {
            dilations: self.dilations.clone(),
            kernel_shape: self.kernel_shape.clone(),
            pads: self.pads.clone(),
            strides: self.strides.clone(),
            ..MaxPool::default()
        }
    }
}

impl Op for MaxPoolGrad {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let y = self.pool().infer(cx)?.remove(0);
        if let (Some(want), Some(have)) = (y.known_shape(), cx.ty(1)?.known_shape())
            && want != have
        {
            return Err(OpError::invalid(format!("dY of {have:?} where X gives {want:?}")));
        }
        Ok(vec![Type::maybe(cx.element(0)?, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, dy) = (cx.input(0)?, cx.input(1)?);
        if !x.element().is_float() || x.is_empty() {
            return Err(OpError::invalid(format!("X {x:?}; expected floats")));
        }
        let winners = self.pool().eval(&Eval { inputs: &[Some(x)], types: &cx.types[..1], outputs: cx.outputs })?;
        if winners[1].shape() != dy.shape() {
            return Err(OpError::invalid(format!("dY {dy:?} where X gives {:?}", winners[1].shape())));
        }
        let targets: Vec<usize> = winners[1].to_i64s().into_iter().map(|i| i as usize).collect();
        Ok(vec![scatter(&zeros(x.element(), x.shape())?, dy, &targets, "add")?])
    }
}

fn cases() -> Vec<Case> {
    let op = |kernel: &[i64]| MaxPoolGrad { kernel_shape: kernel.to_vec(), ..MaxPoolGrad::default() };
    vec![
        // 5 wins three windows; in the last the 3 on the right is alone.
        Case::new("winners_collect", op(&[2]))
            .f32(&[1, 1, 4], &[1., 5., 2., 3.])
            .f32(&[1, 1, 3], &[1., 10., 100.])
            .gives(&[1, 1, 4], &[0., 11., 0., 100.]),
        Case::new("the_first_of_equals", MaxPoolGrad { strides: vec![2, 2], ..op(&[2, 2]) })
            .f32(&[1, 1, 2, 4], &[0., 7., 3., 3., 7., 0., 3., 3.])
            .f32(&[1, 1, 1, 2], &[2., 5.])
            .gives(&[1, 1, 2, 4], &[0., 2., 5., 0., 0., 0., 0., 0.]),
        Case::new("padding_never_wins", MaxPoolGrad { pads: vec![1, 1], strides: vec![2], ..op(&[3]) })
            .f32(&[1, 1, 4], &[-1., -2., -3., -4.])
            .f32(&[1, 1, 2], &[1., 1.])
            .gives(&[1, 1, 4], &[1., 1., 0., 0.]),
        Case::new("dilation", MaxPoolGrad { dilations: vec![2], ..op(&[2]) })
            .f32(&[1, 1, 3], &[1., 9., 2.])
            .f32(&[1, 1, 1], &[4.])
            .gives(&[1, 1, 3], &[0., 0., 4.]),
    ]
}

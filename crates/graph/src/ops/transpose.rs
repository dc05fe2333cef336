use std::sync::Arc;

use qing_tensor::{Tensor, strides};

use super::support::{axes::normalize_all, movement::strided};
use crate::{Backward, Gradients, Case, Dim, Element, Eval, Gradient, Granularity, Infer, Op, OpError, Quant, QuantRule, Type, op};

op! {
    /// Its input with the axes in another order.
    Transpose = "Transpose" {
        /// For each axis of the output, the axis of the input; reversed if empty.
        perm: Vec<i64> = vec![],
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Transpose {
    /// For each axis of the output, the axis of an input of this rank.
    ///
    /// # Errors
    /// If `perm` is not a permutation of the axes.
    pub fn order(&self, rank: usize) -> Result<Vec<usize>, OpError> {
        if self.perm.is_empty() {
            return Ok((0..rank).rev().collect());
        }
        if self.perm.len() != rank {
            return Err(OpError::invalid(format!("perm {:?} for a tensor of rank {rank}", self.perm)));
        }
        normalize_all(&self.perm, rank)
    }
}

impl Op for Transpose {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else {
            let rank = self.perm.len();
            return Ok(vec![Type::maybe(x.element, (rank > 0).then(|| vec![Dim::Unknown; rank]))]);
        };
        let order = self.order(dims.len())?;
        let mut y = x.with_shape(Some(order.iter().map(|i| dims[*i].clone()).collect()));
        // Scales per slice move with their axis.
        if let Some(quant) = &x.quant
            && let Granularity::Axis(axis) = quant.granularity()
            && let Some(to) = order.iter().position(|i| *i == axis)
        {
            let quant = Quant::new(Granularity::Axis(to), quant.scales().to_vec(), quant.zeros().to_vec())?;
            y.quant = Some(Arc::new(quant));
        }
        Ok(vec![y])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let order = self.order(x.rank())?;
        let own = strides(x.shape());
        let shape: Vec<usize> = order.iter().map(|i| x.shape()[*i]).collect();
        let steps: Vec<isize> = order.iter().map(|i| own[*i] as isize).collect();
        Ok(vec![x.take(&shape, strided(&shape, 0, &steps))?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let order = self.order(cx.rank(cx.input(0)?)?)?;
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(to, from)| back[*from] = to);
        Ok(vec![Some(cx.transpose(cx.dy()?, &back)?)])
    }
}

fn cases() -> Vec<Case> {
    let i4 = Element::integer(4, true).expect("a width");
    let ints = |shape: &[usize], v: &[i32]| Tensor::from_ints(i4, shape, v).expect("fits");
    let q = |axis| Quant::per_axis(axis, vec![0.5, 2.0]).expect("valid");
    vec![
        Case::new("reversed", Transpose::default())
            .f32(&[2, 3], &[1., 2., 3., 4., 5., 6.])
            .gives(&[3, 2], &[1., 4., 2., 5., 3., 6.]),
        Case::new("to_channels_last", Transpose { perm: vec![0, 2, 1] })
            .f32(&[1, 2, 2], &[1., 2., 3., 4.])
            .gives(&[1, 2, 2], &[1., 3., 2., 4.]),
        Case::new("quantized_weights", Transpose { perm: vec![1, 0] })
            .quantized_input(ints(&[2, 2], &[1, -8, 7, 0]), q(0))
            .quantized_output(ints(&[2, 2], &[1, 7, -8, 0]), q(1)),
    ]
}

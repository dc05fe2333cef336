use qing_tensor::Tensor;

use super::support::{
    movement::{concatenated, moved, zeros},
    sizes::single,
};
use crate::{Backward, Gradients, ValueId, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The upper or lower triangle of the matrices in the last two axes, zeros elsewhere. The diagonal `k` (input 1) belongs
    /// to it; 0 is the main one, positive ones lie above.
    Trilu = "Trilu" {
        /// Upper rather than lower.
        upper: bool = true,
    }
    inputs: 1..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Trilu {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let &[.., rows, columns] = x.shape() else {
            return Err(OpError::invalid(format!("a tensor of shape {:?}; expected matrices", x.shape())));
        };
        let k = cx.optional(1).map_or(Ok(0), |k| single(k, "k"))?;
        // The zero is one more value behind those of the input.
        let all = concatenated(&[x.reshaped(&[x.len()])?, zeros(x.element(), &[1])?], 0)?;
        let mut i = 0;
        let y = moved(&all, x.shape(), |_| {
            let (row, column) = (i / columns % rows, i % columns);
            let above = (column as i64).saturating_sub(row as i64).saturating_sub(k);
            let kept = if self.upper { above >= 0 } else { above <= 0 };
            i += 1;
            if kept { i - 1 } else { x.len() }
        })?;
        Ok(vec![y])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let inputs: Vec<Option<ValueId>> = [Some(cx.dy()?), cx.optional(1)][..cx.inputs()].to_vec();
        Ok(vec![Some(cx.emit_all(self.clone(), &inputs, 1)?[0]), None])
    }
}

fn cases() -> Vec<Case> {
    let x = [1., 2., 3., 4., 5., 6.];
    vec![
        Case::new("upper", Trilu::default()).f32(&[2, 3], &x).gives(&[2, 3], &[1., 2., 3., 0., 5., 6.]),
        Case::new("lower_shifted", Trilu { upper: false })
            .f32(&[2, 3], &x)
            .input(Tensor::scalar(1i64))
            .gives(&[2, 3], &[1., 2., 0., 4., 5., 6.]),
        Case::new("far_above", Trilu::default())
            .f32(&[1, 2, 1], &[1., 2.])
            .input(Tensor::scalar(i64::MAX))
            .gives(&[1, 2, 1], &[0., 0.]),
    ]
}

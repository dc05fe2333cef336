use qing_tensor::Tensor;

use super::support::softmax::{along, axes_of, infer_softmax};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Values divided by their norm along `axis`: the sum of magnitudes, or the Euclidean length. Zeros stay zeros.
    LpNormalization = "LpNormalization" {
        /// The axis; negative counts from the end.
        axis: i64 = -1,
        /// Order of the norm, 1 or 2.
        p: i64 = 2,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for LpNormalization {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_softmax(cx, self.axis)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let norm: fn(&[f64]) -> f64 = match self.p {
            1 => |line| line.iter().map(|v| v.abs()).sum(),
            2 => |line| line.iter().map(|v| v * v).sum::<f64>().sqrt(),
            p => return Err(OpError::invalid(format!("a norm of order {p}; expected 1 or 2"))),
        };
        let y = along(x, self.axis, false)?.map_lines(&x.to_f64s(), |line, out| {
            let norm = norm(line);
            for (o, v) in out.iter_mut().zip(line) {
                *o = if norm == 0.0 { 0.0 } else { v / norm };
            }
        });
        Ok(vec![Tensor::new(x.shape(), y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dy()?);
        let axes = axes_of(cx.rank(x)?, self.axis, false)?;
        let (norm, along) = match self.p {
            1 => (cx.sum(cx.emit(super::Abs {}, &[x])?, &axes)?, cx.emit(super::Sign {}, &[x])?),
            _ => (cx.sqrt(cx.sum(cx.square(x)?, &axes)?)?, y),
        };
        let across = cx.sub(dy, cx.mul(along, cx.sum(cx.mul(dy, y)?, &axes)?)?)?;
        Ok(vec![Some(cx.masked(cx.above(norm, 0.0)?, cx.div(across, norm)?)?)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("l2", LpNormalization::default())
            .f32(&[2, 2], &[3., -4., 0., 0.])
            .gives(&[2, 2], &[0.6, -0.8, 0., 0.]),
        Case::new("l1", LpNormalization { axis: 0, p: 1 }).f32(&[2, 1], &[1., -3.]).gives(&[2, 1], &[0.25, -0.75]),
    ]
}

use qing_tensor::Tensor;

use super::support::softmax::{along, infer_softmax, upgrade};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// 1 at the first greatest value along `axis`, 0 elsewhere.
    Hardmax = "Hardmax" {
        /// The axis; negative counts from the end.
        axis: i64 = -1,
        /// Whether all axes from `axis` on are one, as they were before opset 13.
        coerced: bool = false,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("it is constant between its steps"),
    cases: cases,
    upgrade: upgrade
}

fn one_hot(line: &[f64], out: &mut [f64]) {
    out.fill(0.0);
    let best = (0..line.len()).fold(0, |best, i| if line[i] > line[best] { i } else { best });
    if let Some(o) = out.get_mut(best) {
        *o = 1.0;
    }
}

impl Op for Hardmax {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_softmax(cx, self.axis)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let y = along(x, self.axis, self.coerced)?.map_lines(&x.to_f64s(), one_hot);
        Ok(vec![Tensor::new(x.shape(), y)?.cast(x.element())])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("last", Hardmax::default())
            .f32(&[2, 3], &[1., 3., 3., 5., 0., 2.])
            .gives(&[2, 3], &[0., 1., 0., 1., 0., 0.]),
        Case::new("coerced", Hardmax { axis: 1, coerced: true })
            .f32(&[1, 2, 2], &[1., 3., 2., 5.])
            .gives(&[1, 2, 2], &[0., 0., 0., 1.]),
    ]
}

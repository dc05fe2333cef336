use qing_tensor::Tensor;

use super::support::{
    dot::centered,
    reduce::{self, Reduction},
};
use crate::{Backward, Gradients, Case, Element, Eval, Gradient, Infer, Op, OpError, Quant, QuantRule, Type, arithmetic, op};

op! {
    /// The mean over `axes`. On quantized values a dot with weights 1, requantized; integers truncate.
    ReduceMean = "ReduceMean" {
        /// Whether reduced axes stay, with size 1.
        keepdims: bool = true,
        /// Whether no axes mean none, rather than all.
        noop_with_empty_axes: bool = false,
    }
    inputs: 1..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: reduce::upgrade
}

impl Op for ReduceMean {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        reduce::infer(cx, self.keepdims, self.noop_with_empty_axes)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let Some(quant) = cx.quant(0) else {
            let mean = Reduction { real: |v| v.iter().sum::<f64>() / v.len() as f64, integer: None };
            return reduce::eval(cx, self.keepdims, self.noop_with_empty_axes, mean);
        };
        let x = cx.input(0)?;
        let (from, to) = (arithmetic::per_tensor(cx.ty(0)?)?, arithmetic::per_tensor(cx.output(0))?);
        let sums = Tensor::new(x.shape(), centered(x, quant))?;
        let inputs = [Some(&sums), cx.optional(1)];
        let total = Reduction { real: |v| v.iter().sum(), integer: Some(|v| v.iter().sum()) };
        let sums = reduce::eval(&Eval { inputs: &inputs, ..*cx }, self.keepdims, self.noop_with_empty_axes, total)?;
        let sums = &sums[0];
        let n = if sums.is_empty() { 1 } else { x.len() / sums.len() };
        let scale = arithmetic::mean_scale(from.scale, n, to.scale);
        let values = sums
            .to_i64s()
            .into_iter()
            .map(|sum| {
                let acc = i32::try_from(sum).map_err(|_| OpError::unsupported("a mean of too many values for 32 bits"))?;
                Ok(arithmetic::requantize(acc, scale, to.zero, to.lo, to.hi))
            })
            .collect::<Result<Vec<i32>, OpError>>()?;
        Ok(vec![Tensor::from_ints(cx.output(0).element, sums.shape(), &values)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Mean
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        reduce::gradient(cx, self.noop_with_empty_axes, |cx, at| {
            cx.expand(cx.scale(at.dy, 1.0 / at.count as f64)?, &cx.shape(at.x)?)
        })
    }
}

fn cases() -> Vec<Case> {
    let u8s = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::U8, shape, v).expect("fits");
    let quant = |scale, zero| Quant::per_tensor(scale, zero).expect("valid");
    vec![
        Case::new("last_axis", ReduceMean { keepdims: false, ..ReduceMean::default() })
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .i64s(&[-1])
            .gives(&[2], &[1.5, 3.5]),
        Case::new("all", ReduceMean::default()).f32(&[2, 2], &[1., 2., 3., 6.]).gives(&[1, 1], &[3.]),
        // Sums of q − zero are 3 and −6; halved, and doubled by the scales.
        Case::new("quantized", ReduceMean::default())
            .quantized_input(u8s(&[2, 2], &[11, 12, 6, 8]), quant(0.5, 10))
            .i64s(&[1])
            .quantized_output(u8s(&[2, 1], &[103, 94]), quant(0.25, 100)),
    ]
}

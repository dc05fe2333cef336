use std::cmp::Ordering;

use qing_tensor::Tensor;

use super::support::arg::{eval_arg, infer_arg};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Where along `axis` the least value is, as i64. On quantized values it compares integers.
    ArgMin = "ArgMin" {
        /// The axis; negative counts from the end.
        axis: i64 = 0,
        /// Whether the axis stays, with size 1.
        keepdims: bool = true,
        /// Whether the last of equal values wins, rather than the first.
        select_last_index: bool = false,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("an index does not vary smoothly"),
    cases: cases
}

impl Op for ArgMin {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_arg(cx, self.axis, self.keepdims)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        eval_arg(cx.input(0)?, self.axis, self.keepdims, self.select_last_index, Ordering::Less)
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }
}

fn cases() -> Vec<Case> {
    let values = [1., 3., 3., 5., 0., 2.];
    let indices = |shape: &[usize], v: [i64; 2]| Tensor::new(shape, v.to_vec()).expect("fits");
    vec![
        Case::new("last_axis", ArgMin { axis: -1, ..ArgMin::default() })
            .f32(&[2, 3], &values)
            .output(indices(&[2, 1], [0, 1])),
        Case::new("ties", ArgMin { axis: 1, keepdims: false, select_last_index: true })
            .f32(&[2, 3], &values)
            .output(indices(&[2], [0, 1])),
    ]
}

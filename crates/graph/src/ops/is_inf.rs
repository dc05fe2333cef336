use qing_tensor::Tensor;

use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Whether a value is infinite.
    IsInf = "IsInf" {
        /// Whether −∞ counts.
        detect_negative: bool = true,
        /// Whether +∞ counts.
        detect_positive: bool = true,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("a truth value does not vary smoothly"),
    cases: cases
}

impl Op for IsInf {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(Element::Bool, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let counts = |v: f64| v.is_infinite() && if v > 0.0 { self.detect_positive } else { self.detect_negative };
        let values: Vec<bool> = x.to_f64s().into_iter().map(counts).collect();
        Ok(vec![Tensor::from_bools(x.shape(), &values)?])
    }
}

fn cases() -> Vec<Case> {
    let values = [1., f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let bools = |v: &[bool]| Tensor::from_bools(&[4], v).expect("fits");
    vec![
        Case::new("both", IsInf::default()).f32(&[4], &values).output(bools(&[false, false, true, true])),
        Case::new("positive", IsInf { detect_negative: false, ..IsInf::default() })
            .f32(&[4], &values)
            .output(bools(&[false, false, true, false])),
    ]
}

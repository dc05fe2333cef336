use qing_tensor::{Element, Tensor, element_count};

use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Legacy, Op, OpError, QuantRule, Type, op};

op! {
    /// Its input, unchanged, and a mask that is true everywhere. Dropping values at random, as training does, is refused.
    Dropout = "Dropout" {
        /// Seed of the random numbers that training would use.
        seed: i64 = 0,
    }
    inputs: 1..=3, outputs: 1..=2,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 12 the ratio was an attribute, and before opset 7 a flag said that this is a test.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    for name in ["consumed_inputs", "is_test"] {
        node.attrs.remove(name);
    }
    if node.opset < 12 {
        node.attrs.remove("ratio");
    }
    Ok(())
}

impl Op for Dropout {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        Ok(vec![x.clone(), Type::maybe(Element::Bool, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let ratio = cx.optional(1).and_then(|t| t.to_f64s().first().copied()).unwrap_or(0.5);
        let training = cx.optional(2).is_some_and(|t| t.to_bools().contains(&true));
        if training && ratio != 0.0 {
            return Err(OpError::unsupported(format!("dropping {ratio} of the values at random")));
        }
        let mask = Tensor::from_bools(x.shape(), &vec![true; element_count(x.shape())?])?;
        Ok(vec![x.clone(), mask])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.dy()?), None, None])
    }
}

fn cases() -> Vec<Case> {
    let mask = Tensor::from_bools(&[2], &[true, true]).expect("fits");
    vec![
        Case::new("inference", Dropout::default()).f32(&[2], &[1., -2.]).gives(&[2], &[1., -2.]).output(mask.clone()),
        Case::new("ratio_zero", Dropout::default())
            .f32(&[2], &[1., -2.])
            .input(Tensor::scalar(0.0f32))
            .input(Tensor::from_bools(&[], &[true]).expect("fits"))
            .gives(&[2], &[1., -2.])
            .output(mask),
    ]
}

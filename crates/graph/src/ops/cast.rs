use qing_tensor::{Element, Tensor};

use super::support::data_type::element_of;
use crate::{Backward, Gradients, AttrValue, Case, Eval, Gradient, Infer, Legacy, Op, OpError, Type, op};

op! {
    /// The same numbers as another element: floats to integers truncate, everything to bool is `≠ 0`.
    Cast = "Cast" {
        /// How floats round to a float of eight bits; of no effect on the elements qing has.
        round_mode: String = "up".into(),
        /// Whether to saturate to a float of eight bits; of no effect on the elements qing has.
        saturate: bool = true,
        /// The element, as ONNX numbers it.
        to: i64 = 1,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 6 the element was a name.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    const NAMES: &[&str] = &[
        "", "FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "STRING", "BOOL", "FLOAT16", "DOUBLE",
        "UINT32", "UINT64",
    ];
    if let Some(AttrValue::String(name)) = node.attrs.get("to") {
        let code = NAMES
            .iter()
            .position(|n| *n == name)
            .ok_or_else(|| OpError::invalid(format!("a cast to {name:?}")))?;
        node.attrs.set("to", AttrValue::Int(code as i64));
    }
    Ok(())
}

impl Op for Cast {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::maybe(element_of(self.to)?, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![cx.input(0)?.cast(element_of(self.to)?)])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, dy) = (cx.input(0)?, cx.dy()?);
        Ok(vec![cx.wanted(0, || cx.cast_like(dy, x))?])
    }
}

fn cases() -> Vec<Case> {
    let to = |code| Cast { to: code, ..Cast::default() };
    let int4 = Element::Bits { width: 4, signed: true };
    vec![
        Case::new("f32_to_i64", to(7)).f32(&[3], &[-1.7, 0., 2.9]).output(Tensor::vector(vec![-1i64, 0, 2])),
        Case::new("i64_to_f32", to(1)).i64s(&[-3, 1 << 24]).gives(&[2], &[-3., 16_777_216.]),
        Case::new("f32_to_bool", to(9))
            .f32(&[3], &[0., -0.5, f32::NAN])
            .output(Tensor::from_bools(&[3], &[false, true, true]).expect("fits")),
        Case::new("i64_to_i4", to(22)).i64s(&[-8, 7]).output(Tensor::from_ints(int4, &[2], &[-8, 7]).expect("fits")),
    ]
}

use qing_tensor::Tensor;

use super::support::elementwise::{bitwise, infer_arithmetic};
use crate::{Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Unsigned integers shifted by the bits that a second input says, with broadcasting; what leaves the element is lost.
    BitShift = "BitShift" {
        /// `LEFT` or `RIGHT`.
        direction: String = String::new(),
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::None("bits do not vary smoothly"),
    cases: cases
}

impl BitShift {
    fn left(&self) -> Result<bool, OpError> {
        match self.direction.as_str() {
            "LEFT" => Ok(true),
            "RIGHT" => Ok(false),
            other => Err(OpError::invalid(format!("direction {other:?}; expected LEFT or RIGHT"))),
        }
    }
}

impl Op for BitShift {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        self.left()?;
        infer_arithmetic(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, by) = (cx.input(0)?, cx.input(1)?);
        let shifted = if self.left()? {
            bitwise(x, by, |a, n| if (0..64).contains(&n) { a << n } else { 0 })?
        } else {
            bitwise(x, by, |a, n| if (0..64).contains(&n) { a >> n } else { 0 })?
        };
        Ok(vec![shifted])
    }
}

fn cases() -> Vec<Case> {
    let to = |direction: &str| BitShift { direction: direction.into() };
    let u8s = |v: [u8; 2]| Tensor::vector(v.to_vec());
    vec![
        Case::new("left", to("LEFT")).input(u8s([3, 255])).input(u8s([2, 1])).output(u8s([12, 254])),
        Case::new("right", to("RIGHT")).input(u8s([12, 255])).input(u8s([2, 7])).output(u8s([3, 1])),
    ]
}

use qing_tensor::Tensor;

use crate::{Case, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// The value that its one attribute holds.
    Constant = "Constant" {
        /// Any tensor.
        value: Option<Tensor> = None,
        /// A scalar f32.
        value_float: Option<f32> = None,
        /// A vector of f32.
        value_floats: Option<Vec<f32>> = None,
        /// A scalar i64.
        value_int: Option<i64> = None,
        /// A vector of i64.
        value_ints: Option<Vec<i64>> = None,
    }
    inputs: 0..=0, outputs: 1..=1,
    gradient: Gradient::None("a constant depends on nothing"),
    cases: cases
}

impl Constant {
    /// The value.
    ///
    /// # Errors
    /// If there is not exactly one attribute.
    pub fn tensor(&self) -> Result<Tensor, OpError> {
        let values = [
            self.value.clone(),
            self.value_float.map(Tensor::scalar),
            self.value_floats.clone().map(Tensor::vector),
            self.value_int.map(Tensor::scalar),
            self.value_ints.clone().map(Tensor::vector),
        ];
        let mut given = values.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(OpError::invalid("expected exactly one of value, value_float(s) and value_int(s)")),
        }
    }
}

impl Op for Constant {
    fn infer(&self, _: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let value = self.tensor()?;
        Ok(vec![Type::new(value.element(), value.shape().iter().copied())])
    }

    fn eval(&self, _: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![self.tensor()?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn value_of_types(&self, _: &Infer<'_>) -> Option<Tensor> {
        self.tensor().ok()
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("tensor", Constant { value: Some(Tensor::vector(vec![1u8, 7])), ..Constant::default() })
            .output(Tensor::vector(vec![1u8, 7])),
        Case::new("ints", Constant { value_ints: Some(vec![3, -4]), ..Constant::default() })
            .output(Tensor::vector(vec![3i64, -4])),
        Case::new("float", Constant { value_float: Some(0.5), ..Constant::default() }).gives(&[], &[0.5]),
    ]
}

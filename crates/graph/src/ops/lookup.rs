use super::support::elementwise;
use crate::{Case, Element, Eval, Gradient, Infer, Op, OpError, Quant, QuantRule, Tensor, Type, op};

op! {
    /// A function of a quantized value that is given by its results: the integer of the output for every integer that the
    /// input's type has, from the least on. The engine writes what many nodes make of one value as such a table.
    Lookup = "Lookup" in "qing" {
        /// The results.
        table: Vec<i64> = vec![],
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("it is made of a graph that was trained"),
    cases: cases
}

impl Op for Lookup {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        // The output's element and quantization are assigned, not inferred.
        Ok(vec![Type::maybe(Element::U8, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![elementwise::lookup(self, cx.input(0)?, cx.ty(0)?, cx.output(0))?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Table
    }

    fn table(&self, x: &Type, y: &Type) -> Result<Option<Vec<i32>>, OpError> {
        let (Some((lo, hi)), Some((low, high))) = (x.range(), y.range()) else { return Ok(None) };
        if self.table.len() as i64 != i64::from(hi) - i64::from(lo) + 1 {
            return Err(OpError::invalid(format!("a table of {} entries for {lo} … {hi}", self.table.len())));
        }
        let entry = |q: &i64| i32::try_from(*q).ok().filter(|q| (low..=high).contains(q));
        let table: Option<Vec<i32>> = self.table.iter().map(entry).collect();
        table.map(Some).ok_or_else(|| OpError::invalid(format!("a table with entries outside {low} … {high}")))
    }
}

fn cases() -> Vec<Case> {
    let q = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let i2 = Element::integer(2, true).expect("a width");
    vec![
        Case::new("square", Lookup { table: vec![4, 1, 0, 1] })
            .quantized_input(Tensor::from_ints(i2, &[4], &[1, -2, 0, -1]).expect("fits"), q(0.5, 0))
            .quantized_output(Tensor::from_ints(Element::U8, &[4], &[1, 4, 0, 1]).expect("fits"), q(0.25, 0)),
    ]
}

use qing_tensor::Tensor;

use super::support::{REQUIRED, axes::normalize, elementwise::table_lookup, movement::concatenated};
use crate::{Backward, Gradients, Case, Dim, Element, Eval, Gradient, Infer, Legacy, Op, OpError, Quant, QuantRule, Type, arithmetic, op};

op! {
    /// Its inputs side by side along an axis. Quantized inputs are rescaled to the quantization of the output, one tap each.
    Concat = "Concat" {
        /// The axis along which inputs may differ; negative counts from the end.
        axis: i64 = REQUIRED,
    }
    inputs: 1..=usize::MAX, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 4 the axis was 1 if absent.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    if node.opset < 4 && node.attrs.get("axis").is_none() {
        node.attrs.set("axis", crate::AttrValue::Int(1));
    }
    Ok(())
}

impl Op for Concat {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let first = cx.ty(0)?;
        let mut shape: Option<Vec<Dim>> = None;
        for i in 0..cx.types.len() {
            let Some(dims) = cx.shape(i)? else { return Ok(vec![first.with_shape(None)]) };
            let Some(sum) = &mut shape else {
                normalize(self.axis, dims.len())?;
                shape = Some(dims.to_vec());
                continue;
            };
            if sum.len() != dims.len() {
                return Err(OpError::invalid(format!("inputs of ranks {} and {}", sum.len(), dims.len())));
            }
            let axis = normalize(self.axis, sum.len())?;
            for (j, (a, b)) in sum.iter_mut().zip(dims).enumerate() {
                *a = match (a.known(), b.known()) {
                    (Some(m), Some(n)) if j == axis => Dim::Known(m.saturating_add(n)),
                    _ if j == axis => Dim::Unknown,
                    (Some(m), Some(n)) if m != n => {
                        return Err(OpError::invalid(format!("inputs with {m} and {n} values along axis {j}")));
                    }
                    (None, _) => b.clone(),
                    _ => a.clone(),
                };
            }
        }
        Ok(vec![first.with_shape(shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let axis = normalize(self.axis, cx.input(0)?.rank())?;
        let parts = (0..cx.inputs.len())
            .map(|i| {
                let part = cx.input(i)?;
                if cx.quant(i).is_none() {
                    return Ok(part.clone());
                }
                let table = arithmetic::rescale_table(cx.ty(i)?, cx.output(0), f32::NEG_INFINITY, f32::INFINITY)?;
                table_lookup(&table, part, cx.ty(i)?, cx.output(0).element)
            })
            .collect::<Result<Vec<Tensor>, OpError>>()?;
        Ok(vec![concatenated(&parts, axis)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Rescale
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let dy = cx.dy()?;
        let mut start = 0;
        let mut parts = vec![];
        for i in 0..cx.inputs() {
            let shape = cx.shape(cx.input(i)?)?;
            let axis = normalize(self.axis, shape.len())?;
            let end = start + shape[axis];
            parts.push(cx.wanted(i, || cx.slice(dy, axis, start, end))?);
            start = end;
        }
        Ok(parts)
    }
}

fn cases() -> Vec<Case> {
    let q = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let ints = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::U8, shape, v).expect("fits");
    vec![
        Case::new("last_axis", Concat { axis: -1 })
            .f32(&[2, 1], &[1., 2.])
            .f32(&[2, 2], &[3., 4., 5., 6.])
            .gives(&[2, 3], &[1., 3., 4., 2., 5., 6.]),
        Case::new("i64", Concat { axis: 0 }).i64s(&[1]).i64s(&[2, 3]).output(Tensor::vector(vec![1i64, 2, 3])),
        // The second input is 0.5·(q − 2): 1.5, −1, 126.5; at scale 1 and zero point 10 that is 12, 9, 136 (ties to even).
        Case::new("quantized", Concat { axis: 0 })
            .quantized_input(ints(&[2], &[7, 255]), q(1.0, 10))
            .quantized_input(ints(&[3], &[5, 0, 255]), q(0.5, 2))
            .quantized_output(ints(&[5], &[7, 255, 12, 9, 136]), q(1.0, 10)),
    ]
}

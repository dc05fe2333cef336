use std::cmp::Ordering;

use qing_tensor::{Element, Tensor};

use super::support::{
    axes::{Along, normalize},
    order::sort_indices,
};
use crate::{Backward, Gradients, AttrValue, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, QuantRule, Type, op};

op! {
    /// The `K` greatest (or least) values along an axis, in order, and where they were; of equal ones the first counts.
    TopK = "TopK" {
        /// The axis; negative counts from the end.
        axis: i64 = -1,
        /// Whether the greatest are wanted, rather than the least.
        largest: bool = true,
        /// Whether the result must be in order; here it always is.
        sorted: bool = true,
    }
    inputs: 2..=2, outputs: 1..=2,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 10 `k` was an attribute.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    if let Some(AttrValue::Int(k)) = node.attrs.remove("k") {
        node.constant(1, "k", Tensor::vector(vec![k]));
    }
    Ok(())
}

fn count(k: &Tensor) -> Result<usize, OpError> {
    match k.to_i64s()[..] {
        [k] => usize::try_from(k).map_err(|_| OpError::invalid(format!("K is {k}"))),
        _ => Err(OpError::invalid(format!("K of shape {:?}; expected one value", k.shape()))),
    }
}

impl Op for TopK {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let k = cx.constant(1).map(count).transpose()?;
        let shape = match &x.shape {
            None => None,
            Some(dims) => {
                let axis = normalize(self.axis, dims.len())?;
                let mut shape = dims.clone();
                shape[axis] = k.map_or(Dim::Unknown, Dim::Known);
                Some(shape)
            }
        };
        Ok(vec![x.with_shape(shape.clone()), Type::maybe(Element::I64, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, k) = (cx.input(0)?, count(cx.input(1)?)?);
        let axis = normalize(self.axis, x.rank())?;
        let along = Along::new(x.shape(), axis);
        if k > along.length {
            return Err(OpError::invalid(format!("the top {k} of {} values", along.length)));
        }
        // Floats as f64 and integers as i64 keep their order; with the highest bit flipped so does u64.
        let reals = if x.element().is_float() { x.to_f64s() } else { vec![] };
        let flip = if x.element() == Element::U64 { i64::MIN } else { 0 };
        let integers: Vec<i64> = if reals.is_empty() { x.to_i64s().iter().map(|v| v ^ flip).collect() } else { vec![] };
        let mut order: Vec<usize> = vec![];
        for (o, n) in (0..along.outer).flat_map(|o| (0..along.inner).map(move |n| (o, n))) {
            let mut line: Vec<usize> = (0..along.length).map(|i| (o * along.length + i) * along.inner + n).collect();
            // A stable sort keeps the first of equal values first.
            sort_indices(&mut line, &|a, b| {
                let order = match integers.is_empty() {
                    true => reals[a].partial_cmp(&reals[b]).unwrap_or(Ordering::Equal),
                    false => integers[a].cmp(&integers[b]),
                };
                if self.largest { order.reverse() } else { order }
            });
            order.extend(&line[..k]);
        }
        // Lines were listed one after another; the axis belongs where it was.
        let mut shape = x.shape().to_vec();
        shape[axis] = k;
        let mut picked = Vec::with_capacity(order.len());
        for o in 0..along.outer {
            for (i, n) in (0..k).flat_map(|i| (0..along.inner).map(move |n| (i, n))) {
                picked.push(order[(o * along.inner + n) * k + i]);
            }
        }
        let positions = picked.iter().map(|p| (p / along.inner % along.length) as i64).collect();
        Ok(vec![x.take(&shape, picked)?, Tensor::new::<i64>(&shape, positions)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let x = cx.input(0)?;
        let places = match cx.output(1) {
            Ok(places) => places,
            Err(_) => cx.emit_all(self.clone(), &[Some(x), cx.optional(1)], 2)?[1],
        };
        let op = super::ScatterElements { axis: self.axis, reduction: "add".into() };
        Ok(vec![Some(cx.emit(op, &[cx.zeros_like(x)?, places, cx.dy()?])?), None])
    }
}

fn cases() -> Vec<Case> {
    let indices = |shape: &[usize], v: Vec<i64>| Tensor::new(shape, v).expect("fits");
    vec![
        Case::new("largest", TopK::default())
            .f32(&[2, 3], &[1., 3., 3., 5., 0., 2.])
            .i64s(&[2])
            .gives(&[2, 2], &[3., 3., 5., 2.])
            .output(indices(&[2, 2], vec![1, 2, 0, 2])),
        Case::new("smallest_first_axis", TopK { axis: 0, largest: false, sorted: true })
            .f32(&[2, 2], &[1., 3., 0., 5.])
            .i64s(&[1])
            .gives(&[1, 2], &[0., 3.])
            .output(indices(&[1, 2], vec![1, 0])),
    ]
}

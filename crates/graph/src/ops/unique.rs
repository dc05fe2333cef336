use std::cmp::Ordering;

use qing_tensor::Tensor;

use super::support::axes::{Along, normalize};
use crate::{Case, Dim, Element, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The distinct values, or distinct slices along an axis. Further outputs: where each is first, which one every input is,
    /// and how often each occurs.
    Unique = "Unique" {
        /// The axis of the slices; negative counts from the end. Without one the values count.
        axis: Option<i64> = None,
        /// Whether the result is in ascending order, rather than that of first occurrence.
        sorted: bool = true,
    }
    inputs: 1..=1, outputs: 1..=4,
    gradient: Gradient::None("the number of values jumps"),
    cases: cases
}

/// Numbers that compare exactly.
enum Values {
    Real(Vec<f64>),
    Integer(Vec<i64>),
}

impl Values {
    fn compare(&self, i: usize, j: usize) -> Ordering {
        match self {
            Values::Real(v) => v[i].total_cmp(&v[j]),
            Values::Integer(v) => v[i].cmp(&v[j]),
        }
    }
}

impl Op for Unique {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (self.axis, &x.shape) {
            (None, _) => Some(vec![Dim::Unknown]),
            (Some(_), None) => None,
            (Some(axis), Some(dims)) => {
                let mut shape = dims.clone();
                shape[normalize(axis, dims.len())?] = Dim::Unknown;
                Some(shape)
            }
        };
        let vector = Type::new(Element::I64, [Dim::Unknown]);
        Ok(vec![Type::maybe(x.element, shape), vector.clone(), vector.clone(), vector])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let mut shape = if self.axis.is_some() { x.shape().to_vec() } else { vec![x.len()] };
        let axis = normalize(self.axis.unwrap_or(0), shape.len())?;
        let Along { outer, length, inner } = Along::new(&shape, axis);
        let values = if x.element().is_float() { Values::Real(x.to_f64s()) } else { Values::Integer(x.to_i64s()) };
        let element = |slice: usize, k: usize| (k / inner * length + slice) * inner + k % inner;
        let compare = |a: usize, b: usize| {
            (0..outer * inner)
                .map(|k| values.compare(element(a, k), element(b, k)))
                .find(|o| o.is_ne())
                .unwrap_or(Ordering::Equal)
        };
        let mut order: Vec<usize> = (0..length).collect();
        order.sort_by(|a, b| compare(*a, *b));
        // Equal slices stand side by side, the first occurrence first.
        let mut groups: Vec<Vec<usize>> = vec![];
        for slice in order {
            match groups.last_mut() {
                Some(group) if compare(group[0], slice).is_eq() => group.push(slice),
                _ => groups.push(vec![slice]),
            }
        }
        if !self.sorted {
            groups.sort_by_key(|group| group[0]);
        }
        let mut inverse = vec![0i64; length];
        for (i, group) in groups.iter().enumerate() {
            group.iter().for_each(|slice| inverse[*slice] = i as i64);
        }
        shape[axis] = groups.len();
        let mut from = vec![];
        for o in 0..outer {
            for group in &groups {
                from.extend((0..inner).map(|n| (o * length + group[0]) * inner + n));
            }
        }
        Ok(vec![
            x.take(&shape, from)?,
            Tensor::vector(groups.iter().map(|g| g[0] as i64).collect()),
            Tensor::vector(inverse),
            Tensor::vector(groups.iter().map(|g| g.len() as i64).collect()),
        ])
    }
}

fn cases() -> Vec<Case> {
    let i = |v: &[i64]| Tensor::vector(v.to_vec());
    vec![
        Case::new("sorted", Unique::default())
            .f32(&[4], &[2., 1., 1., 3.])
            .gives(&[3], &[1., 2., 3.])
            .output(i(&[1, 0, 3]))
            .output(i(&[1, 0, 0, 2]))
            .output(i(&[2, 1, 1])),
        Case::new("in_order", Unique { sorted: false, ..Unique::default() })
            .f32(&[4], &[2., 1., 1., 3.])
            .gives(&[3], &[2., 1., 3.])
            .output(i(&[0, 1, 3])),
        Case::new("rows", Unique { axis: Some(0), ..Unique::default() })
            .input(Tensor::new(&[3, 2], vec![1i32, 0, 1, 0, 0, 5]).expect("fits"))
            .output(Tensor::new(&[2, 2], vec![0i32, 5, 1, 0]).expect("fits")),
    ]
}

use qing_tensor::Tensor;

use crate::{Case, Dim, Element, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// The dimensions of its input, or those from `start` to `end`, as i64.
    Shape = "Shape" {
        /// First axis; negative counts from the end.
        start: i64 = 0,
        /// One past the last axis; negative counts from the end; the rank if absent.
        end: Option<i64> = None,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("a shape does not depend on values"),
    cases: cases
}

impl Shape {
    fn slice<'a, T>(&self, dims: &'a [T]) -> &'a [T] {
        let rank = dims.len() as i64;
        let clamp = |axis: i64| (if axis < 0 { axis.saturating_add(rank) } else { axis }).clamp(0, rank) as usize;
        let (start, end) = (clamp(self.start), clamp(self.end.unwrap_or(rank)));
        &dims[start..end.max(start)]
    }
}

impl Op for Shape {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let length = cx.shape(0)?.map_or(Dim::Unknown, |s| Dim::Known(self.slice(s).len()));
        Ok(vec![Type::new(Element::I64, [length])])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let dims: Vec<i64> = cx.input(0)?.shape().iter().map(|d| *d as i64).collect();
        Ok(vec![Tensor::vector(self.slice(&dims).to_vec())])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn value_of_types(&self, cx: &Infer<'_>) -> Option<Tensor> {
        let dims: Option<Vec<i64>> =
            self.slice(cx.shape(0).ok()??).iter().map(|d| d.known().map(|n| n as i64)).collect();
        dims.map(Tensor::vector)
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("all", Shape::default()).f32(&[1, 3, 2], &[0.; 6]).output(Tensor::vector(vec![1i64, 3, 2])),
        Case::new("tail", Shape { start: -2, end: None })
            .f32(&[1, 3, 2], &[0.; 6])
            .output(Tensor::vector(vec![3i64, 2])),
    ]
}

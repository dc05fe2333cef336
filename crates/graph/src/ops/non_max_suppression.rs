use qing_tensor::Tensor;

use super::support::{order::sort_indices, sizes::single};
use crate::{Case, Dim, Element, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The boxes that no better box of the same class overlaps. Inputs: boxes `[batch, boxes, 4]`, scores
    /// `[batch, classes, boxes]`, most boxes a class (0 if absent), the overlap above which a box is suppressed (0 if absent)
    /// and the score it must exceed. Gives rows of batch, class and box.
    NonMaxSuppression = "NonMaxSuppression" {
        /// Whether a box is centre x, centre y, width and height, rather than y and x of two opposite corners.
        center_point_box: bool = false,
    }
    inputs: 2..=5, outputs: 1..=1,
    gradient: Gradient::None("indices are integers"),
    cases: cases
}

/// A box as its lower and upper y, then its lower and upper x.
type Corners = [f64; 4];

/// Intersection over union.
fn overlap(a: Corners, b: Corners) -> f64 {
    let side = |low: f64, high: f64| (high - low).max(0.0);
    let area = |c: Corners| side(c[0], c[1]) * side(c[2], c[3]);
    let inside = side(a[0].max(b[0]), a[1].min(b[1])) * side(a[2].max(b[2]), a[3].min(b[3]));
    let union = area(a) + area(b) - inside;
    if inside <= 0.0 || union <= 0.0 { 0.0 } else { inside / union }
}

impl NonMaxSuppression {
    fn corners(&self, b: &[f64]) -> Corners {
        if self.center_point_box {
            [b[1] - b[3] / 2.0, b[1] + b[3] / 2.0, b[0] - b[2] / 2.0, b[0] + b[2] / 2.0]
        } else {
            [b[0].min(b[2]), b[0].max(b[2]), b[1].min(b[3]), b[1].max(b[3])]
        }
    }
}

impl Op for NonMaxSuppression {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        cx.ty(1)?;
        Ok(vec![Type::new(Element::I64, [Dim::Unknown, Dim::Known(3)])])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (boxes, scores) = (cx.input(0)?, cx.input(1)?);
        let (&[batch, count, 4], &[batch_of_scores, classes, count_of_scores]) = (boxes.shape(), scores.shape()) else {
            return Err(OpError::invalid(format!("boxes {:?} and scores {:?}", boxes.shape(), scores.shape())));
        };
        if batch != batch_of_scores || count != count_of_scores {
            return Err(OpError::invalid(format!("boxes {:?} and scores {:?}", boxes.shape(), scores.shape())));
        }
        let threshold = |i: usize| cx.optional(i).and_then(|t| t.to_f64s().first().copied());
        let most = cx.optional(2).filter(|t| !t.is_empty()).map_or(Ok(0), |t| single(t, "the most boxes"))?;
        let (most_overlap, least_score) = (threshold(3).unwrap_or(0.0), threshold(4));
        let corners: Vec<Corners> = boxes.to_f64s().chunks_exact(4).map(|b| self.corners(b)).collect();
        let scores = scores.to_f64s();
        let mut rows: Vec<i64> = vec![];
        for (b, class) in (0..batch).flat_map(|b| (0..classes).map(move |c| (b, c))) {
            let scores = &scores[(b * classes + class) * count..][..count];
            let mut order: Vec<usize> = (0..count).filter(|i| least_score.is_none_or(|t| scores[*i] > t)).collect();
            // Best first; of equals, the one named first.
            sort_indices(&mut order, &|i, j| scores[j].total_cmp(&scores[i]));
            let mut kept: Vec<usize> = vec![];
            for i in order {
                if kept.len() as i64 >= most {
                    break;
                }
                let at = |i: usize| corners[b * count + i];
                if kept.iter().all(|k| overlap(at(i), at(*k)) <= most_overlap) {
                    kept.push(i);
                    rows.extend([b as i64, class as i64, i as i64]);
                }
            }
        }
        Ok(vec![Tensor::new(&[rows.len() / 3, 3], rows)?])
    }
}

fn cases() -> Vec<Case> {
    let case = |name: &str, op: NonMaxSuppression, boxes: [f32; 12], most: i64, rows: &[i64]| {
        Case::new(name, op)
            .f32(&[1, 3, 4], &boxes)
            .f32(&[1, 1, 3], &[0.5, 0.9, 0.8])
            .i64s(&[most])
            .f32(&[1], &[0.4])
            .f32(&[1], &[0.1])
            .output(Tensor::new(&[rows.len() / 3, 3], rows.to_vec()).expect("fits"))
    };
    // The second box covers half of the first; the third lies apart. Corners may be given in any order.
    let boxes = [0., 0., 1., 2., 1., 1., 0., 0., 5., 5., 6., 6.];
    vec![
        case("overlapping", NonMaxSuppression::default(), boxes, 9, &[0, 0, 1, 0, 0, 2]),
        case("at_most_one", NonMaxSuppression::default(), boxes, 1, &[0, 0, 1]),
        case(
            "centres",
            NonMaxSuppression { center_point_box: true },
            [1., 0.5, 2., 1., 0.5, 0.5, 1., 1., 5.5, 5.5, 1., 1.],
            9,
            &[0, 0, 1, 0, 0, 2],
        ),
    ]
}

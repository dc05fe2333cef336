use qing_tensor::{Tensor, strides};

use super::support::{axes::normalize_all, movement::{gradient_of_moved, strided}};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, QuantRule, Type, op};

op! {
    /// Every `steps`-th value from `starts` to before `ends` along `axes` (all of them, in order, if absent). Negative
    /// positions count from the end; positions outside are clamped; negative steps walk backwards.
    Slice = "Slice" {}
    inputs: 3..=5, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 10 everything was an attribute.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    for (i, name) in ["starts", "ends", "axes"].into_iter().enumerate() {
        node.ints_to_input(name, i + 1)?;
    }
    Ok(())
}

/// What one axis keeps: `count` values from `start` on, `step` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First value kept.
    pub start: usize,
    /// Distance to the next.
    pub step: isize,
    /// How many are kept.
    pub count: usize,
}

impl Span {
    fn new(size: usize, start: i64, end: i64, step: i64) -> Result<Span, OpError> {
        if step == 0 {
            return Err(OpError::invalid("a step of 0"));
        }
        let n = size as i64;
        let absolute = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        let (start, end) = (absolute(start), absolute(end));
        let (start, distance) = if step > 0 {
            let start = start.clamp(0, n);
            (start, end.clamp(0, n) - start)
        } else {
            let start = start.clamp(-1, n - 1);
            (start, start - end.clamp(-1, n - 1))
        };
        let count = distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
        Ok(Span { start: start.max(0) as usize, step: step as isize, count: count as usize })
    }
}

/// Starts, ends, axes and steps as given, one entry an axis that is cut.
struct Cut {
    axis: usize,
    start: i64,
    end: i64,
    step: i64,
}

fn cuts(
    rank: usize,
    starts: &Tensor,
    ends: &Tensor,
    axes: Option<&Tensor>,
    steps: Option<&Tensor>,
) -> Result<Vec<Cut>, OpError> {
    let (starts, ends) = (starts.to_i64s(), ends.to_i64s());
    let axes = axes.map_or_else(|| (0..starts.len() as i64).collect(), Tensor::to_i64s);
    let axes = normalize_all(&axes, rank)?;
    let steps = steps.map_or_else(|| vec![1; starts.len()], Tensor::to_i64s);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        let (a, b, c, d) = (starts.len(), ends.len(), axes.len(), steps.len());
        return Err(OpError::invalid(format!("{a} starts, {b} ends, {c} axes and {d} steps")));
    }
    Ok((0..starts.len()).map(|i| Cut { axis: axes[i], start: starts[i], end: ends[i], step: steps[i] }).collect())
}

impl Slice {
    /// What every axis of an input of `shape` keeps.
    ///
    /// # Errors
    /// If starts, ends, axes and steps do not fit each other or the shape.
    pub fn spans(
        shape: &[usize],
        starts: &Tensor,
        ends: &Tensor,
        axes: Option<&Tensor>,
        steps: Option<&Tensor>,
    ) -> Result<Vec<Span>, OpError> {
        let mut spans: Vec<Span> = shape.iter().map(|n| Span { start: 0, step: 1, count: *n }).collect();
        for cut in cuts(shape.len(), starts, ends, axes, steps)? {
            spans[cut.axis] = Span::new(shape[cut.axis], cut.start, cut.end, cut.step)?;
        }
        Ok(spans)
    }
}

impl Op for Slice {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else { return Ok(vec![x.with_shape(None)]) };
        let unknown = |i: usize| cx.optional(i).is_some() && cx.constant(i).is_none();
        let (Some(starts), Some(ends), false, false) = (cx.constant(1), cx.constant(2), unknown(3), unknown(4)) else {
            // Axes that are not named stay as they are.
            let mut shape = dims.clone();
            let all: Vec<usize> = (0..dims.len()).collect();
            let cut = match cx.constant(3) {
                Some(axes) => normalize_all(&axes.to_i64s(), dims.len())?,
                None => all,
            };
            cut.into_iter().for_each(|i| shape[i] = Dim::Unknown);
            return Ok(vec![x.with_shape(Some(shape))]);
        };
        let mut shape = dims.clone();
        for cut in cuts(dims.len(), starts, ends, cx.constant(3), cx.constant(4))? {
            let whole = cut.start == 0 && cut.step == 1 && cut.end >= i64::from(i32::MAX);
            shape[cut.axis] = match dims[cut.axis].known() {
                Some(size) => Dim::Known(Span::new(size, cut.start, cut.end, cut.step)?.count),
                None if whole => dims[cut.axis].clone(),
                None => Dim::Unknown,
            };
        }
        Ok(vec![x.with_shape(Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let spans = Slice::spans(x.shape(), cx.input(1)?, cx.input(2)?, cx.optional(3), cx.optional(4))?;
        let own = strides(x.shape());
        let shape: Vec<usize> = spans.iter().map(|s| s.count).collect();
        let base = spans.iter().zip(&own).map(|(s, n)| s.start * n).sum();
        // A step beyond the axis keeps one value; its size does not matter then.
        let steps: Vec<isize> = spans.iter().zip(&own).map(|(s, n)| s.step.saturating_mul(*n as isize)).collect();
        Ok(vec![x.take(&shape, strided(&shape, base, &steps))?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, dy) = (cx.input(0)?, cx.dy()?);
        let shape = cx.shape(x)?;
        let (axes, steps) = (cx.optional_constant(3)?, cx.optional_constant(4)?);
        let (starts, ends) = (cx.constant_input(1)?, cx.constant_input(2)?);
        let spans = Slice::spans(&shape, &starts, &ends, axes.as_ref(), steps.as_ref())?;
        let mut dx = vec![None; cx.inputs()];
        dx[0] = Some(if spans.iter().all(|s| s.step == 1 || s.count <= 1) {
            let behind = spans.iter().zip(&shape).map(|(s, n)| n - s.start - s.count);
            let pads: Vec<usize> = spans.iter().map(|s| s.start).chain(behind).collect();
            cx.emit(super::Pad::default(), &[dy, cx.ints(&pads)])?
        } else {
            gradient_of_moved(cx, self, 0)?
        });
        Ok(dx)
    }
}

fn cases() -> Vec<Case> {
    let x = [1., 2., 3., 4., 5., 6., 7., 8.];
    vec![
        Case::new("every_axis", Slice {}).f32(&[2, 4], &x).i64s(&[1, -3]).i64s(&[2, 1000]).gives(&[1, 3], &[6., 7., 8.]),
        Case::new("one_axis_with_step", Slice {})
            .f32(&[2, 4], &x)
            .i64s(&[0])
            .i64s(&[4])
            .i64s(&[-1])
            .i64s(&[3])
            .gives(&[2, 2], &[1., 4., 5., 8.]),
        Case::new("backwards", Slice {})
            .f32(&[4], &x[..4])
            .i64s(&[-1])
            .i64s(&[i64::MIN])
            .i64s(&[0])
            .i64s(&[-2])
            .gives(&[2], &[4., 2.]),
        Case::new("nothing", Slice {}).f32(&[4], &x[..4]).i64s(&[3]).i64s(&[1]).gives(&[0], &[]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extreme_positions_do_not_overflow() {
        for step in [i64::MIN, -1, 1, i64::MAX] {
            for start in [i64::MIN, 0, i64::MAX] {
                for end in [i64::MIN, 0, i64::MAX] {
                    assert!(Span::new(5, start, end, step).unwrap().count <= 5);
                    assert_eq!(Span::new(0, start, end, step).unwrap().count, 0);
                }
            }
        }
    }
}

use qing_tensor::Tensor;

use super::support::{axes::normalize_all, elementwise::each_index, movement::gradient_of_moved, sizes::limited};
use crate::{Backward, Gradients, 
    Case, Dim, Element, Eval, Gradient, Infer, Legacy, Op, OpError, Quant, QuantRule, Type, arithmetic, op,
};

op! {
    /// Its input with values added (or, for negative pads, removed) before and after each axis: a constant, the mirrored
    /// inside, the edge, or the other end. The quantized constant 0 is the zero point.
    Pad = "Pad" {
        /// `constant`, `reflect`, `edge` or `wrap`.
        mode: String = "constant".into(),
    }
    inputs: 2..=4, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 11 pads and value were attributes; before opset 2 the pads were called paddings.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.ints_to_input("paddings", 1)?;
    node.ints_to_input("pads", 1)?;
    let value: Option<f32> = node.attrs.read("value", None)?;
    node.attrs.remove("value");
    if let Some(value) = value {
        let element = node.inputs.first().copied().flatten().map_or(Element::F32, |x| node.graph.ty(x).element);
        node.constant(2, "value", Tensor::scalar(value).cast(element));
    }
    Ok(())
}

/// Pads before and after every axis.
fn pads_of(rank: usize, pads: &Tensor, axes: Option<&Tensor>) -> Result<Vec<(i64, i64)>, OpError> {
    let pads = pads.to_i64s();
    let axes = match axes {
        None => (0..rank).collect(),
        Some(axes) => normalize_all(&axes.to_i64s(), rank)?,
    };
    if pads.len() != 2 * axes.len() {
        return Err(OpError::invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let mut all = vec![(0, 0); rank];
    for (i, axis) in axes.iter().enumerate() {
        all[*axis] = (pads[i], pads[axes.len() + i]);
    }
    Ok(all)
}

fn padded(size: usize, (before, after): (i64, i64)) -> Result<usize, OpError> {
    i64::try_from(size)
        .ok()
        .and_then(|n| n.checked_add(before)?.checked_add(after))
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| OpError::invalid(format!("{size} values padded by {before} and {after}")))
}

impl Pad {
    /// For each position of a padded axis, the position in the input it repeats; `None` where the constant goes.
    fn sources(&self, size: usize, pads: (i64, i64)) -> Result<Vec<Option<usize>>, OpError> {
        let n = size as i64;
        let inside = |i: i64| (0..n).contains(&i).then_some(i as usize);
        let from: fn(i64, i64) -> i64 = match self.mode.as_str() {
            "constant" => |i, _| i,
            "edge" => |i, n| i.clamp(0, (n - 1).max(0)),
            "wrap" => |i, n| i.rem_euclid(n.max(1)),
            "reflect" => |i, n| {
                let period = (2 * (n - 1)).max(1);
                let i = i.rem_euclid(period);
                if i < n { i } else { period - i }
            },
            other => return Err(OpError::invalid(format!("mode {other:?}"))),
        };
        let count = limited(&[padded(size, pads)?])? as i64;
        if size == 0 && count > 0 && self.mode != "constant" {
            return Err(OpError::invalid(format!("mode {:?} over an empty axis", self.mode)));
        }
        Ok((0..count).map(|i| inside(from(i - pads.0, n))).collect())
    }

    /// The constant, as the element (and in the quantization) of the input.
    fn value(&self, cx: &Eval<'_>) -> Result<Tensor, OpError> {
        let element = cx.input(0)?.element();
        let value = cx.optional(2).filter(|v| !v.is_empty());
        if value.is_some_and(|v| v.len() != 1) {
            return Err(OpError::invalid("a constant of several values"));
        }
        let Some(quant) = cx.quant(0) else {
            return Ok(value.map_or_else(|| Tensor::scalar(0i32).cast(element), |v| v.cast(element)));
        };
        let integer = match value {
            None => quant.zero(0),
            Some(v) if v.element().is_float() => {
                let x = arithmetic::per_tensor(cx.ty(0)?)?;
                arithmetic::quantize(v.to_f32s()[0], x.scale, x.zero, x.lo, x.hi)
            }
            Some(v) => v.to_ints()[0],
        };
        Ok(Tensor::from_ints(element, &[], &[integer])?)
    }
}

impl Op for Pad {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else { return Ok(vec![x.with_shape(None)]) };
        let pads = match (cx.constant(1), cx.optional(3).is_some(), cx.constant(3)) {
            (Some(pads), false, _) => pads_of(dims.len(), pads, None)?,
            (Some(pads), true, Some(axes)) => pads_of(dims.len(), pads, Some(axes))?,
            _ => return Ok(vec![x.with_shape(Some(vec![Dim::Unknown; dims.len()]))]),
        };
        let shape = dims
            .iter()
            .zip(pads)
            .map(|(d, pads)| match (d.known(), pads) {
                (_, (0, 0)) => Ok(d.clone()),
                (Some(n), _) => padded(n, pads).map(Dim::Known),
                (None, _) => Ok(Dim::Unknown),
            })
            .collect::<Result<_, OpError>>()?;
        Ok(vec![x.with_shape(Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let pads = pads_of(x.rank(), cx.input(1)?, cx.optional(3))?;
        let shape =
            x.shape().iter().zip(&pads).map(|(n, p)| padded(*n, *p)).collect::<Result<Vec<usize>, OpError>>()?;
        limited(&shape)?;
        let axes =
            x.shape().iter().zip(&pads).map(|(n, p)| self.sources(*n, *p)).collect::<Result<Vec<_>, OpError>>()?;
        // The constant is one more value behind those of the input.
        let all = super::support::movement::concatenated(
            &[x.reshaped(&[x.len()])?, self.value(cx)?.reshaped(&[1])?],
            0,
        )?;
        let mut from = vec![];
        each_index(&shape, |at| {
            let source = at
                .iter()
                .enumerate()
                .try_fold(0, |i, (axis, at)| Some(i * x.shape()[axis] + axes[axis][*at]?));
            from.push(source.unwrap_or(x.len()));
        });
        Ok(vec![all.take(&shape, from)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, dy) = (cx.input(0)?, cx.dy()?);
        let mut all = vec![None; cx.inputs()];
        if self.mode != "constant" {
            all[0] = cx.wanted(0, || gradient_of_moved(cx, self, 0))?;
            return Ok(all);
        }
        let pads = pads_of(cx.rank(x)?, &cx.constant_input(1)?, cx.optional_constant(3)?.as_ref())?;
        // What was added is taken off again, and the other way round.
        let back: Vec<i64> = pads.iter().map(|p| -p.0).chain(pads.iter().map(|p| -p.1)).collect();
        let inside = if back.iter().all(|p| *p <= 0) {
            let mut inside = dy;
            for (axis, ((before, _), n)) in pads.iter().zip(cx.shape(x)?).enumerate() {
                inside = cx.slice(inside, axis, *before as usize, *before as usize + n)?;
            }
            inside
        } else {
            cx.emit(Pad::default(), &[dy, cx.tensor(Tensor::vector(back))])?
        };
        all[0] = cx.wanted(0, || Ok(inside))?;
        if cx.wants(2) {
            let every = |v| Ok::<_, OpError>((0..cx.rank(v)?).collect::<Vec<usize>>());
            let outside = cx.sub(cx.sum(dy, &every(dy)?)?, cx.sum(inside, &every(inside)?)?)?;
            all[2] = Some(cx.reshape_like(outside, cx.input(2)?)?);
        }
        Ok(all)
    }
}

fn cases() -> Vec<Case> {
    let mode = |mode: &str| Pad { mode: mode.into() };
    let ints = |shape: &[usize], v: &[i32]| Tensor::from_ints(Element::U8, shape, v).expect("fits");
    let q = || Quant::per_tensor(0.5, 7).expect("a valid scale");
    let x = [1., 2., 3.];
    vec![
        Case::new("zeros", mode("constant"))
            .f32(&[1, 2], &[1., 2.])
            .i64s(&[1, 0, 0, 1])
            .gives(&[2, 3], &[0., 0., 0., 1., 2., 0.]),
        Case::new("value_and_axes", mode("constant"))
            .f32(&[1, 2], &[1., 2.])
            .i64s(&[2, -1])
            .f32(&[], &[9.])
            .i64s(&[-1])
            .gives(&[1, 3], &[9., 9., 1.]),
        Case::new("reflect", mode("reflect")).f32(&[3], &x).i64s(&[2, 1]).gives(&[6], &[3., 2., 1., 2., 3., 2.]),
        Case::new("edge", mode("edge")).f32(&[3], &x).i64s(&[2, 1]).gives(&[6], &[1., 1., 1., 2., 3., 3.]),
        Case::new("wrap", mode("wrap")).f32(&[3], &x).i64s(&[2, 1]).gives(&[6], &[2., 3., 1., 2., 3., 1.]),
        Case::new("quantized", mode("constant"))
            .quantized_input(ints(&[2], &[1, 255]), q())
            .i64s(&[1, 1])
            .quantized_output(ints(&[4], &[7, 1, 255, 7]), q()),
        Case::new("quantized_value", mode("constant"))
            .quantized_input(ints(&[2], &[1, 255]), q())
            .i64s(&[0, 1])
            .f32(&[], &[2.])
            .quantized_output(ints(&[3], &[1, 255, 11]), q()),
    ]
}

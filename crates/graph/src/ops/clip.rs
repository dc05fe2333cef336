use qing_tensor::Tensor;

use super::support::elementwise::{self, infer_unary, map_float};
use crate::{Backward, Gradients, 
    Case, Element, Eval, Gradient, Infer, Legacy, Op, OpError, Quant, QuantRule, Type, arithmetic, op,
};

op! {
    /// `min(max(x, min), max)`, the bounds being optional scalar inputs. On quantized values one tap, requantized, with
    /// the range narrowed to the bounds; between equal quantizations engines fuse it into the producer.
    Clip = "Clip" {}
    inputs: 1..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 11 the bounds were attributes.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.attrs.remove("consumed_inputs");
    let element = node.inputs.first().copied().flatten().map_or(Element::F32, |id| node.graph.ty(id).element);
    for (i, name) in [(1, "min"), (2, "max")] {
        let bound: Option<f32> = node.attrs.read(name, None)?;
        node.attrs.remove(name);
        if let Some(bound) = bound {
            node.constant(i, name, Tensor::scalar(bound).cast(element));
        }
    }
    Ok(())
}

impl Clip {
    /// The bounds as reals; infinite where absent.
    ///
    /// # Errors
    /// If a bound is not one number.
    pub fn bounds(min: Option<&Tensor>, max: Option<&Tensor>) -> Result<(f32, f32), OpError> {
        let read = |t: Option<&Tensor>, none: f32| match t {
            None => Ok(none),
            Some(t) if t.len() == 1 => Ok(t.to_f32s()[0]),
            Some(t) => Err(OpError::invalid(format!("a bound of shape {:?}; expected a scalar", t.shape()))),
        };
        Ok((read(min, f32::NEG_INFINITY)?, read(max, f32::INFINITY)?))
    }
}

impl Op for Clip {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        infer_unary(cx)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let (min, max) = Clip::bounds(cx.optional(1), cx.optional(2))?;
        if cx.quant(0).is_some() {
            let table = arithmetic::rescale_table(cx.ty(0)?, cx.output(0), min, max)?;
            let lo = arithmetic::per_tensor(cx.ty(0)?)?.lo;
            let values: Vec<i32> = x.to_ints().into_iter().map(|q| table[(q - lo) as usize]).collect();
            return Ok(vec![Tensor::from_ints(cx.output(0).element, x.shape(), &values)?]);
        }
        if x.element().is_float() {
            let bound = |i: usize, none: f64| cx.optional(i).map_or(none, |t| t.to_f64s()[0]);
            let (min, max) = (bound(1, f64::NEG_INFINITY), bound(2, f64::INFINITY));
            // Not `clamp`: where the bounds cross, the upper one wins.
            return Ok(vec![map_float(x, |v| if v.is_nan() { v } else { v.max(min).min(max) })?]);
        }
        let mut y = x.clone();
        if let Some(min) = cx.optional(1) {
            y = elementwise::arithmetic(&y, &min.reshaped(&[])?, f64::max, |v, min| v.max(min))?;
        }
        if let Some(max) = cx.optional(2) {
            y = elementwise::arithmetic(&y, &max.reshaped(&[])?, f64::min, |v, max| v.min(max))?;
        }
        Ok(vec![y])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Table
    }

    /// What is cut off passes nothing back: `dX` is `dY` where the result lies inside, by [`ReluGrad`](super::ReluGrad) of how far.
    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dy()?);
        let mut all = vec![None; 3];
        let bounds = (cx.optional(1), cx.optional(2));
        if let Some(min) = bounds.0 {
            all[1] = cx.wanted(1, || cx.sum_like(cx.masked(cx.emit(super::Less {}, &[x, min])?, dy)?, min))?;
        }
        if let Some(max) = bounds.1 {
            all[2] = cx.wanted(2, || cx.sum_like(cx.masked(cx.emit(super::Greater {}, &[x, max])?, dy)?, max))?;
        }
        all[0] = cx.wanted(0, || {
            let mut inside = dy;
            if let Some(min) = bounds.0 {
                let zero = cx.constant(min).is_some_and(|t| t.to_f64s().iter().all(|v| *v == 0.0));
                let above = if zero { y } else { cx.emit(super::Sub {}, &[y, min])? };
                inside = cx.emit(super::ReluGrad {}, &[above, inside])?;
            }
            if let Some(max) = bounds.1 {
                inside = cx.emit(super::ReluGrad {}, &[cx.emit(super::Sub {}, &[max, y])?, inside])?;
            }
            Ok(inside)
        })?;
        Ok(all)
    }
}

fn cases() -> Vec<Case> {
    let q = |scale, zero| Quant::per_tensor(scale, zero).expect("a valid scale");
    let ints = |v: &[i32]| Tensor::from_ints(Element::U8, &[4], v).expect("fits");
    let scalar = |v: f32| Tensor::scalar(v);
    vec![
        Case::new("both", Clip {})
            .f32(&[4], &[-1., 0.5, 7., f32::NAN])
            .input(scalar(0.))
            .input(scalar(6.))
            .gives(&[4], &[0., 0.5, 6., f32::NAN]),
        Case::new("upper", Clip {}).f32(&[2], &[-1., 7.]).no_input().input(scalar(6.)).gives(&[2], &[-1., 6.]),
        Case::new("i64", Clip {}).i64s(&[-5, 5]).input(Tensor::scalar(-2i64)).output(Tensor::vector(vec![-2i64, 5])),
        Case::new("quantized_relu6", Clip {})
            .quantized_input(ints(&[0, 100, 110, 255]), q(0.5, 100))
            .input(scalar(0.))
            .input(scalar(6.))
            .quantized_output(ints(&[100, 100, 110, 112]), q(0.5, 100)),
    ]
}

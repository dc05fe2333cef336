//! Reductions over axes: the frame that `ReduceSum` and its kin share.

use qing_tensor::{Element, Tensor, strides};

use super::{axes::normalize_all, elementwise::each_index};
use crate::{Backward, Dim, Eval, Gradients, Infer, Legacy, OpError, Type, ValueId};

/// The axes became an input in opset 18 (13 for `ReduceSum`).
///
/// # Errors
/// If the attribute is not a list of integers.
pub fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.ints_to_input("axes", 1)
}

/// The axes to reduce, of a tensor of this rank; `None` if nothing is to be reduced at all.
fn chosen(axes: Option<Vec<i64>>, rank: usize, noop: bool) -> Result<Option<Vec<usize>>, OpError> {
    match axes {
        Some(axes) if !axes.is_empty() => normalize_all(&axes, rank).map(Some),
        _ if noop => Ok(None),
        _ => Ok(Some((0..rank).collect())),
    }
}

/// Shape rule of a reduction with its axes in input 1.
///
/// # Errors
/// If an axis does not exist.
pub fn infer(cx: &Infer<'_>, keepdims: bool, noop: bool) -> Result<Vec<Type>, OpError> {
    let x = cx.ty(0)?;
    let Some(dims) = &x.shape else { return Ok(vec![Type::maybe(x.element, None)]) };
    let axes = match (cx.optional(1), cx.constant(1)) {
        (None, _) => None,
        (Some(_), Some(axes)) => Some(axes.to_i64s()),
        (Some(_), None) => {
            let shape = keepdims.then(|| vec![Dim::Unknown; dims.len()]);
            return Ok(vec![Type::maybe(x.element, shape)]);
        }
    };
    let shape = match chosen(axes, dims.len(), noop)? {
        None => dims.clone(),
        Some(axes) => reduced(dims, &axes, keepdims, Dim::Known(1)),
    };
    Ok(vec![Type::maybe(x.element, Some(shape))])
}

fn reduced<T: Clone>(dims: &[T], axes: &[usize], keepdims: bool, one: T) -> Vec<T> {
    let kept = |i: usize, d: &T| match (axes.contains(&i), keepdims) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(one.clone()),
        (true, false) => None,
    };
    dims.iter().enumerate().filter_map(|(i, d)| kept(i, d)).collect()
}

/// What a reduction computes of the values that fall together.
#[derive(Debug, Clone, Copy)]
pub struct Reduction {
    /// Of real numbers.
    pub real: fn(&[f64]) -> f64,
    /// Of integers (and of truth values as 0 and 1); `None` computes them as reals and truncates.
    pub integer: Option<fn(&[i64]) -> i64>,
}

/// Semantics of a reduction with its axes in input 1.
///
/// # Errors
/// If an axis does not exist.
pub fn eval(cx: &Eval<'_>, keepdims: bool, noop: bool, f: Reduction) -> Result<Vec<Tensor>, OpError> {
    let x = cx.input(0)?;
    let Some(axes) = chosen(cx.optional(1).map(Tensor::to_i64s), x.rank(), noop)? else { return Ok(vec![x.clone()]) };
    let shape = reduced(x.shape(), &axes, keepdims, 1);
    let (order, size) = grouped(x.shape(), &axes);
    let count = super::sizes::limited(&shape)?;
    let y = match f.integer {
        Some(integer) if !x.element().is_float() => {
            let identity = match x.element().range() {
                // An empty maximum is the smallest value of the element, not of i64.
                Some((lo, hi)) => integer(&[]).clamp(lo, hi),
                None => integer(&[]),
            };
            let values = by_group(&x.to_i64s(), &order, size, count, integer, identity);
            Tensor::new(&shape, values)?.cast(x.element())
        }
        _ => {
            let y = Tensor::new(&shape, by_group(&x.to_f64s(), &order, size, count, f.real, (f.real)(&[])))?;
            if x.element() == Element::F64 { y } else { y.cast(x.element()) }
        }
    };
    Ok(vec![y])
}

fn by_group<T: Copy>(values: &[T], order: &[usize], size: usize, count: usize, f: fn(&[T]) -> T, empty: T) -> Vec<T> {
    if size == 0 {
        return vec![empty; count];
    }
    let mut group = Vec::with_capacity(size);
    order
        .chunks_exact(size)
        .map(|indices| {
            group.clear();
            group.extend(indices.iter().map(|i| values[*i]));
            f(&group)
        })
        .collect()
}

/// The linear indices of all elements, those that fall together side by side, and how many fall together.
fn grouped(shape: &[usize], axes: &[usize]) -> (Vec<usize>, usize) {
    let own = strides(shape);
    let (kept, gone): (Vec<usize>, Vec<usize>) = (0..shape.len()).partition(|i| !axes.contains(i));
    let size = gone.iter().map(|i| shape[*i]).product();
    let order: Vec<usize> = kept.into_iter().chain(gone).collect();
    let dims: Vec<usize> = order.iter().map(|i| shape[*i]).collect();
    let steps: Vec<usize> = order.iter().map(|i| own[*i]).collect();
    let mut all = vec![];
    each_index(&dims, |at| all.push(at.iter().zip(&steps).map(|(i, s)| i * s).sum()));
    (all, size)
}

/// What the gradient rule of a reduction reads.
#[derive(Debug, Clone)]
pub struct Reduced {
    /// The input.
    pub x: ValueId,
    /// The output, reduced axes being there with size 1.
    pub y: ValueId,
    /// The gradient of the output, likewise.
    pub dy: ValueId,
    /// The reduced axes.
    pub axes: Vec<usize>,
    /// How many values fall together.
    pub count: usize,
}

/// The gradient of a reduction by its rule.
///
/// # Errors
/// If the axes are computed, and those of the rule.
pub fn gradient(
    cx: &Backward<'_>,
    noop: bool,
    rule: impl FnOnce(&Backward<'_>, &Reduced) -> Result<ValueId, OpError>,
) -> Gradients {
    let (x, dy) = (cx.input(0)?, cx.dy()?);
    let shape = cx.shape(x)?;
    let axes = cx.optional_constant(1)?.map(|t| t.to_i64s());
    let Some(axes) = chosen(axes, shape.len(), noop)? else { return Ok(vec![Some(dy), None]) };
    let kept = reduced(&shape, &axes, true, 1);
    let count = axes.iter().map(|a| shape[*a]).product();
    let at = Reduced { x, y: cx.reshape(cx.output(0)?, &kept)?, dy: cx.reshape(dy, &kept)?, axes, count };
    Ok(vec![Some(rule(cx, &at)?), None])
}

/// The gradient where the result is one of the values: those equal to it share it.
///
/// # Errors
/// If shapes are not known.
pub fn gradient_of_chosen(cx: &Backward<'_>, at: &Reduced) -> Result<ValueId, OpError> {
    let equal = cx.cast_like(cx.emit(crate::ops::Equal {}, &[at.x, at.y])?, at.x)?;
    let share = cx.div(at.dy, cx.sum(equal, &at.axes)?)?;
    cx.mul(equal, share)
}

/// Declares a reduction by its [`Reduction`] and its gradient rule; see [`op!`](crate::op!) for the rest.
macro_rules! reduction {
    (
        $(#[doc = $doc:literal])*
        $name:ident = $onnx:literal,
        reduction: $reduction:expr,
        backward: $backward:expr,
        cases: $cases:path $(,)?
    ) => {
        $crate::op! {
            $(#[doc = $doc])*
            $name = $onnx {
                /// Whether reduced axes stay, with size 1.
                keepdims: bool = true,
                /// Whether no axes mean none, rather than all.
                noop_with_empty_axes: bool = false,
            }
            inputs: 1..=2, outputs: 1..=1,
            gradient: $crate::Gradient::Smooth,
            cases: $cases,
            upgrade: $crate::ops::support::reduce::upgrade
        }

        impl $crate::Op for $name {
            fn infer(&self, cx: &$crate::Infer<'_>) -> Result<Vec<$crate::Type>, $crate::OpError> {
                $crate::ops::support::reduce::infer(cx, self.keepdims, self.noop_with_empty_axes)
            }

            fn eval(&self, cx: &$crate::Eval<'_>) -> Result<Vec<$crate::Tensor>, $crate::OpError> {
                $crate::ops::support::reduce::eval(cx, self.keepdims, self.noop_with_empty_axes, $reduction)
            }

            fn gradient(&self, cx: &$crate::Backward<'_>) -> $crate::Gradients {
                $crate::ops::support::reduce::gradient(cx, self.noop_with_empty_axes, $backward)
            }
        }
    };
}
pub(crate) use reduction;

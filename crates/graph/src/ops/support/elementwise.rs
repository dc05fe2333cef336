//! Elementwise evaluation over all elements, with broadcasting.

use qing_tensor::{Element, Scalar, Tensor, bf16, broadcast, broadcast_strides, f16};

use crate::{Backward, Dim, Eval, Gradients, Infer, Op, OpError, Type, for_scalar};

/// Applies a real function to every element of a float tensor, computed in f64 and rounded once.
///
/// # Errors
/// If the tensor is not of a float element.
pub fn map_float(x: &Tensor, f: impl Fn(f64) -> f64) -> Result<Tensor, OpError> {
    fn each<T: Scalar>(x: &Tensor, f: impl Fn(f64) -> f64) -> Result<Tensor, OpError> {
        let values = x.values::<T>()?.iter().map(|v| T::from_f64(f(v.to_f64()))).collect();
        Ok(Tensor::new(x.shape(), values)?)
    }
    match x.element() {
        Element::F64 => each::<f64>(x, f),
        Element::F32 => each::<f32>(x, f),
        Element::F16 => each::<f16>(x, f),
        Element::BF16 => each::<bf16>(x, f),
        other => Err(OpError::unsupported(format!("{other}; expected a float tensor"))),
    }
}

/// Semantics of a unary op given by its [`Op::map`]: a table on quantized values, `map` on floats.
///
/// # Errors
/// If the input is neither.
pub fn eval_unary(op: &dyn Op, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
    let x = cx.input(0)?;
    if cx.quant(0).is_some() {
        return Ok(vec![lookup(op, x, cx.ty(0)?, cx.output(0))?]);
    }
    Ok(vec![map_float(x, |v| op.map(v).unwrap_or(f64::NAN))?])
}

/// [`eval_unary`] for ops that take integers as well; `integer` computes those, wrapped to the element.
///
/// # Errors
/// If the input is not of numbers.
pub fn eval_number(op: &dyn Op, cx: &Eval<'_>, integer: fn(i128) -> i128) -> Result<Vec<Tensor>, OpError> {
    let x = cx.input(0)?;
    if cx.quant(0).is_some() || x.element().is_float() {
        return eval_unary(op, cx);
    }
    let y = for_scalar!(x.element(), T => {
        let values: Vec<T> = x.values::<T>()?.iter().map(|v| from_wide(integer(to_wide(*v)))).collect();
        Ok(Tensor::new(x.shape(), values)?)
    })?;
    Ok(vec![y])
}

/// Replaces every quantized value by its entry in the op's table.
///
/// # Errors
/// If the op has no table for these types.
pub fn lookup(op: &dyn Op, x: &Tensor, from: &Type, to: &Type) -> Result<Tensor, OpError> {
    let table =
        op.table(from, to)?.ok_or_else(|| OpError::unsupported(format!("{} from {from} to {to}", op.name())))?;
    table_lookup(&table, x, from, to.element)
}

/// Replaces every value by its entry in a table over the range of `from`.
///
/// # Errors
/// If the table does not cover a value.
pub fn table_lookup(table: &[i32], x: &Tensor, from: &Type, to: Element) -> Result<Tensor, OpError> {
    let outside = || OpError::unsupported(format!("a table of {} entries over {from}", table.len()));
    let (lo, _) = from.range().ok_or_else(outside)?;
    let entry = |q: i32| table.get(usize::try_from(q - lo).ok()?).copied();
    let values =
        x.to_ints().into_iter().map(|q| entry(q).ok_or_else(outside)).collect::<Result<Vec<i32>, OpError>>()?;
    Ok(Tensor::from_ints(to, x.shape(), &values)?)
}

/// Type of a unary elementwise op: that of its input, unquantized.
///
/// # Errors
/// If the input is absent.
pub fn infer_unary(cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
    let x = cx.ty(0)?;
    Ok(vec![Type::maybe(x.element, x.shape.clone())])
}

/// Broadcasts the shapes of all inputs from `first` on.
///
/// # Errors
/// If they do not broadcast.
pub fn infer_broadcast(cx: &Infer<'_>, first: usize) -> Result<Option<Vec<Dim>>, OpError> {
    let mut out: Vec<Dim> = vec![];
    for i in first..cx.types.len() {
        let Some(shape) = cx.shape(i)? else { return Ok(None) };
        out = broadcast_dims(&out, shape)?;
    }
    Ok(Some(out))
}

/// The shape two partly known shapes broadcast to.
///
/// # Errors
/// If they do not broadcast.
pub fn broadcast_dims(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, OpError> {
    let rank = a.len().max(b.len());
    let dim = |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map_or(Dim::Known(1), |j| s[j].clone());
    (0..rank).map(|i| dim(a, i).broadcast(&dim(b, i))).collect()
}

/// Walks the broadcast of two shapes: for each result element, the linear indices into both.
///
/// # Errors
/// If the shapes do not broadcast.
pub fn broadcast_indices(a: &[usize], b: &[usize]) -> Result<(Vec<usize>, Vec<(usize, usize)>), OpError> {
    let shape = broadcast(a, b)?;
    let (sa, sb) = (broadcast_strides(a, &shape), broadcast_strides(b, &shape));
    let mut pairs = Vec::with_capacity(qing_tensor::element_count(&shape)?);
    each_index(&shape, |index| {
        let dot = |s: &[usize]| index.iter().zip(s).map(|(i, s)| i * s).sum();
        pairs.push((dot(&sa), dot(&sb)));
    });
    Ok((shape, pairs))
}

/// The values of a tensor broadcast to a shape, as f64.
///
/// # Errors
/// If it does not broadcast to exactly this shape.
pub fn broadcast_to(x: &Tensor, shape: &[usize]) -> Result<Vec<f64>, OpError> {
    if broadcast(x.shape(), shape)? != shape {
        return Err(OpError::invalid(format!("{:?} cannot be broadcast to {shape:?}", x.shape())));
    }
    let values = x.to_f64s();
    if let [one] = values[..] {
        return Ok(vec![one; qing_tensor::element_count(shape)?]);
    }
    let steps: Vec<isize> = broadcast_strides(x.shape(), shape).into_iter().map(|s| s as isize).collect();
    Ok(super::movement::strided(shape, 0, &steps).into_iter().map(|i| values[i]).collect())
}

/// Calls `f` with every index of a shape, in row-major order.
pub fn each_index(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    loop {
        f(&index);
        let mut axis = shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// A broadcasting binary function on values of one scalar type.
///
/// # Errors
/// If an input holds another element or the shapes do not broadcast.
pub fn binary<T: Scalar, U: Scalar>(a: &Tensor, b: &Tensor, f: impl Fn(T, T) -> U) -> Result<Tensor, OpError> {
    let (x, y) = (a.values::<T>()?, b.values::<T>()?);
    if a.shape() == b.shape() {
        return Ok(Tensor::new(a.shape(), x.iter().zip(y.iter()).map(|(x, y)| f(*x, *y)).collect())?);
    }
    let (shape, pairs) = broadcast_indices(a.shape(), b.shape())?;
    Ok(Tensor::new(&shape, pairs.into_iter().map(|(i, j)| f(x[i], y[j])).collect())?)
}

/// Calls `$body` with `$T` standing for the Rust type in which an element of whole bytes is stored.
#[macro_export]
macro_rules! for_scalar {
    ($element:expr, $T:ident => $body:expr) => {
        match $element {
            $crate::Element::F64 => {
                type $T = f64;
                $body
            }
            $crate::Element::F32 => {
                type $T = f32;
                $body
            }
            $crate::Element::F16 => {
                type $T = qing_tensor::f16;
                $body
            }
            $crate::Element::BF16 => {
                type $T = qing_tensor::bf16;
                $body
            }
            $crate::Element::I64 => {
                type $T = i64;
                $body
            }
            $crate::Element::I32 => {
                type $T = i32;
                $body
            }
            $crate::Element::I16 => {
                type $T = i16;
                $body
            }
            $crate::Element::I8 => {
                type $T = i8;
                $body
            }
            $crate::Element::U64 => {
                type $T = u64;
                $body
            }
            $crate::Element::U32 => {
                type $T = u32;
                $body
            }
            $crate::Element::U16 => {
                type $T = u16;
                $body
            }
            $crate::Element::U8 => {
                type $T = u8;
                $body
            }
            other => Err($crate::OpError::unsupported(format!("{other}; expected numbers of whole bytes"))),
        }
    };
}

/// Type of a binary arithmetic op: the element of its inputs, their shapes broadcast, not quantized.
///
/// # Errors
/// If the shapes do not broadcast.
pub fn infer_arithmetic(cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
    Ok(vec![Type::maybe(cx.element(0)?, infer_broadcast(cx, 0)?)])
}

/// A broadcasting binary function of numbers of one element: `real` on floats, computed in f64 and rounded once;
/// `integer` on integers, wrapped to the element.
///
/// # Errors
/// If the elements differ or the shapes do not broadcast.
pub fn arithmetic(
    a: &Tensor,
    b: &Tensor,
    real: impl Fn(f64, f64) -> f64,
    integer: impl Fn(i128, i128) -> i128,
) -> Result<Tensor, OpError> {
    arithmetic_dyn(a, b, &real, &integer)
}

/// Not generic, so that it is compiled once and not once for each op.
fn arithmetic_dyn(
    a: &Tensor,
    b: &Tensor,
    real: &dyn Fn(f64, f64) -> f64,
    integer: &dyn Fn(i128, i128) -> i128,
) -> Result<Tensor, OpError> {
    let element = a.element();
    let (a, b) = widened(a, b)?;
    let y = if element.is_float() {
        binary(&a, &b, real)?
    } else {
        let wide = |v: i64| if element == Element::U64 { i128::from(v as u64) } else { i128::from(v) };
        binary(&a, &b, |x: i64, y: i64| integer(wide(x), wide(y)) as i64)?
    };
    Ok(y.cast(element))
}

/// Two tensors of one element of numbers, as f64 or, with the bits of `u64`, as i64: nothing is lost, and what follows is compiled
/// for two elements instead of twelve.
fn widened(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor), OpError> {
    let element = a.element();
    if element != b.element() {
        return Err(OpError::invalid(format!("operands of {element} and {}", b.element())));
    }
    if element == Element::Bool || element.is_packed() {
        return Err(OpError::unsupported(format!("{element}; expected numbers of whole bytes")));
    }
    let wide = if element.is_float() { Element::F64 } else { Element::I64 };
    Ok((a.cast(wide), b.cast(wide)))
}

/// All inputs combined from the first to the last by a binary function, as [`arithmetic`] does two.
///
/// # Errors
/// As [`arithmetic`].
pub fn fold(
    cx: &Eval<'_>,
    real: impl Fn(f64, f64) -> f64,
    integer: impl Fn(i128, i128) -> i128,
) -> Result<Vec<Tensor>, OpError> {
    let mut all = cx.input(0)?.clone();
    for i in 1..cx.inputs.len() {
        // A trailing optional input may be named and absent.
        if let Some(next) = cx.optional(i) {
            all = arithmetic_dyn(&all, next, &real, &integer)?;
        }
    }
    Ok(vec![all])
}

/// The gradient where the result is one of the inputs at every place: the first that is equal to it takes it.
///
/// # Errors
/// If shapes are not known.
pub fn gradient_of_extreme(cx: &Backward<'_>) -> Gradients {
    let (y, mut left) = (cx.output(0)?, cx.dy()?);
    let mut all = vec![];
    for i in 0..cx.inputs() {
        let x = cx.input(i)?;
        let hit = cx.emit(crate::ops::Equal {}, &[x, y])?;
        all.push(cx.wanted(i, || cx.sum_like(cx.masked(hit, left)?, x))?);
        left = cx.choose(hit, cx.scalar(left, 0.0), left)?;
    }
    Ok(all)
}

/// A broadcasting function of the bits of two integers of one element.
///
/// # Errors
/// If the elements differ or are not integers, or the shapes do not broadcast.
pub fn bitwise(a: &Tensor, b: &Tensor, f: fn(i128, i128) -> i128) -> Result<Tensor, OpError> {
    if a.element().is_float() {
        return Err(OpError::invalid(format!("the bits of {}; expected integers", a.element())));
    }
    arithmetic(a, b, |_, _| f64::NAN, f)
}

/// An integer of any element, exactly.
pub fn to_wide<T: Scalar>(v: T) -> i128 {
    if T::ELEMENT == Element::U64 { i128::from(v.to_i64() as u64) } else { v.to_i64().into() }
}

/// The low bits of an integer, as any element.
pub fn from_wide<T: Scalar>(v: i128) -> T {
    T::from_i64(v as i64)
}

/// A broadcasting predicate on values of one element; truth values compare as 0 and 1.
///
/// # Errors
/// If the elements differ or the shapes do not broadcast.
pub fn compare(a: &Tensor, b: &Tensor, f: fn(Option<std::cmp::Ordering>) -> bool) -> Result<Tensor, OpError> {
    let element = a.element();
    if element == b.element() && (element == Element::Bool || element.is_packed()) {
        return compare(&a.cast(Element::I8), &b.cast(Element::I8), f);
    }
    let (a, b) = widened(a, b)?;
    let bytes = if element.is_float() {
        binary(&a, &b, |x: f64, y: f64| u8::from(f(x.partial_cmp(&y))))?
    } else if element == Element::U64 {
        binary(&a, &b, |x: i64, y: i64| u8::from(f((x as u64).partial_cmp(&(y as u64)))))?
    } else {
        binary(&a, &b, |x: i64, y: i64| u8::from(f(x.partial_cmp(&y))))?
    };
    Ok(bytes.cast(Element::Bool))
}

/// A broadcasting function of two truth values.
///
/// # Errors
/// If an input is not of truth values or the shapes do not broadcast.
pub fn logical(a: &Tensor, b: &Tensor, f: impl Fn(bool, bool) -> bool) -> Result<Tensor, OpError> {
    if a.element() != Element::Bool || b.element() != Element::Bool {
        return Err(OpError::invalid(format!("operands of {} and {}; expected bool", a.element(), b.element())));
    }
    let (a, b) = (a.cast(Element::U8), b.cast(Element::U8));
    Ok(binary(&a, &b, |x: u8, y: u8| u8::from(f(x != 0, y != 0)))?.cast(Element::Bool))
}

/// Before opset 7 binary ops broadcast only when told to, with the second operand aligned at `axis`.
///
/// # Errors
/// If the second operand would have to be reshaped but its rank is unknown.
pub fn upgrade_broadcast(node: &mut crate::Legacy<'_>) -> Result<(), OpError> {
    if node.opset >= 7 {
        return Ok(());
    }
    node.attrs.remove("consumed_inputs");
    node.attrs.remove("broadcast");
    match node.attrs.remove("axis") {
        None => Ok(()),
        Some(axis) => Err(OpError::unsupported(format!("broadcasting along axis {axis:?} of opset {}", node.opset))),
    }
}

//! Operators to nodes: attribute names, layouts of weights, fused activations. No semantics.

use qing_graph::{AttrValue, Dim, Element, Quant, Tensor, Type, ValueId};

use super::{
    Reader,
    schema::{Operator, operator},
};
use crate::FormatError;

/// Operators that become one node over values of any layout: code, TFLite name, op, whether attributes follow.
const ELEMENTWISE: &[(i32, &str, &str)] = &[
    (operator::ADD, "ADD", "Add"),
    (operator::SUB, "SUB", "Sub"),
    (operator::MUL, "MUL", "Mul"),
    (operator::RELU, "RELU", "Relu"),
    (operator::RELU6, "RELU6", "Clip"),
    (operator::LOGISTIC, "LOGISTIC", "Sigmoid"),
    (operator::TANH, "TANH", "Tanh"),
    (operator::LEAKY_RELU, "LEAKY_RELU", "LeakyRelu"),
    (operator::HARD_SWISH, "HARD_SWISH", "HardSwish"),
    (operator::QUANTIZE, "QUANTIZE", "Quantize"),
    (operator::DEQUANTIZE, "DEQUANTIZE", "Dequantize"),
];

/// The others.
const STRUCTURAL: &[(i32, &str, Layer)] = &[
    (operator::CONV_2D, "CONV_2D", conv),
    (operator::DEPTHWISE_CONV_2D, "DEPTHWISE_CONV_2D", depthwise),
    (operator::FULLY_CONNECTED, "FULLY_CONNECTED", fully_connected),
    (operator::AVERAGE_POOL_2D, "AVERAGE_POOL_2D", pool),
    (operator::MAX_POOL_2D, "MAX_POOL_2D", pool),
    (operator::MEAN, "MEAN", mean),
    (operator::CONCATENATION, "CONCATENATION", concat),
    (operator::RESHAPE, "RESHAPE", reshape),
    (operator::SQUEEZE, "SQUEEZE", reshape),
    (operator::SOFTMAX, "SOFTMAX", softmax),
    (operator::PAD, "PAD", pad),
];

type Layer = fn(&mut Reader, &Operator<'_>) -> Result<(), FormatError>;

/// Whether [`add`] knows the operator.
pub(super) fn is_supported(code: i32) -> bool {
    ELEMENTWISE.iter().any(|e| e.0 == code) || STRUCTURAL.iter().any(|e| e.0 == code)
}

/// The schema's name of an operator.
pub(super) fn name(code: i32) -> String {
    let own = ELEMENTWISE.iter().map(|e| (e.0, e.1)).chain(STRUCTURAL.iter().map(|e| (e.0, e.1)));
    own.into_iter().find(|e| e.0 == code).map_or_else(|| operator::name(code), |e| e.1.into())
}

/// Adds the nodes of one operator.
pub(super) fn add(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    match STRUCTURAL.iter().find(|e| e.0 == o.code) {
        Some((_, _, layer)) => layer(r, o),
        None => elementwise(r, o),
    }
}

fn input(o: &Operator<'_>, i: usize) -> Result<i32, FormatError> {
    o.inputs
        .get(i)
        .copied()
        .filter(|t| *t >= 0)
        .ok_or_else(|| FormatError::malformed("inputs", format!("input {i} is missing")))
}

fn output(o: &Operator<'_>) -> Result<i32, FormatError> {
    match o.outputs.as_slice() {
        [one] => Ok(*one),
        many => Err(FormatError::malformed("outputs", format!("{} outputs; expected one", many.len()))),
    }
}

fn ints(values: impl IntoIterator<Item = i64>) -> AttrValue {
    AttrValue::Ints(values.into_iter().collect())
}

/// The bias of a layer, if it has one.
fn bias(r: &mut Reader, o: &Operator<'_>) -> Result<Option<ValueId>, FormatError> {
    input(o, 2).ok().map(|b| r.native(b)).transpose()
}

/// All inputs, in one layout.
fn operands(r: &mut Reader, o: &Operator<'_>, channels_first: bool) -> Result<Vec<Option<ValueId>>, FormatError> {
    o.inputs.iter().map(|i| if channels_first { r.nchw(*i) } else { r.native(*i) }.map(Some)).collect()
}

/// Type of tensor `i` with its channels first.
fn nchw_type(r: &Reader, i: i32) -> Result<Type, FormatError> {
    let ty = &r.tensor(i)?.ty;
    let shape = ty.shape.as_ref().filter(|s| s.len() == 4);
    let shape = shape.ok_or_else(|| FormatError::unsupported("output", format!("{ty}; expected rank 4")))?;
    Ok(ty.with_shape(Some(super::TO_NCHW.iter().map(|p| shape[*p].clone()).collect())))
}

/// Adds the fused activation `code` after `value`, with the same quantization: engines narrow the range instead.
fn activate(r: &mut Reader, value: ValueId, code: i8, name: &str) -> Result<ValueId, FormatError> {
    let ty = r.graph.ty(value).clone();
    match code {
        0 => Ok(value),
        1 => r.node("Relu", vec![], name, &[Some(value)], ty),
        2 => clip(r, value, -1.0, 1.0, name, ty),
        3 => clip(r, value, 0.0, 6.0, name, ty),
        4 => r.node("Tanh", vec![], name, &[Some(value)], ty),
        other => Err(FormatError::unsupported("fused activation", format!("code {other}"))),
    }
}

fn clip(r: &mut Reader, value: ValueId, lo: f32, hi: f32, name: &str, ty: Type) -> Result<ValueId, FormatError> {
    let lo = r.graph.add_constant(&format!("{name}.min"), Tensor::scalar(lo));
    let hi = r.graph.add_constant(&format!("{name}.max"), Tensor::scalar(hi));
    r.node("Clip", vec![], name, &[Some(value), Some(lo), Some(hi)], ty)
}

/// Window attributes common to convolution and pooling.
fn window(padding: i8, strides: [i32; 2], dilations: [i32; 2]) -> Result<Vec<(&'static str, AttrValue)>, FormatError> {
    let auto_pad = match padding {
        0 => "SAME_UPPER",
        1 => "VALID",
        other => return Err(FormatError::malformed("padding", format!("code {other}"))),
    };
    Ok(vec![
        ("auto_pad", AttrValue::String(auto_pad.into())),
        ("strides", ints(strides.map(i64::from))),
        ("dilations", ints(dilations.map(i64::from))),
    ])
}

fn conv(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let attrs = window(
        o.option_i8(0)?,
        [o.option_i32(2, 1)?, o.option_i32(1, 1)?],
        [o.option_i32(5, 1)?, o.option_i32(4, 1)?],
    )?;
    // Weights are [out, height, width, in].
    let (x, groups) = (nchw_type(r, input(o, 0)?)?, weight_shape(r, o)?);
    let channels = x.shape.as_ref().and_then(|s| s[1].known()).unwrap_or(groups[3]);
    let group = channels.checked_div(groups[3]).unwrap_or(1);
    convolution(r, o, attrs, &super::TO_NCHW, group, o.option_i8(3)?)
}

fn depthwise(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let attrs = window(
        o.option_i8(0)?,
        [o.option_i32(2, 1)?, o.option_i32(1, 1)?],
        [o.option_i32(6, 1)?, o.option_i32(5, 1)?],
    )?;
    // Weights are [1, height, width, out]; the multiplier says how many outputs an input channel has.
    let out = weight_shape(r, o)?[3];
    let multiplier = usize::try_from(o.option_i32(3, 1)?).unwrap_or(0).max(1);
    convolution(r, o, attrs, &[3, 0, 1, 2], out / multiplier, o.option_i8(4)?)
}

fn weight_shape(r: &Reader, o: &Operator<'_>) -> Result<[usize; 4], FormatError> {
    let shape = r.constant(input(o, 1)?)?.shape();
    shape.try_into().map_err(|_| FormatError::malformed("weights", format!("shape {shape:?}; expected rank 4")))
}

fn convolution(
    r: &mut Reader,
    o: &Operator<'_>,
    mut attrs: Vec<(&str, AttrValue)>,
    perm: &[usize; 4],
    group: usize,
    activation: i8,
) -> Result<(), FormatError> {
    let (x, y) = (r.nchw(input(o, 0)?)?, output(o)?);
    let ty = nchw_type(r, y)?;
    let real = r.graph.ty(x).quant.is_none();
    let weights = transposed_weights(r, input(o, 1)?, perm, real)?;
    let bias = bias(r, o)?;
    attrs.push(("group", AttrValue::Int(group as i64)));
    let name = r.tensor(y)?.name.clone();
    let conv = if activation == 0 { name.clone() } else { format!("{name}.conv") };
    let id = r.node("Conv", attrs, &conv, &[Some(x), Some(weights), bias], ty)?;
    let id = activate(r, id, activation, &name)?;
    r.nchw.insert(y, id);
    Ok(())
}

/// The weights of tensor `i` in the order of a graph; as reals if `real`.
fn transposed_weights(r: &mut Reader, i: i32, perm: &[usize; 4], real: bool) -> Result<ValueId, FormatError> {
    let info = r.tensor(i)?;
    let (name, mut ty, value) = (info.name.clone(), info.ty.clone(), r.constant(i)?);
    let from: [usize; 4] = value
        .shape()
        .try_into()
        .map_err(|_| FormatError::malformed(&name, format!("shape {:?}; expected rank 4", value.shape())))?;
    let shape = perm.map(|p| from[p]);
    let strides = qing_tensor::strides(&from);
    let mut indices = Vec::with_capacity(value.len());
    for a in 0..shape[0] {
        for b in 0..shape[1] {
            for c in 0..shape[2] {
                for d in 0..shape[3] {
                    let at = [a, b, c, d];
                    indices.push((0..4).map(|k| at[k] * strides[perm[k]]).sum());
                }
            }
        }
    }
    let value = value.take(&shape, indices).map_err(|e| FormatError::tensor(&name, e))?;
    ty.shape = Some(shape.iter().map(|n| Dim::Known(*n)).collect());
    if let Some(q) = &ty.quant
        && let qing_graph::Granularity::Axis(axis) = q.granularity()
    {
        let axis = perm.iter().position(|p| *p == axis);
        let axis = axis.ok_or_else(|| FormatError::malformed(&name, "the quantized dimension is out of range"))?;
        let moved = Quant::new(qing_graph::Granularity::Axis(axis), q.scales().to_vec(), q.zeros().to_vec());
        ty.quant = Some(moved.map_err(|e| FormatError::op(&name, e))?.into());
    }
    let (ty, value) = if real { as_real(&name, ty, value)? } else { (ty, value) };
    Ok(r.graph.add_typed_constant(&name, ty, value))
}

/// Files that store weights as integers but compute in floating point ("dynamic range") mean the reals they stand for.
fn as_real(name: &str, ty: Type, value: Tensor) -> Result<(Type, Tensor), FormatError> {
    let Some(q) = &ty.quant else { return Ok((ty, value)) };
    let shape = value.shape();
    let reals = value.to_ints().into_iter().enumerate().map(|(i, v)| {
        let slice = q.slice_of(shape, i);
        qing_graph::arithmetic::dequantize(v, q.scale(slice), q.zero(slice))
    });
    let tensor = Tensor::new(shape, reals.collect()).map_err(|e| FormatError::tensor(name, e))?;
    Ok((Type::maybe(Element::F32, ty.shape), tensor))
}

fn fully_connected(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let y = output(o)?;
    let (name, ty) = (r.tensor(y)?.name.clone(), r.tensor(y)?.ty.clone());
    let real = r.tensor(input(o, 0)?)?.ty.quant.is_none();
    let weights = fully_connected_weights(r, input(o, 1)?, real)?;
    let inner = r.graph.ty(weights).shape.as_ref().and_then(|s| s.get(1)).and_then(Dim::known);
    let mut x = r.native(input(o, 0)?)?;
    if r.graph.ty(x).rank() != Some(2) {
        let inner = inner.ok_or_else(|| FormatError::malformed("weights", "expected rank 2"))?;
        let shape = r.graph.add_constant(&format!("{name}.shape"), Tensor::vector(vec![-1i64, inner as i64]));
        let flat = r.graph.ty(x).with_shape(Some(vec![Dim::Unknown, Dim::Known(inner)]));
        x = r.node("Reshape", vec![], &format!("{name}.flat"), &[Some(x), Some(shape)], flat)?;
    }
    let bias = bias(r, o)?;
    let activation = o.option_i8(0)?;
    let gemm = if activation == 0 { name.clone() } else { format!("{name}.gemm") };
    if let Some(dims) = &ty.shape
        && dims.len() != 2
    {
        return Err(FormatError::unsupported(format!("tensor `{name}`"), format!("{ty}; expected rank 2")));
    }
    let id = r.node("Gemm", vec![("transB", AttrValue::Int(1))], &gemm, &[Some(x), Some(weights), bias], ty)?;
    let id = activate(r, id, activation, &name)?;
    r.native.insert(y, id);
    Ok(())
}

fn fully_connected_weights(r: &mut Reader, i: i32, real: bool) -> Result<ValueId, FormatError> {
    let info = r.tensor(i)?;
    match &info.value {
        Some(value) if real && info.ty.quant.is_some() => {
            let (name, ty) = (info.name.clone(), info.ty.clone());
            let (ty, value) = as_real(&name, ty, value.clone())?;
            Ok(r.graph.add_typed_constant(&name, ty, value))
        }
        _ => r.native(i),
    }
}

fn pool(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let mut attrs = window(o.option_i8(0)?, [o.option_i32(2, 1)?, o.option_i32(1, 1)?], [1, 1])?;
    attrs.retain(|(name, _)| *name != "dilations");
    attrs.push(("kernel_shape", ints([o.option_i32(4, 1)?.into(), o.option_i32(3, 1)?.into()])));
    let op = if o.code == operator::MAX_POOL_2D { "MaxPool" } else { "AveragePool" };
    let (x, y) = (r.nchw(input(o, 0)?)?, output(o)?);
    let (name, ty) = (r.tensor(y)?.name.clone(), nchw_type(r, y)?);
    let activation = o.option_i8(5)?;
    let pooled = if activation == 0 { name.clone() } else { format!("{name}.pool") };
    let id = r.node(op, attrs, &pooled, &[Some(x)], ty)?;
    let id = activate(r, id, activation, &name)?;
    r.nchw.insert(y, id);
    Ok(())
}

fn mean(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let (x, y) = (input(o, 0)?, output(o)?);
    let mut axes = r.constant(input(o, 1)?)?.to_i64s();
    let rank = r.tensor(x)?.ty.rank().unwrap_or(0) as i64;
    axes.iter_mut().filter(|a| **a < 0).for_each(|a| *a += rank);
    axes.sort_unstable();
    if rank != 4 || axes != [1, 2] {
        return Err(FormatError::unsupported(
            "MEAN",
            format!("axes {axes:?} of rank {rank}; expected the spatial ones"),
        ));
    }
    let (name, ty) = (r.tensor(y)?.name.clone(), r.tensor(y)?.ty.clone());
    let first = r.nchw(x)?;
    let dims = r.graph.ty(first).shape.clone().unwrap_or_default();
    let pooled = ty.with_shape(Some(vec![dims[0].clone(), dims[1].clone(), 1.into(), 1.into()]));
    let keep = ty.rank() == Some(4);
    let id = r.node(
        "GlobalAveragePool",
        vec![],
        &(if keep { name.clone() } else { format!("{name}.pool") }),
        &[Some(first)],
        pooled,
    )?;
    if keep {
        r.nchw.insert(y, id);
        return Ok(());
    }
    let shape = r.graph.add_constant(&format!("{name}.shape"), Tensor::vector(vec![0i64, -1]));
    let id = r.node("Reshape", vec![], &name, &[Some(id), Some(shape)], ty)?;
    r.native.insert(y, id);
    Ok(())
}

fn concat(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let y = output(o)?;
    let rank = r.tensor(y)?.ty.rank().unwrap_or(0) as i64;
    let mut axis = i64::from(o.option_i32(0, 0)?);
    if axis < 0 {
        axis += rank;
    }
    let channels_first = rank == 4 && o.inputs.iter().any(|i| r.nchw.contains_key(i));
    let inputs = operands(r, o, channels_first)?;
    let axis =
        if channels_first { super::TO_NCHW.iter().position(|p| *p as i64 == axis).unwrap_or(0) as i64 } else { axis };
    let ty = if channels_first { nchw_type(r, y)? } else { r.tensor(y)?.ty.clone() };
    let name = r.tensor(y)?.name.clone();
    let id = r.node("Concat", vec![("axis", AttrValue::Int(axis))], &name, &inputs, ty)?;
    let id = activate(r, id, o.option_i8(1)?, &format!("{name}.activation"))?;
    if channels_first {
        r.nchw.insert(y, id)
    } else {
        r.native.insert(y, id)
    };
    Ok(())
}

fn reshape(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let (x, y) = (r.native(input(o, 0)?)?, output(o)?);
    let (name, ty) = (r.tensor(y)?.name.clone(), r.tensor(y)?.ty.clone());
    let wanted: Vec<i64> = match o.inputs.get(1) {
        Some(&s) if s >= 0 && r.tensor(s)?.value.is_some() => r.constant(s)?.to_i64s(),
        _ if o.code == operator::RESHAPE && !o.option_i32s(0)?.is_empty() => {
            o.option_i32s(0)?.into_iter().map(i64::from).collect()
        }
        // A computed shape: the output's own shape says the same, with its open dimension as −1.
        _ => ty.shape.iter().flatten().map(|d| d.known().map_or(-1, |n| n as i64)).collect(),
    };
    let shape = r.graph.add_constant(&format!("{name}.shape"), Tensor::vector(wanted));
    let id = r.node("Reshape", vec![], &name, &[Some(x), Some(shape)], ty)?;
    r.native.insert(y, id);
    Ok(())
}

/// On quantized values a float island.
fn softmax(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let beta = o.option_f32(0, 1.0)?;
    if beta != 1.0 {
        return Err(FormatError::unsupported("SOFTMAX", format!("beta {beta}; expected 1")));
    }
    let (mut x, y) = (r.native(input(o, 0)?)?, output(o)?);
    let (name, ty) = (r.tensor(y)?.name.clone(), r.tensor(y)?.ty.clone());
    let real = Type::maybe(Element::F32, ty.shape.clone());
    if r.graph.ty(x).quant.is_some() {
        x = r.node("Dequantize", vec![], &format!("{name}.dequantize"), &[Some(x)], real.clone())?;
    }
    let attrs = vec![("axis", AttrValue::Int(-1))];
    let id = if ty.quant.is_some() {
        let soft = r.node("Softmax", attrs, &format!("{name}.softmax"), &[Some(x)], real)?;
        r.node("Quantize", vec![], &name, &[Some(soft)], ty)?
    } else {
        r.node("Softmax", attrs, &name, &[Some(x)], ty)?
    };
    r.native.insert(y, id);
    Ok(())
}

fn pad(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let y = output(o)?;
    let pads = r.constant(input(o, 1)?)?.to_i64s();
    let name = r.tensor(y)?.name.clone();
    let rank = r.tensor(y)?.ty.rank().unwrap_or(0);
    if pads.len() != 2 * rank {
        return Err(FormatError::malformed("PAD", format!("{} pads for rank {rank}", pads.len())));
    }
    let order: Vec<usize> = if rank == 4 { super::TO_NCHW.to_vec() } else { (0..rank).collect() };
    let both = order.iter().map(|p| pads[2 * p]).chain(order.iter().map(|p| pads[2 * p + 1])).collect();
    let (x, ty) = if rank == 4 {
        (r.nchw(input(o, 0)?)?, nchw_type(r, y)?)
    } else {
        (r.native(input(o, 0)?)?, r.tensor(y)?.ty.clone())
    };
    let pads = r.graph.add_constant(&format!("{name}.pads"), Tensor::vector::<i64>(both));
    let id = r.node("Pad", vec![], &name, &[Some(x), Some(pads)], ty)?;
    if rank == 4 {
        r.nchw.insert(y, id)
    } else {
        r.native.insert(y, id)
    };
    Ok(())
}

fn elementwise(r: &mut Reader, o: &Operator<'_>) -> Result<(), FormatError> {
    let (_, _, op) =
        ELEMENTWISE.iter().find(|e| e.0 == o.code).ok_or_else(|| FormatError::unsupported("operator", name(o.code)))?;
    let y = output(o)?;
    let same_rank = o.inputs.iter().all(|i| r.tensor(*i).is_ok_and(|t| t.ty.rank() == Some(4)));
    let channels_first = same_rank && o.inputs.iter().any(|i| r.nchw.contains_key(i));
    let inputs = operands(r, o, channels_first)?;
    let ty = if channels_first { nchw_type(r, y)? } else { r.tensor(y)?.ty.clone() };
    let name = r.tensor(y)?.name.clone();
    let activation = match o.code {
        operator::ADD | operator::SUB | operator::MUL => o.option_i8(0)?,
        _ => 0,
    };
    let inner = if activation == 0 { name.clone() } else { format!("{name}.sum") };
    let id = match o.code {
        operator::RELU6 => {
            let x = inputs.first().copied().flatten();
            clip(r, x.ok_or_else(|| FormatError::malformed("inputs", "input 0 is missing"))?, 0.0, 6.0, &name, ty)?
        }
        operator::LEAKY_RELU => {
            r.node(op, vec![("alpha", AttrValue::Float(o.option_f32(0, 0.0)?))], &inner, &inputs, ty)?
        }
        _ => r.node(op, vec![], &inner, &inputs, ty)?,
    };
    let id = activate(r, id, activation, &name)?;
    if channels_first {
        r.nchw.insert(y, id)
    } else {
        r.native.insert(y, id)
    };
    Ok(())
}

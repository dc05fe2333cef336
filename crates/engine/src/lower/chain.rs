//! Functions of values and of rows that follow each other: done block by block, so that what lies between them never leaves the nearest
//! cache.
//!
//! Around the products of a quantized transformer stand chains such as dequantize, add a bias, GELU, quantize. Every one of these is a
//! few instructions a value; four passes over memory are what costs.

use std::sync::{Mutex, PoisonError};

use qing_graph::{Node, NodeId, ValueId, arithmetic, ops};
use qing_kernels::{
    Isa, Pool,
    float::{
        Clamp,
        elementwise::{Binary, Operand, Unary, binary, unary_in_place},
        rows::layer_norm_in_place,
    },
    quantized::{
        Clip,
        elementwise::{dequantize, quantize},
    },
};

use super::{
    Lower, StepSpec, attr,
    elementwise::{binary_of, is_f32, unary_of},
    quantize::clip_of,
};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Inputs, Step, StepError, StepIo},
    storage::bias,
};

/// Values of a block, if rows are no longer: with what is read beside them they fit the nearest cache.
const BLOCK: usize = 4096;

/// Functions of a chain at most; a longer one goes on as another.
const LONGEST: usize = 32;

/// The other operand of a function of two.
#[derive(Debug, Clone, Copy)]
enum Other {
    /// One value, in this input.
    Scalar(usize),
    /// A value for each place of a row.
    Row(usize),
    /// A value for each.
    Full(usize),
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Unary(Unary),
    /// Whether the chain's value is the second operand.
    Binary {
        op: Binary,
        other: Other,
        second: bool,
    },
    /// The inputs that hold scale and bias.
    LayerNorm {
        scale: usize,
        bias: Option<usize>,
        epsilon: f32,
    },
}

/// Input 0 is what the chain begins with.
struct Chain {
    isa: Isa,
    /// Scale and zero of the beginning if it is quantized.
    from: Option<(f32, u8)>,
    stages: Vec<Stage>,
    /// Scale and range of the end if it is quantized.
    to: Option<(f32, Clip)>,
    /// Values of a block: whole rows.
    block: usize,
}

impl Chain {
    /// All stages on block `i`, in `work`.
    fn stages(&self, inputs: &Inputs<'_>, i: usize, work: &mut [f32], pool: &Pool) -> Result<(), StepError> {
        let range = i * self.block..i * self.block + work.len();
        match (self.from, inputs.get(0)) {
            (Some((scale, zero)), Some(x)) => dequantize(self.isa, scale, zero, &x[range.clone()], work, pool)?,
            (None, Some(x)) => work.copy_from_slice(&bytemuck::cast_slice(x)[range.clone()]),
            // The results took the place of the input.
            (_, None) => {}
        }
        for stage in &self.stages {
            match *stage {
                Stage::Unary(op) => unary_in_place(self.isa, op, work, pool),
                Stage::Binary { op, other, second } => {
                    let other = match other {
                        Other::Scalar(at) => Operand::Scalar(inputs.values(at)[0]),
                        Other::Row(at) => Operand::Row(inputs.values(at)),
                        Other::Full(at) => Operand::Full(&inputs.values(at)[range.clone()]),
                    };
                    let (a, b) = if second { (other, Operand::Output) } else { (Operand::Output, other) };
                    binary(self.isa, op, a, b, Clamp::NONE, work, pool)?;
                }
                Stage::LayerNorm { scale, bias, epsilon } => {
                    let bias = bias.map(|at| inputs.values(at));
                    layer_norm_in_place(self.isa, inputs.values(scale), bias, epsilon, work, pool)?;
                }
            }
        }
        Ok(())
    }
}

impl Step for Chain {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        // After planning nothing fails; what does is told all the same.
        let failure = Mutex::new(None);
        let note = |outcome: Result<(), StepError>| {
            if let Err(error) = outcome {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        };
        match self.to {
            None => pool.for_each_chunk_mut(bytemuck::cast_slice_mut::<u8, f32>(y), self.block, |i, y| {
                note(self.stages(&inputs, i, y, pool));
            }),
            Some((scale, clip)) => pool.for_each_chunk_mut(y, self.block, |i, y| {
                let mut work = [0f32; BLOCK];
                let work = &mut work[..y.len()];
                let outcome = self.stages(&inputs, i, work, pool);
                note(outcome.and_then(|()| Ok(quantize(self.isa, scale, clip, work, y, pool)?)));
            }),
        }
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// A node that fits a chain, and how.
enum Link {
    Unary(Unary),
    Binary { op: Binary, other: ValueId, second: bool },
    LayerNorm { scale: ValueId, bias: Option<ValueId>, epsilon: f32 },
    Quantize(f32, Clip),
}

/// How `node` continues a chain whose value is `x`, and the length of rows it needs.
fn link(cx: &Lower<'_>, node: &Node, x: ValueId) -> Option<(Link, Option<usize>)> {
    let [y] = node.outputs[..] else { return None };
    let shape = cx.shape(x);
    if node.op.is::<ops::Quantize>() {
        let (scale, clip) = clip_of(cx.graph.ty(y))?;
        let moves = shape.len() >= 3 && cx.wants_channels_last(y);
        return (!moves).then_some((Link::Quantize(scale, clip), None));
    }
    if !is_f32(cx, y) || cx.shape(y) != shape {
        return None;
    }
    if let ([Some(a), Some(b)], Some(op)) = (&node.inputs[..], binary_of(node)) {
        let second = *b == x;
        let other = if second { *a } else { *b };
        if other == x || !(cx.is_defined(other) && is_f32(cx, other)) {
            return None;
        }
        let theirs = cx.shape(other);
        let count: usize = theirs.iter().product();
        let significant = &theirs[theirs.iter().take_while(|d| **d == 1).count()..];
        let plain = cx.layout(other) == Layout::Plain;
        let rows = match count {
            1 => None,
            _ if theirs == shape && plain => None,
            _ if theirs.len() <= shape.len() && shape.ends_with(significant) && plain => Some(count),
            _ => return None,
        };
        return Some((Link::Binary { op, other, second }, rows));
    }
    if node.op.is::<ops::LayerNormalization>() && node.input(0) == Some(x) {
        let axis = attr(node, "axis", -1i64);
        let axis = usize::try_from(if axis < 0 { axis + shape.len() as i64 } else { axis }).ok()?;
        let width: usize = shape.get(axis..)?.iter().product();
        let (scale, bias) = (node.input(1)?, node.input(2));
        let fits = |id: ValueId| {
            cx.is_defined(id) && is_f32(cx, id) && cx.shape(id).iter().product::<usize>() == width && id != x
        };
        let epsilon = attr(node, "epsilon", 1e-5);
        return (fits(scale) && bias.is_none_or(fits))
            .then_some((Link::LayerNorm { scale, bias, epsilon }, Some(width)));
    }
    let op = unary_of(cx, node).filter(|_| node.input(0) == Some(x))?;
    Some((Link::Unary(op), None))
}

/// Lowers the longest chain that begins with a node, if it is worth it: of two functions at least.
pub(super) fn lower(cx: &mut Lower<'_>, index: NodeId) -> Result<bool, EngineError> {
    let graph = cx.graph;
    let node = &graph.nodes[index];
    let (Some(mut x), Some(mut value)) = (node.input(0), node.outputs.first().copied()) else { return Ok(false) };
    let mut links = vec![];
    let mut nodes = vec![];
    let mut rows = None;
    let mut from = None;
    if node.op.is::<ops::Dequantize>() {
        let Ok(quant) = arithmetic::per_tensor(graph.ty(x)) else { return Ok(false) };
        let Ok(zero) = u8::try_from(quant.zero + bias(graph.ty(x).element)) else { return Ok(false) };
        if !is_f32(cx, value) {
            return Ok(false);
        }
        from = Some((quant.scale, zero));
    } else {
        // The operand that has the shape of the result.
        if let Some(other) = node.input(1)
            && binary_of(node).is_some()
            && (cx.shape(x) != cx.shape(value) || graph.constant(x).is_some())
        {
            x = other;
        }
        if !is_f32(cx, x) || graph.constant(x).is_some() {
            return Ok(false);
        }
        let Some((link, width)) = link(cx, node, x) else { return Ok(false) };
        if matches!(link, Link::Quantize(..)) {
            return Ok(false);
        }
        rows = width;
        links.push(link);
    }
    if cx.layout(x) != Layout::Plain || !cx.is_defined(x) || cx.shape(x).len() > 1 && cx.wants_channels_last(value) {
        return Ok(false);
    }
    let mut to = None;
    while nodes.len() < LONGEST
        && let Some((next, node)) = cx.single_consumer(value)
    {
        let Some((link, width)) = link(cx, node, value) else { break };
        if rows.is_some() && width.is_some() && rows != width {
            break;
        }
        rows = rows.or(width);
        nodes.push(next);
        value = node.outputs[0];
        if let Link::Quantize(scale, clip) = link {
            to = Some((scale, clip));
            break;
        }
        links.push(link);
        if cx.wants_channels_last(value) {
            break;
        }
    }
    let width = rows.unwrap_or(1);
    if nodes.is_empty() || width > BLOCK || !cx.shape(x).iter().product::<usize>().is_multiple_of(width) {
        return Ok(false);
    }
    let mut inputs = vec![cx.read(x, Layout::Plain)?];
    let mut stages = vec![];
    for link in links {
        let mut read = |cx: &mut Lower<'_>, id: ValueId| -> Result<usize, EngineError> {
            inputs.push(cx.read(id, Layout::Plain)?);
            Ok(inputs.len() - 1)
        };
        stages.push(match link {
            Link::Unary(op) => Stage::Unary(op),
            Link::Binary { op, other, second } => {
                let (shape, whole) = (cx.shape(other), cx.shape(x));
                let at = read(cx, other)?;
                let other = match shape.iter().product::<usize>() {
                    1 => Other::Scalar(at),
                    _ if shape == whole => Other::Full(at),
                    _ => Other::Row(at),
                };
                Stage::Binary { op, other, second }
            }
            Link::LayerNorm { scale, bias, epsilon } => {
                let scale = read(cx, scale)?;
                let bias = bias.map(|bias| read(cx, bias)).transpose()?;
                Stage::LayerNorm { scale, bias, epsilon }
            }
            Link::Quantize(..) => continue,
        });
    }
    let outputs = vec![cx.write(value, Layout::Plain)];
    let block = (BLOCK / width).max(1) * width;
    let in_place = (from.is_none() && to.is_none()).then_some(0);
    let step = Chain { isa: cx.isa, from, stages, to, block };
    let spec = StepSpec::new(node, format!("chain {}", cx.isa.name()), inputs, outputs, step);
    cx.push_fused(StepSpec { in_place, ..spec }, &nodes);
    Ok(true)
}

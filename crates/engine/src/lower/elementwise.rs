//! Functions of one or two float values at a time, in whatever layout the values lie.

use std::sync::Arc;

use qing_graph::{Element, Node, Op, Tensor, ValueId};
use qing_kernels::{
    Isa, Pool,
    float::{
        Clamp,
        elementwise::{Binary, Operand, Unary, binary, unary, unary_in_place},
    },
};

use super::{Lower, StepSpec, attr, fuse, strided, table};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

struct UnaryStep {
    isa: Isa,
    op: Unary,
}

impl Step for UnaryStep {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let y = bytemuck::cast_slice_mut(y);
        match inputs.get(0) {
            Some(x) => unary(self.isa, self.op, bytemuck::cast_slice(x), y, pool)?,
            None => unary_in_place(self.isa, self.op, y, pool),
        }
        Ok(())
    }
}

/// The op's own real function, value by value: for functions too rare to have a kernel.
struct Map(Arc<dyn Op>);

impl Step for Map {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let x: Option<&[f32]> = inputs.get(0).map(bytemuck::cast_slice);
        let chunk = 4096;
        pool.for_each_chunk_mut(bytemuck::cast_slice_mut::<u8, f32>(y), chunk, |i, y| {
            for (j, y) in y.iter_mut().enumerate() {
                let v = x.map_or(*y, |x| x[i * chunk + j]);
                *y = self.0.map(f64::from(v)).unwrap_or(f64::NAN) as f32;
            }
        });
        Ok(())
    }
}

/// The kernel's name for a unary op.
pub(super) fn unary_of(cx: &Lower<'_>, node: &Node) -> Option<Unary> {
    if let Some(clamp) = fuse::clamp_of(cx, node) {
        return Some(Unary::Clip(clamp));
    }
    Some(match node.op.name() {
        "LeakyRelu" => Unary::LeakyRelu(attr(node, "alpha", 0.01)),
        "Sigmoid" => Unary::Sigmoid,
        "Tanh" => Unary::Tanh,
        "Swish" if attr(node, "alpha", 1.0f32) == 1.0 => Unary::Silu,
        "QuickGelu" if attr(node, "alpha", 1.702f32) == 1.0 => Unary::Silu,
        "HardSigmoid" => Unary::HardSigmoid { alpha: attr(node, "alpha", 0.2), beta: attr(node, "beta", 0.5) },
        "HardSwish" => Unary::HardSwish,
        "Gelu" if attr(node, "approximate", "none".to_string()) == "tanh" => Unary::GeluTanh,
        "Gelu" => Unary::Gelu,
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "Sqrt" => Unary::Sqrt,
        "Reciprocal" => Unary::Reciprocal,
        "Abs" => Unary::Abs,
        "Neg" => Unary::Neg,
        _ => return None,
    })
}

/// Every unary op: a table on quantized values, a kernel on floats.
pub(super) fn lower_unary(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), [y]) = (node.input(0), &node.outputs[..]) else { return Ok(false) };
    if cx.graph.ty(x).quant.is_some() {
        return table::lower(cx, node);
    }
    if !is_f32(cx, x) || !is_f32(cx, *y) {
        return Ok(false);
    }
    let op = unary_of(cx, node);
    if op.is_none() && (node.op.map(0.0).is_none() || node.inputs.len() != 1) {
        return Ok(false);
    }
    let layout = cx.layout(x);
    let inputs = vec![cx.read(x, layout)?];
    let outputs = vec![cx.write(*y, layout)];
    let mut step = match op {
        Some(op) => {
            let step = UnaryStep { isa: cx.isa, op };
            StepSpec::new(node, format!("unary f32 {}", cx.isa.name()), inputs, outputs, step)
        }
        None => StepSpec::new(node, "map f32", inputs, outputs, Map(node.op.clone())),
    };
    step.in_place = Some(0);
    cx.push(step);
    Ok(true)
}

/// How an operand is spread over the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// A value for each.
    Full,
    /// One value.
    Scalar,
    /// One for each place along so many last values.
    Row,
    /// One for each run of so many.
    Column(usize),
}

struct BinaryStep {
    isa: Isa,
    op: Binary,
    spreads: [Spread; 2],
    clamp: Clamp,
}

impl Step for BinaryStep {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let operand = |i: usize| {
            let Some(bytes) = inputs.get(i) else { return Operand::Output };
            let values: &[f32] = bytemuck::cast_slice(bytes);
            match self.spreads[i] {
                Spread::Full => Operand::Full(values),
                Spread::Scalar => Operand::Scalar(values[0]),
                Spread::Row => Operand::Row(values),
                Spread::Column(run) => Operand::Column(values, run),
            }
        };
        binary(self.isa, self.op, operand(0), operand(1), self.clamp, bytemuck::cast_slice_mut(y), pool)?;
        Ok(())
    }
}

/// The kernel's name for an op of two operands.
pub(super) fn binary_of(node: &Node) -> Option<Binary> {
    Some(match node.op.name() {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Min" => Binary::Min,
        "Max" => Binary::Max,
        "PRelu" => Binary::Prelu,
        "ReluGrad" => Binary::Gate,
        _ => return None,
    })
}

/// `Add`, `Sub`, `Mul`, `Div`, `PRelu`, and `Min` and `Max` of two.
pub(super) fn lower_binary(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let [Some(a), Some(b)] = node.inputs[..] else { return Ok(false) };
    let y = node.outputs[0];
    let Some(op) = binary_of(node) else { return Ok(false) };
    if !(is_f32(cx, a) && is_f32(cx, b) && is_f32(cx, y)) {
        return Ok(false);
    }
    let tail = fuse::float_tail(cx, y, false);
    let layout = layout_of(cx, &[a, b], y);
    let mut inputs = vec![];
    let mut spreads = [Spread::Full; 2];
    for (i, id) in [a, b].into_iter().enumerate() {
        let (place, spread) = strided::spread(cx, node, id, y, layout)?;
        inputs.push(place);
        spreads[i] = spread;
    }
    // The kernel takes one length of rows.
    let width = |s: Spread| match s {
        Spread::Row => Some(usize::MAX),
        Spread::Column(run) => Some(run),
        _ => None,
    };
    if let (Some(first), Some(second)) = (width(spreads[0]), width(spreads[1]))
        && first != second
    {
        for (i, id) in [a, b].into_iter().enumerate() {
            inputs[i] = strided::expand(cx, node, id, y, layout)?;
            spreads[i] = Spread::Full;
        }
    }
    let outputs = vec![cx.write(tail.output, layout)];
    let step = BinaryStep { isa: cx.isa, op, spreads, clamp: tail.clamp };
    let mut step = StepSpec::new(node, format!("binary f32 {}", cx.isa.name()), inputs, outputs, step);
    // What ReLU gave is read again as a rule, the gradient not.
    step.in_place = if op == Binary::Gate { Some(1) } else { spreads.iter().position(|s| *s == Spread::Full) };
    cx.push_fused(step, &tail.nodes);
    Ok(true)
}

/// Inputs: condition, what to take where it holds, what to take elsewhere.
struct Select {
    /// Whether an operand is one value for all.
    single: [bool; 3],
}

impl Step for Select {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let condition: &[u8] = inputs.values(0);
        let (a, b): (&[f32], &[f32]) = (inputs.values(1), inputs.values(2));
        let chunk = 16 * 1024;
        pool.for_each_chunk_mut(bytemuck::cast_slice_mut::<u8, f32>(y), chunk, |i, y| {
            for (j, y) in y.iter_mut().enumerate() {
                let at = |operand: usize| if self.single[operand] { 0 } else { i * chunk + j };
                *y = if condition[at(0)] != 0 { a[at(1)] } else { b[at(2)] };
            }
        });
        Ok(())
    }
}

/// `Where` between floats.
pub(super) fn lower_where(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let [Some(condition), Some(a), Some(b)] = node.inputs[..] else { return Ok(false) };
    let y = node.outputs[0];
    if cx.graph.ty(condition).element != Element::Bool || ![a, b, y].iter().all(|id| is_f32(cx, *id)) {
        return Ok(false);
    }
    let layout = layout_of(cx, &[condition, a, b], y);
    let mut inputs = vec![];
    let mut single = [false; 3];
    for (i, id) in [condition, a, b].into_iter().enumerate() {
        let (place, spread) = strided::spread(cx, node, id, y, layout)?;
        single[i] = spread == Spread::Scalar;
        let direct = matches!(spread, Spread::Full | Spread::Scalar);
        inputs.push(if direct { place } else { strided::expand(cx, node, id, y, layout)? });
    }
    let outputs = vec![cx.write(y, layout)];
    cx.push(StepSpec::new(node, "select f32", inputs, outputs, Select { single }));
    Ok(true)
}

/// The layout in which a function of several values is computed: channels last if a full-sized one lies so.
pub(super) fn layout_of(cx: &Lower<'_>, inputs: &[ValueId], y: ValueId) -> Layout {
    let shape = cx.shape(y);
    let last = inputs.iter().any(|id| cx.shape(*id) == shape && cx.layout(*id) == Layout::ChannelsLast)
        || inputs.iter().all(|id| cx.shape(*id) != shape)
            && inputs.iter().any(|id| cx.layout(*id) == Layout::ChannelsLast);
    if last && shape.len() >= 3 { Layout::ChannelsLast } else { Layout::Plain }
}

/// Whether a value is of unquantized f32.
pub(super) fn is_f32(cx: &Lower<'_>, id: ValueId) -> bool {
    cx.graph.ty(id).element == Element::F32 && cx.graph.ty(id).quant.is_none()
}

/// `BatchNormalization` that was not merged into the layer before it: a product and a sum for each channel.
pub(super) fn lower_batch_norm(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), [y]) = (node.input(0), node.outputs.as_slice()) else { return Ok(false) };
    let training = attr(node, "training_mode", false);
    let parameter = |i: usize| node.input(i).and_then(|id| cx.graph.constant(id)).map(Tensor::to_f32s);
    let (Some(scale), Some(bias), Some(mean), Some(variance)) =
        (parameter(1), parameter(2), parameter(3), parameter(4))
    else {
        return Ok(false);
    };
    let shape = cx.shape(x);
    if training || !is_f32(cx, x) || !is_f32(cx, *y) || shape.len() < 2 {
        return Ok(false);
    }
    let epsilon = f64::from(attr(node, "epsilon", 1e-5f32));
    let factor: Vec<f64> =
        scale.iter().zip(&variance).map(|(s, v)| f64::from(*s) / (f64::from(*v) + epsilon).sqrt()).collect();
    let shift: Vec<f32> =
        bias.iter().zip(&mean).zip(&factor).map(|((b, m), f)| (f64::from(*b) - f64::from(*m) * f) as f32).collect();
    let factor: Vec<f32> = factor.into_iter().map(|f| f as f32).collect();
    let layout = if shape.len() >= 3 { Layout::ChannelsLast } else { Layout::Plain };
    let tail = fuse::float_tail(cx, *y, false);
    let input = cx.read(x, layout)?;
    let (factor, shift) = (cx.floats(&factor), cx.floats(&shift));
    let scaled = cx.buffer(input.bytes);
    let output = cx.write(tail.output, layout);
    let name = format!("binary f32 {}", cx.isa.name());
    let spreads = [Spread::Full, Spread::Row];
    for (op, clamp, inputs, output, nodes) in [
        (Binary::Mul, Clamp::NONE, vec![input, factor], scaled, &[][..]),
        (Binary::Add, tail.clamp, vec![scaled, shift], output, &tail.nodes[..]),
    ] {
        let step = BinaryStep { isa: cx.isa, op, spreads, clamp };
        let mut step = StepSpec::new(node, name.clone(), inputs, vec![output], step);
        step.in_place = Some(0);
        cx.push_fused(step, nodes);
    }
    Ok(true)
}

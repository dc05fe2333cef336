//! The borders between real and quantized numbers, and sums of quantized ones.

use qing_graph::{Element, Node, NodeId, Type, ValueId, arithmetic};
use qing_kernels::{
    Isa, Pool,
    quantized::{
        Clip, QAdd,
        elementwise::{dequantize, quantize, quantize_channels_last},
    },
};

use super::{
    Lower, StepSpec,
    elementwise::{Spread, is_f32, layout_of},
    fuse, strided, table,
};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
    storage::bias,
};

/// Zero point and range of a type as stored.
pub(super) fn clip_of(ty: &Type) -> Option<(f32, Clip)> {
    let to = arithmetic::per_tensor(ty).ok()?;
    let stored = |q: i32| u8::try_from(q + bias(ty.element)).ok();
    let clip = Clip { zero: stored(to.zero)?, lo: stored(to.lo)?, hi: stored(to.hi)? };
    (ty.element != Element::Bipolar).then_some((to.scale, clip))
}

struct Quantize {
    isa: Isa,
    scale: f32,
    clip: Clip,
    /// Sizes if the channel moves last on the way.
    channels_last: Option<[usize; 3]>,
}

impl Step for Quantize {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let x = inputs.values(0);
        match self.channels_last {
            Some(sizes) => quantize_channels_last(self.isa, sizes, self.scale, self.clip, x, y, pool)?,
            None => quantize(self.isa, self.scale, self.clip, x, y, pool)?,
        }
        Ok(())
    }
}

struct Dequantize {
    isa: Isa,
    scale: f32,
    zero: u8,
}

impl Step for Dequantize {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        dequantize(self.isa, self.scale, self.zero, inputs.values(0), bytemuck::cast_slice_mut(y), pool)?;
        Ok(())
    }
}

/// `Quantize`: from reals, or from another quantization by a table.
pub(super) fn lower_quantize(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), y) = (node.input(0), node.outputs[0]) else { return Ok(false) };
    if cx.graph.ty(x).quant.is_some() {
        return table::lower(cx, node);
    }
    let Some((scale, clip)) = clip_of(cx.graph.ty(y)) else { return Ok(false) };
    if !is_f32(cx, x) {
        return Ok(false);
    }
    let shape = cx.shape(x);
    let from = cx.layout(x);
    let moves = from == Layout::Plain && shape.len() >= 3 && cx.wants_channels_last(y);
    let channels_last = moves.then(|| [shape[0], shape[1], shape[2..].iter().product()]);
    let inputs = vec![cx.read(x, from)?];
    let outputs = vec![cx.write(y, if moves { Layout::ChannelsLast } else { from })];
    let step = Quantize { isa: cx.isa, scale, clip, channels_last };
    cx.push(StepSpec::new(node, format!("quantize {}", cx.isa.name()), inputs, outputs, step));
    Ok(true)
}

/// `Dequantize`
pub(super) fn lower_dequantize(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), y) = (node.input(0), node.outputs[0]) else { return Ok(false) };
    let ty = cx.graph.ty(x);
    let Ok(from) = arithmetic::per_tensor(ty) else { return Ok(false) };
    let Ok(zero) = u8::try_from(from.zero + bias(ty.element)) else { return Ok(false) };
    if !is_f32(cx, y) {
        return Ok(false);
    }
    let layout = cx.layout(x);
    let inputs = vec![cx.read(x, layout)?];
    let outputs = vec![cx.write(y, layout)];
    let step = Dequantize { isa: cx.isa, scale: from.scale, zero };
    cx.push(StepSpec::new(node, format!("dequantize {}", cx.isa.name()), inputs, outputs, step));
    Ok(true)
}

struct Add {
    isa: Isa,
    add: QAdd,
}

impl Step for Add {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        self.add.run(self.isa, inputs.values(0), inputs.values(1), y, pool)?;
        Ok(())
    }
}

/// An addition of two quantized values and the nodes after it that only limit its range.
pub(super) struct QuantizedSum {
    pub(super) add: QAdd,
    /// The value that is computed in the end.
    pub(super) output: ValueId,
    /// Absorbed nodes after the addition.
    pub(super) absorbed: Vec<NodeId>,
}

/// The constants of a node that adds `a` and `b`, both quantized per tensor.
pub(super) fn sum_of(cx: &Lower<'_>, node: &Node, a: ValueId, b: ValueId) -> Option<QuantizedSum> {
    let y = node.outputs[0];
    let from_a = arithmetic::per_tensor(cx.graph.ty(a)).ok()?;
    let from_b = arithmetic::per_tensor(cx.graph.ty(b)).ok()?;
    let (y_scale, clip) = clip_of(cx.graph.ty(y))?;
    let zero = |id: ValueId, zero: i32| u8::try_from(zero + bias(cx.graph.ty(id).element)).ok();
    let (a_zero, b_zero) = (zero(a, from_a.zero)?, zero(b, from_b.zero)?);
    let scales = arithmetic::add_scales(from_a.scale, from_b.scale, y_scale);
    // Functions that only limit the range cost nothing; others are left to a table.
    let tail = fuse::quantized_tail(cx, y);
    let (output, clip, absorbed) = match tail.requantize(cx, cx.graph.ty(y), vec![]) {
        Some(r) if r.table.is_none() => (tail.output, Clip { zero: r.zero, lo: r.lo, hi: r.hi }, tail.nodes),
        _ => (y, clip, vec![]),
    };
    let add = QAdd { a_zero, b_zero, m_a: scales.a, m_b: scales.b, scale: scales.scale, clip };
    Some(QuantizedSum { add, output, absorbed })
}

/// `Add` of two values quantized per tensor, with what follows it.
pub(super) fn lower_add(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let [Some(a), Some(b)] = node.inputs[..] else { return Ok(false) };
    let y = node.outputs[0];
    let Some(QuantizedSum { add, output, absorbed }) = sum_of(cx, node, a, b) else { return Ok(false) };
    let layout = layout_of(cx, &[a, b], y);
    let mut inputs = vec![];
    for id in [a, b] {
        let (place, spread) = strided::spread(cx, node, id, y, layout)?;
        inputs.push(if spread == Spread::Full { place } else { strided::expand(cx, node, id, y, layout)? });
    }
    let outputs = vec![cx.write(output, layout)];
    let step = Add { isa: cx.isa, add };
    let step = StepSpec::new(node, format!("add u8 {}", cx.isa.name()), inputs, outputs, step);
    cx.push_fused(step, &absorbed);
    Ok(true)
}

//! Quantized dots: convolutions and products with constant weights of at most eight bits.

use std::{borrow::Cow, cell::LazyCell, ops::Deref};

use qing_graph::{Element, Granularity, Node, NodeId, ValueId, arithmetic, ops};
use qing_kernels::{
    ConvGeometry, KernelError, Pool,
    quantized::{Epilogue, IntegerSource, Output, QAdd, QConv, QDepthwise, Residual},
};

use super::{
    Lower, StepSpec,
    bits::{self, BitDot, FewBits},
    conv::name,
    fuse, prelu,
    quantize::{self, QuantizedSum},
};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
    storage::bias as stored_bias,
};

enum Packed {
    Dense(QConv),
    FewBits(FewBits),
    Depthwise(QDepthwise),
}

struct Dot {
    packed: Packed,
    /// Whether the results are real numbers.
    real: bool,
    /// How input 1 is added to the results, if there is one.
    residual: Option<QAdd>,
}

impl Step for Dot {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let residual = self.residual.as_ref().map(|add| Residual { values: inputs.values(1), add });
        if let Packed::FewBits(FewBits::Planes(dot)) = &self.packed {
            return dot.run(&inputs, y, scratch, (self.real, residual), pool);
        }
        let x = inputs.values(0);
        let y = if self.real { Output::F32(bytemuck::cast_slice_mut(y)) } else { Output::U8(y) };
        match &self.packed {
            Packed::Dense(conv) => conv.run_adding(x, residual, y, scratch, pool)?,
            Packed::FewBits(FewBits::Narrow(conv)) => conv.run_adding(x, residual, y, scratch, pool)?,
            Packed::FewBits(FewBits::Sparse(conv)) => conv.run_adding(x, residual, y, scratch, pool)?,
            Packed::Depthwise(conv) => conv.run(x, y, scratch, pool)?,
            Packed::FewBits(FewBits::Planes(_)) => unreachable!("computed above"),
        }
        Ok(())
    }

    fn bits(&mut self) -> Option<&mut BitDot> {
        match &mut self.packed {
            Packed::FewBits(FewBits::Planes(dot)) => Some(dot),
            _ => None,
        }
    }
}

/// The addition that reads `value` and nothing else does, if its other operand has been computed: the node, that operand and
/// the constants.
fn residual_of(cx: &Lower<'_>, value: ValueId) -> Option<(NodeId, ValueId, QuantizedSum)> {
    let (index, node) = cx.single_consumer(value)?;
    let [Some(a), Some(b)] = node.inputs[..] else { return None };
    let other = if a == value { b } else { a };
    let fits = node.op.is::<ops::Add>()
        && other != value
        && cx.is_defined(other)
        && cx.shape(other) == cx.shape(value)
        && cx.graph.constant(other).is_none();
    if !fits {
        return None;
    }
    Some((index, other, quantize::sum_of(cx, node, value, other)?))
}

/// How integers are read from the file.
pub(super) type Read<'g> = Box<dyn FnOnce() -> Cow<'g, [i8]> + 'g>;

/// Integers that are read when a kernel is packed from them, and only then.
pub(super) struct Integers<'g>(LazyCell<Cow<'g, [i8]>, Read<'g>>);

impl<'g> Integers<'g> {
    pub(super) fn new(read: impl FnOnce() -> Cow<'g, [i8]> + 'g) -> Integers<'g> {
        Integers(LazyCell::new(Box::new(read)))
    }
}

impl Deref for Integers<'_> {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        &self.0
    }
}

/// What kernels multiply by: the integers of the constant weights `w` minus their zero points, in the order of the tensor,
/// borrowed where the file has just these. `None` if eight bits do not hold them, or the zero points differ along another
/// axis than `axis`, that of the output channels.
pub(super) fn centered<'g>(cx: &Lower<'g>, w: ValueId, axis: usize) -> Option<Read<'g>> {
    let graph = cx.graph;
    let (tensor, quant) = (graph.constant(w)?, graph.ty(w).quant.as_deref()?);
    match quant.granularity() {
        Granularity::Tensor => {}
        Granularity::Axis(of) if of == axis => {}
        _ => return None,
    }
    if quant.zeros().iter().all(|zero| *zero == 0)
        && matches!(tensor.element(), Element::I8 | Element::Bits { .. } | Element::Bipolar)
    {
        return Some(Box::new(move || tensor.to_i8s().unwrap_or_default()));
    }
    let (channels, inner) = (*tensor.shape().get(axis)?, tensor.shape()[axis + 1..].iter().product::<usize>());
    let codes = tensor.to_ints().into_iter().enumerate();
    codes
        .map(|(i, q)| i8::try_from(q - quant.zero(i / inner.max(1) % channels)).ok())
        .collect::<Option<Vec<_>>>()
        .map(|codes| -> Read<'g> { Box::new(move || Cow::Owned(codes)) })
}

/// Lowers a node whose input 0 is quantized, input 1 are quantized constant weights and input 2 an i32 bias. `weights` are
/// what [`centered`] gave, as `[out_c, taps, in_c / groups]`.
pub(super) fn lower(
    cx: &mut Lower<'_>,
    node: &Node,
    geometry: ConvGeometry,
    weights: IntegerSource<'_>,
    layout: Layout,
) -> Result<bool, EngineError> {
    let (Some(x), Some(w)) = (node.input(0), node.input(1)) else { return Ok(false) };
    let y = node.outputs[0];
    let (x_ty, w_ty, y_ty) = (cx.graph.ty(x), cx.graph.ty(w), cx.graph.ty(y));
    let Some(w_quant) = &w_ty.quant else { return Ok(false) };
    let Ok(from) = arithmetic::per_tensor(x_ty) else { return Ok(false) };
    let bias = match node.input(2) {
        None => None,
        Some(id) => match cx.graph.constant(id) {
            Some(t) if t.element() == Element::I32 && t.len() == geometry.out_c => Some(t.to_ints()),
            _ => return Ok(false),
        },
    };
    let Ok(x_zero) = u8::try_from(from.zero + stored_bias(x_ty.element)) else { return Ok(false) };
    let per_channel = |f: &dyn Fn(f32) -> f32| (0..geometry.out_c).map(|c| f(w_quant.scale(c))).collect::<Vec<f32>>();
    let mut absorbed = vec![];
    let mut output = y;
    let depthwise = geometry.is_depthwise() && geometry.groups > 1;
    let mut residual = None;
    let mut bend = None;
    let epilogue = match arithmetic::per_tensor(y_ty) {
        Ok(to) => {
            let tail = fuse::quantized_tail(cx, y);
            let scale = per_channel(&|w| arithmetic::dot_scale(from.scale, w, to.scale));
            let Some(requantize) = tail.requantize(cx, y_ty, scale) else { return Ok(false) };
            output = tail.output;
            absorbed = tail.nodes;
            if !depthwise
                && requantize.table.is_none()
                && absorbed.is_empty()
                && let Some(fused) = prelu::after(cx, output, geometry.out_c)
            {
                output = fused.output;
                absorbed.extend(fused.nodes);
                bend = Some(fused.prelu);
            }
            if !depthwise && let Some((add, other, sum)) = residual_of(cx, output) {
                residual = Some((sum.add, other));
                output = sum.output;
                absorbed.push(add);
                absorbed.extend(sum.absorbed);
            }
            Epilogue::Requantize(requantize)
        }
        Err(_) if y_ty.quant.is_none() && y_ty.element == Element::F32 => {
            Epilogue::Dequantize { scale: per_channel(&|w| from.scale * w) }
        }
        Err(_) => return Ok(false),
    };
    let real = matches!(epilogue, Epilogue::Dequantize { .. });
    let refuse = |cx: &Lower<'_>, e: KernelError| cx.refuse(node, e);
    // Only the kernel of bytes bends its results by a PReLU.
    let few = if depthwise || bend.is_some() {
        None
    } else {
        let input = (x, x_zero);
        let alone = residual.is_none().then_some(output);
        let few = bits::pack(cx, geometry, weights, bias.as_deref(), input, &epilogue, alone);
        few.map_err(|e| refuse(cx, e))?
    };
    let product = if layout == Layout::Plain { "product" } else { "conv" };
    let mut weight_bytes = geometry.weights_len();
    let (packed, kernel, scratch) = if let Some(few) = few {
        let (kernel, scratch) = (format!("{product} {}", few.name(w_ty)), few.scratch_bytes(cx.threads));
        weight_bytes = few.weight_bytes();
        (Packed::FewBits(few), kernel, scratch)
    } else if depthwise {
        let conv = QDepthwise::pack(cx.isa, geometry, weights, bias.as_deref(), x_zero, epilogue);
        let conv = conv.map_err(|e| refuse(cx, e))?;
        let scratch = conv.scratch_bytes(cx.threads);
        (Packed::Depthwise(conv), "depthwise u8".into(), scratch)
    } else {
        let conv = QConv::pack(cx.isa, geometry, weights, bias.as_deref(), x_zero, epilogue);
        let conv = conv.and_then(|conv| match bend {
            Some(prelu) => conv.with_prelu(prelu),
            None => Ok(conv),
        });
        let conv = conv.map_err(|e| refuse(cx, e))?;
        let scratch = conv.scratch_bytes(cx.threads);
        (Packed::Dense(conv), format!("{product} u8"), scratch)
    };
    let mut inputs = vec![cx.read(x, layout)?];
    if let Some((_, other)) = residual {
        inputs.push(cx.read(other, layout)?);
    }
    let outputs = vec![cx.write(output, layout)];
    let dot = Dot { packed, real, residual: residual.map(|(add, _)| add) };
    let mut step = StepSpec::new(node, name(cx, &kernel, &geometry), inputs, outputs, dot);
    step.scratch = scratch;
    step.weights = weight_bytes as u64;
    cx.push_fused(step, &absorbed);
    Ok(true)
}

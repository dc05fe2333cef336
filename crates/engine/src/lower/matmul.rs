//! Matrix products: by constant weights packed once, or of two values.

use qing_graph::{Element, Node, Tensor, ValueId, arithmetic};
use qing_kernels::{
    ConvGeometry, Isa, Pool,
    float::{
        Clamp,
        elementwise::{Binary, Operand, binary},
        matmul::{MatMul, MatMulShape, multiply},
        permute::permute,
    },
    quantized::IntegerSource,
    quantized::{Epilogue, Output, matmul::QMatMul},
};

use super::{Lower, StepSpec, attr, bf16, elementwise::Spread, fuse, groups, qconv, strided};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
    storage::bias as stored_bias,
};

/// Input 0 is the left operand, input 1 the residual.
struct Packed {
    product: MatMul,
    residual: bool,
}

impl Step for Packed {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let residual = self.residual.then(|| inputs.values(1));
        self.product.run(inputs.values(0), residual, bytemuck::cast_slice_mut(y), pool)?;
        Ok(())
    }
}

/// A product of two values.
struct Product {
    isa: Isa,
    shape: MatMulShape,
    scratch: usize,
}

impl Step for Product {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let scratch = &mut bytemuck::cast_slice_mut(scratch)[..self.scratch];
        let (a, b) = (inputs.values(0), inputs.values(1));
        multiply(self.isa, &self.shape, a, b, 1.0, bytemuck::cast_slice_mut(y), scratch, pool)?;
        Ok(())
    }
}

/// Whether these values are all unquantized f32.
fn all_f32(cx: &Lower<'_>, ids: &[ValueId]) -> bool {
    ids.iter().all(|id| cx.graph.ty(*id).element == Element::F32 && cx.graph.ty(*id).quant.is_none())
}

/// `MatMul`
pub(super) fn matmul(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return Ok(false) };
    let y = node.outputs[0];
    let (a_shape, b_shape) = (cx.shape(a), cx.shape(b));
    if a_shape.is_empty() || b_shape.len() < 2 {
        return Ok(false);
    }
    let depth = a_shape[a_shape.len() - 1];
    let cols = b_shape[b_shape.len() - 1];
    if let (Some(weights), [_, _]) = (cx.graph.constant(b), b_shape.as_slice()) {
        if cx.graph.ty(a).quant.is_some() {
            let Some(weights) = qconv::centered(cx, b, 1) else { return groups::lower(cx, node, depth, cols) };
            let weights = qconv::Integers::new(move || transposed(&weights(), depth, cols).into());
            return quantized(cx, node, depth, cols, &weights);
        }
        if all_f32(cx, &[a, b, y]) {
            let weights = weights.values()?;
            return constant(cx, node, a, (depth, cols), &weights, false, None);
        }
        return Ok(false);
    }
    if a_shape.len() < 2 {
        return Ok(false);
    }
    let quantized = cx.graph.ty(a).quant.is_some() && cx.graph.ty(b).quant.is_some();
    if !quantized && !all_f32(cx, &[a, b, y]) {
        return Ok(false);
    }
    let rows = a_shape[a_shape.len() - 2];
    let (a_batch, b_batch) = (&a_shape[..a_shape.len() - 2], &b_shape[..b_shape.len() - 2]);
    let (a_count, b_count) = (a_batch.iter().product::<usize>(), b_batch.iter().product::<usize>());
    let trimmed = |batch: &[usize]| batch.iter().copied().skip_while(|d| *d == 1).collect::<Vec<_>>();
    if a_count != 1 && b_count != 1 && trimmed(a_batch) != trimmed(b_batch) {
        return Ok(false);
    }
    if quantized {
        return quantized_pair(cx, node, (a_count, b_count), [rows, depth, cols]);
    }
    let batch = a_count.max(b_count);
    // One right operand for all: the rows of all left ones are one matrix.
    let (batch, rows) = if b_count == 1 { (1, rows * batch) } else { (batch, rows) };
    let shape = MatMulShape {
        batch,
        rows,
        depth,
        cols,
        transposed: false,
        shared_left: a_count == 1 && batch > 1,
        shared_right: false,
    };
    product(cx, node, shape, a, b)
}

/// Pushes a product of two values.
fn product(cx: &mut Lower<'_>, node: &Node, shape: MatMulShape, a: ValueId, b: ValueId) -> Result<bool, EngineError> {
    let scratch = shape.scratch_len(cx.isa).map_err(|e| cx.refuse(node, e))?;
    let inputs = vec![cx.read(a, Layout::Plain)?, cx.read(b, Layout::Plain)?];
    let outputs = vec![cx.write(node.outputs[0], Layout::Plain)];
    let step = Product { isa: cx.isa, shape, scratch };
    let mut step = StepSpec::new(node, format!("product f32 {}", cx.isa.name()), inputs, outputs, step);
    step.scratch = 4 * scratch;
    cx.push(step);
    Ok(true)
}

/// `Gemm`: `alpha · A · B + beta · C`.
pub(super) fn gemm(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return Ok(false) };
    let (a_shape, b_shape) = (cx.shape(a), cx.shape(b));
    let transposed_b = attr(node, "transB", 0i64) != 0;
    let (alpha, beta) = (attr(node, "alpha", 1.0f32), attr(node, "beta", 1.0f32));
    let transposed_a = attr(node, "transA", 0i64) != 0;
    if a_shape.len() != 2 || b_shape.len() != 2 {
        return Ok(false);
    }
    let depth = if transposed_a { a_shape[0] } else { a_shape[1] };
    let cols = if transposed_b { b_shape[0] } else { b_shape[1] };
    let plain_c = node.input(2).is_none_or(|c| cx.graph.constant(c).is_some());
    let Some(weights) = cx.graph.constant(b).filter(|_| !transposed_a && plain_c) else {
        return general(cx, node, transposed_a, transposed_b, (alpha, beta));
    };
    if cx.graph.ty(a).quant.is_some() {
        if alpha != 1.0 || beta != 1.0 {
            return Ok(false);
        }
        let Some(weights) = qconv::centered(cx, b, usize::from(!transposed_b)) else { return Ok(false) };
        let weights =
            qconv::Integers::new(
                move || {
                    if transposed_b { weights() } else { transposed(&weights(), depth, cols).into() }
                },
            );
        return quantized(cx, node, depth, cols, &weights);
    }
    if !all_f32(cx, &[a, b, node.outputs[0]]) {
        return Ok(false);
    }
    let mut weights = weights.values::<f32>()?;
    if alpha != 1.0 {
        weights.to_mut().iter_mut().for_each(|w| *w *= alpha);
    }
    let bias = match node.input(2) {
        None => None,
        Some(c) => {
            let shape = cx.shape(c);
            let row = shape.iter().rev().skip(1).all(|d| *d == 1) && shape.last().is_none_or(|d| *d == 1 || *d == cols);
            match cx.graph.constant(c).map(Tensor::to_f32s) {
                Some(c) if row => Some((0..cols).map(|i| c[i % c.len()] * beta).collect()),
                _ => return general(cx, node, false, transposed_b, (alpha, beta)),
            }
        }
    };
    constant(cx, node, a, (depth, cols), &weights, transposed_b, bias)
}

/// `alpha · A · B + beta · C` of three values. Inputs: A, B, and C if there is one.
struct General {
    isa: Isa,
    shape: MatMulShape,
    alpha: f32,
    /// Values of scratch that the product needs; before them lies A, if it is transposed.
    scratch: usize,
    transposed: bool,
    /// How C lies beside the results.
    added: Option<(Spread, f32)>,
}

impl Step for General {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let (a, b, y) = (inputs.values::<f32>(0), inputs.values(1), bytemuck::cast_slice_mut(y));
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch);
        let (rows, depth) = (self.shape.rows, self.shape.depth);
        let (turned, scratch) = scratch.split_at_mut(if self.transposed { a.len() } else { 0 });
        if self.transposed {
            permute(&[depth, rows], &[1, 0], a, turned, pool)?;
        }
        let a = if self.transposed { &*turned } else { a };
        multiply(self.isa, &self.shape, a, b, self.alpha, y, &mut scratch[..self.scratch], pool)?;
        let Some((spread, beta)) = self.added else { return Ok(()) };
        let c: &[f32] = inputs.values(2);
        let scaled = &mut scratch[..c.len()];
        for (to, from) in scaled.iter_mut().zip(c) {
            *to = beta * from;
        }
        let c = match spread {
            Spread::Full => Operand::Full(scaled),
            Spread::Scalar => Operand::Scalar(scaled[0]),
            Spread::Row => Operand::Row(scaled),
            Spread::Column(run) => Operand::Column(scaled, run),
        };
        binary(self.isa, Binary::Add, Operand::Output, c, Clamp::NONE, y, pool)?;
        Ok(())
    }
}

/// Pushes a product of values that are all given at run time.
fn general(
    cx: &mut Lower<'_>,
    node: &Node,
    transposed: bool,
    transposed_b: bool,
    (alpha, beta): (f32, f32),
) -> Result<bool, EngineError> {
    let (Some(a), Some(b), y) = (node.input(0), node.input(1), node.outputs[0]) else { return Ok(false) };
    let all: Vec<ValueId> = node.inputs.iter().flatten().copied().chain([y]).collect();
    if !all_f32(cx, &all) {
        return Ok(false);
    }
    let (a_shape, y_shape) = (cx.shape(a), cx.shape(y));
    let [rows, cols] = y_shape[..] else { return Ok(false) };
    let depth = if transposed { a_shape[0] } else { a_shape[1] };
    let shape =
        MatMulShape { batch: 1, rows, depth, cols, transposed: transposed_b, shared_left: false, shared_right: false };
    let product = shape.scratch_len(cx.isa).map_err(|e| cx.refuse(node, e))?;
    let mut inputs = vec![cx.read(a, Layout::Plain)?, cx.read(b, Layout::Plain)?];
    let mut added = None;
    let mut scratch = product;
    if let Some(c) = node.input(2) {
        let (place, spread) = strided::spread(cx, node, c, y, Layout::Plain)?;
        scratch = scratch.max(place.bytes / 4);
        added = Some((spread, beta));
        inputs.push(place);
    }
    let turned = if transposed { rows * depth } else { 0 };
    let outputs = vec![cx.write(y, Layout::Plain)];
    let step = General { isa: cx.isa, shape, alpha, scratch: product, transposed, added };
    let mut step = StepSpec::new(node, format!("product f32 {}", cx.isa.name()), inputs, outputs, step);
    step.scratch = 4 * (turned + scratch);
    cx.push(step);
    Ok(true)
}

/// Pushes a product by constant weights.
fn constant(
    cx: &mut Lower<'_>,
    node: &Node,
    a: ValueId,
    (depth, cols): (usize, usize),
    weights: &[f32],
    transposed: bool,
    bias: Option<Vec<f32>>,
) -> Result<bool, EngineError> {
    let mut bias = bias;
    let mut start = node.outputs[0];
    let mut absorbed = vec![];
    // A bias that stands as a node of its own.
    if bias.is_none()
        && let Some((index, next)) = cx.single_consumer(start)
        && next.op.name() == "Add"
        && let Some(other) = next.inputs.iter().flatten().find(|id| **id != start)
        && let Some(values) = cx.graph.constant(*other)
        && values.len() == cols
        && values.shape().last() == Some(&cols)
        && all_f32(cx, &[*other])
        && cx.shape(next.outputs[0]) == cx.shape(start)
    {
        bias = Some(values.to_f32s());
        start = next.outputs[0];
        absorbed.push(index);
    }
    let on = (start, absorbed.clone());
    if bf16::product(cx, node, a, on, (depth, cols), (weights, transposed), bias.as_deref())? {
        return Ok(true);
    }
    let tail = fuse::float_tail(cx, start, true);
    absorbed.extend(&tail.nodes);
    let product = MatMul::pack(cx.isa, depth, cols, weights, transposed, bias.as_deref(), tail.clamp)
        .map_err(|e| cx.refuse(node, e))?;
    let mut inputs = vec![cx.read(a, Layout::Plain)?];
    if let Some(residual) = tail.residual {
        inputs.push(cx.read(residual, Layout::Plain)?);
    }
    let outputs = vec![cx.write(tail.output, Layout::Plain)];
    let step = Packed { product, residual: tail.residual.is_some() };
    let mut step = StepSpec::new(node, format!("product f32 {}", cx.isa.name()), inputs, outputs, step);
    step.weights = 4 * weights.len() as u64;
    cx.push_fused(step, &absorbed);
    Ok(true)
}

/// A product of two quantized values.
struct QuantizedProduct {
    isa: Isa,
    product: QMatMul,
    real: bool,
}

impl Step for QuantizedProduct {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let y = if self.real { Output::F32(bytemuck::cast_slice_mut(y)) } else { Output::U8(y) };
        self.product.run(self.isa, inputs.values(0), inputs.values(1), y, scratch, pool)?;
        Ok(())
    }
}

/// Pushes a product of two values quantized per tensor.
fn quantized_pair(
    cx: &mut Lower<'_>,
    node: &Node,
    (a_count, b_count): (usize, usize),
    [rows, depth, columns]: [usize; 3],
) -> Result<bool, EngineError> {
    let (Some(a), Some(b), y) = (node.input(0), node.input(1), node.outputs[0]) else { return Ok(false) };
    let (batch, rows) = if b_count == 1 { (1, rows * a_count) } else { (b_count, rows) };
    if b_count != 1 && a_count != b_count {
        return Ok(false);
    }
    let (a_ty, b_ty, y_ty) = (cx.graph.ty(a), cx.graph.ty(b), cx.graph.ty(y));
    let (Ok(from_a), Ok(from_b)) = (arithmetic::per_tensor(a_ty), arithmetic::per_tensor(b_ty)) else {
        return Ok(false);
    };
    let zero = |zero: i32, element| u8::try_from(zero + stored_bias(element)).ok();
    let (Some(a_zero), Some(b_zero)) = (zero(from_a.zero, a_ty.element), zero(from_b.zero, b_ty.element)) else {
        return Ok(false);
    };
    let mut output = y;
    let mut absorbed = vec![];
    let epilogue = match arithmetic::per_tensor(y_ty) {
        Ok(to) => {
            let tail = fuse::quantized_tail(cx, y);
            let scale = arithmetic::dot_scale(from_a.scale, from_b.scale, to.scale);
            let Some(requantize) = tail.requantize(cx, y_ty, vec![scale; columns]) else { return Ok(false) };
            output = tail.output;
            absorbed = tail.nodes;
            Epilogue::Requantize(requantize)
        }
        Err(_) if y_ty.quant.is_none() && y_ty.element == Element::F32 => {
            Epilogue::Dequantize { scale: vec![from_a.scale * from_b.scale; columns] }
        }
        Err(_) => return Ok(false),
    };
    let real = matches!(epilogue, Epilogue::Dequantize { .. });
    let product = QMatMul { batch, rows, depth, columns, a_zero, b_zero, epilogue };
    let inputs = vec![cx.read(a, Layout::Plain)?, cx.read(b, Layout::Plain)?];
    let outputs = vec![cx.write(output, Layout::Plain)];
    let scratch = product.scratch_bytes(cx.isa, cx.threads);
    let step = QuantizedProduct { isa: cx.isa, product, real };
    let mut step = StepSpec::new(node, format!("product u8 {}", cx.isa.name()), inputs, outputs, step);
    step.scratch = scratch;
    cx.push_fused(step, &absorbed);
    Ok(true)
}

/// Pushes a quantized product; `weights` are `[cols, depth]`.
fn quantized(
    cx: &mut Lower<'_>,
    node: &Node,
    depth: usize,
    cols: usize,
    weights: IntegerSource<'_>,
) -> Result<bool, EngineError> {
    let Some(x) = node.input(0) else { return Ok(false) };
    let rows = cx.shape(x).iter().product::<usize>() / depth.max(1);
    qconv::lower(cx, node, ConvGeometry::matmul(rows, depth, cols), weights, Layout::Plain)
}

fn transposed<T: Copy>(weights: &[T], depth: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|c| (0..depth).map(move |d| weights[d * cols + c])).collect()
}

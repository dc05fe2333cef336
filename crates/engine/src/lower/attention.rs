//! Attention as one step: the operator of that name, and what exporters spell out as two products with a softmax between them.
//!
//! Spelled-out attention is found before anything is lowered, because the transpositions around it, which split and join heads, come
//! first and need not happen at all: the kernels read and write heads where they lie.

use std::collections::HashMap;

use qing_graph::{Element, Node, NodeId, ValueId, arithmetic, ops};
use qing_kernels::{
    Isa, Pool,
    float::attention::Attention,
    heads::{Heads, MaskRows, Rows},
    quantized::{QAttention, Requantize, attention::Scores},
};

use super::{Lower, StepSpec, attr, elementwise::is_f32, macs, quantize::clip_of};
use crate::{
    Arithmetic, EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
    storage::bias,
};

/// Inputs: queries, keys, values, and the mask if there is one.
struct Float {
    attention: Attention,
    mask: bool,
}

impl Step for Float {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let mask = self.mask.then(|| inputs.values(3));
        let operands = [0, 1, 2].map(|i| inputs.values(i));
        let (y, scratch) = (bytemuck::cast_slice_mut(y), bytemuck::cast_slice_mut(scratch));
        self.attention.run(operands, mask, y, scratch, pool)?;
        Ok(())
    }
}

/// Inputs as those of [`Float`].
struct Quantized {
    isa: Isa,
    attention: QAttention,
    mask: bool,
}

impl Step for Quantized {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let mask = self.mask.then(|| inputs.values(3));
        let operands = [0, 1, 2].map(|i| inputs.values(i));
        self.attention.run(self.isa, operands, mask, y, scratch, pool)?;
        Ok(())
    }
}

/// What the scores are made of.
enum Kernel {
    /// Floats, with this factor.
    Float(f32),
    /// Quantized values; boxed because it is much larger.
    Quantized(Box<QAttention>),
}

/// Attention that the graph spells out.
pub(super) struct Found {
    /// The product of queries and keys, which gives the step its name.
    first: NodeId,
    /// The other nodes.
    rest: Vec<NodeId>,
    /// Queries, keys, values and mask, as they are read.
    inputs: Vec<ValueId>,
    output: ValueId,
    heads: Heads,
    kernel: Kernel,
}

/// Everything there is, by the node at which all that is needed has been computed.
pub(super) fn find(cx: &Lower<'_>) -> HashMap<NodeId, Found> {
    let finder = Finder { cx, producers: cx.graph.producers() };
    let softmax = |(index, node): (usize, &Node)| node.op.is::<ops::Softmax>().then_some(index);
    let found = cx.graph.nodes.iter().enumerate().filter_map(softmax).filter_map(|index| finder.around(index));
    found.map(|f| (f.rest.iter().copied().chain([f.first]).max().unwrap_or(f.first), f)).collect()
}

impl Found {
    /// The nodes it computes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.rest.iter().copied().chain([self.first])
    }
}

/// Pushes the step.
pub(super) fn lower(cx: &mut Lower<'_>, found: Found) -> Result<(), EngineError> {
    let node = &cx.graph.nodes[found.first];
    let mut inputs = vec![];
    for id in &found.inputs {
        inputs.push(cx.read(*id, Layout::Plain)?);
    }
    let mask = found.heads.mask.is_some();
    let outputs = vec![cx.write(found.output, Layout::Plain)];
    let (isa, threads) = (cx.isa, cx.threads);
    let mut spec = match found.kernel {
        Kernel::Float(scale) => {
            let attention = Attention::new(isa, found.heads, scale);
            let name = format!("attention f32 {}", isa.name());
            let spec = StepSpec::new(node, name, inputs, outputs, Float { attention, mask });
            StepSpec { scratch: 4 * attention.scratch_len(threads), ..spec }
        }
        Kernel::Quantized(attention) => {
            let scratch = attention.scratch_bytes(threads);
            let name = format!("attention u8 {}", isa.name());
            let spec = StepSpec::new(node, name, inputs, outputs, Quantized { isa, attention: *attention, mask });
            StepSpec { scratch, arithmetic: Arithmetic::Integer, ..spec }
        }
    };
    spec.macs = macs(cx.graph, node);
    cx.push_fused(spec, &found.rest);
    Ok(())
}

/// `Attention`
pub(super) fn lower_op(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(q), Some(k), Some(v), [y]) = (node.input(0), node.input(1), node.input(2), &node.outputs[..]) else {
        return Ok(false);
    };
    let plain = node.inputs.iter().skip(4).all(Option::is_none) && attr(node, "softcap", 0.0f32) == 0.0;
    if !plain || ![q, k, v, *y].iter().all(|id| is_f32(cx, *id)) {
        return Ok(false);
    }
    // [items, heads, rows, size], and where they are.
    let sizes = |id: ValueId, heads: &str| match cx.shape(id)[..] {
        [b, h, n, d] => Some(([b, h, n, d], Rows::split(h, n, d))),
        [b, n, width] => {
            let h = usize::try_from(attr(node, heads, 0i64)).ok().filter(|h| *h > 0 && width % *h == 0)?;
            Some(([b, h, n, width / h], Rows::joined(h, n, width / h)))
        }
        _ => None,
    };
    let (Some((q_sizes, q_rows)), Some((k_sizes, k_rows)), Some((v_sizes, v_rows))) =
        (sizes(q, "q_num_heads"), sizes(k, "kv_num_heads"), sizes(v, "kv_num_heads"))
    else {
        return Ok(false);
    };
    let [batch, heads, queries, size] = q_sizes;
    let value_size = v_sizes[3];
    let joined = cx.shape(q).len() == 3;
    let y_rows =
        if joined { Rows::joined(heads, queries, value_size) } else { Rows::split(heads, queries, value_size) };
    let mask = match node.input(3) {
        None => None,
        Some(mask) if is_f32(cx, mask) => match mask_rows(&cx.shape(mask), [batch, heads, queries, k_sizes[2]]) {
            Some(rows) => Some((mask, rows)),
            None => return Ok(false),
        },
        Some(_) => return Ok(false),
    };
    let fits = k_sizes[..3] == v_sizes[..3] && k_sizes[0] == batch && k_sizes[3] == size && heads % k_sizes[1] == 0;
    if !fits {
        return Ok(false);
    }
    let sizes = Heads {
        batch,
        heads,
        key_heads: k_sizes[1],
        queries,
        keys: k_sizes[2],
        size,
        value_size,
        causal: attr(node, "is_causal", false),
        q: q_rows,
        k: k_rows,
        v: v_rows,
        y: y_rows,
        mask: mask.map(|(_, rows)| rows),
    };
    let scale: Option<f32> = attr(node, "scale", None);
    let attention = Attention::new(cx.isa, sizes, scale.unwrap_or(1.0 / (size as f32).sqrt()));
    let mut inputs = vec![];
    for id in [q, k, v].into_iter().chain(mask.map(|(id, _)| id)) {
        inputs.push(cx.read(id, Layout::Plain)?);
    }
    let outputs = vec![cx.write(*y, Layout::Plain)];
    let step = Float { attention, mask: mask.is_some() };
    let spec = StepSpec::new(node, format!("attention f32 {}", cx.isa.name()), inputs, outputs, step);
    let scratch = 4 * attention.scratch_len(cx.threads);
    cx.push(StepSpec { scratch, ..spec });
    Ok(true)
}

/// How a mask of this shape is spread over `[items, heads, queries, keys]`.
fn mask_rows(shape: &[usize], [batch, heads, queries, keys]: [usize; 4]) -> Option<MaskRows> {
    let mut full = [1; 4];
    let lead = 4usize.checked_sub(shape.len())?;
    full[lead..].copy_from_slice(shape);
    let mut distances = [0; 4];
    let mut distance = 1;
    for (axis, size) in [batch, heads, queries, keys].into_iter().enumerate().rev() {
        if full[axis] == size && size != 1 {
            distances[axis] = distance;
        } else if full[axis] != 1 {
            return None;
        }
        distance *= full[axis];
    }
    let [item, head, row, column] = distances;
    Some(MaskRows { item, head, row, column })
}

/// Looks for attention around a softmax.
struct Finder<'a> {
    cx: &'a Lower<'a>,
    producers: Vec<Option<NodeId>>,
}

/// An operand: its value as it is read, `[items, heads, rows, size]`, and where the rows are.
struct Operand {
    id: ValueId,
    sizes: [usize; 4],
    rows: Rows,
}

/// The scores before the mask.
struct Product {
    node: NodeId,
    /// Factor after the product.
    factor: f64,
    /// Whether the product is quantized before it is scaled.
    rounded: bool,
}

impl Finder<'_> {
    fn node(&self, index: NodeId) -> &Node {
        &self.cx.graph.nodes[index]
    }

    /// The node that computes a value which only one node reads.
    fn inner(&self, id: ValueId) -> Option<NodeId> {
        self.cx.single_consumer(id)?;
        self.producers[id.0 as usize]
    }

    /// The shape if all of it is known and nothing is empty.
    fn shape(&self, id: ValueId) -> Option<Vec<usize>> {
        self.cx.graph.ty(id).known_shape().filter(|s| !s.contains(&0))
    }

    fn scalar(&self, id: ValueId) -> Option<f64> {
        let tensor = self.cx.graph.constant(id).filter(|t| t.len() == 1 && t.element() == Element::F32)?;
        tensor.to_f64s().first().copied()
    }

    /// For a product by or division through a constant: the other operand and the factor.
    fn scaled(&self, node: &Node) -> Option<(ValueId, f64)> {
        let [Some(a), Some(b)] = node.inputs[..] else { return None };
        match node.op.name() {
            "Div" => Some((a, 1.0 / self.scalar(b)?)),
            "Mul" => self.scalar(b).map(|f| (a, f)).or_else(|| Some((b, self.scalar(a)?))),
            _ => None,
        }
    }

    /// The product behind scores; collects the nodes between.
    fn product(&self, id: ValueId, nodes: &mut Vec<NodeId>) -> Option<Product> {
        let index = self.inner(id)?;
        let node = self.node(index);
        if node.op.is::<ops::MatMul>() {
            return Some(Product { node: index, factor: 1.0, rounded: false });
        }
        nodes.push(index);
        if node.op.is::<ops::Dequantize>() {
            let product = self.product(node.input(0)?, nodes)?;
            return (product.factor == 1.0 && !product.rounded).then_some(Product { rounded: true, ..product });
        }
        let (x, factor) = self.scaled(node)?;
        let product = self.product(x, nodes)?;
        Some(Product { factor: product.factor * factor, ..product })
    }

    /// Follows an operand to where its rows lie one after the other. `columns`: rows are the last axis, as keys are in a product.
    fn operand(&self, id: ValueId, columns: bool, scale: &mut f64, nodes: &mut Vec<NodeId>) -> Option<Operand> {
        let mut at = id;
        // What the axes of the value at hand are in the end: items, heads, rows, size.
        let mut axes: Vec<usize> = if columns { vec![0, 1, 3, 2] } else { vec![0, 1, 2, 3] };
        if self.shape(id)?.len() == 3 {
            axes = if columns { vec![0, 3, 2] } else { vec![0, 2, 3] };
        }
        while let Some(index) = self.inner(at) {
            let node = self.node(index);
            if let Some(transpose) = node.op.downcast::<ops::Transpose>() {
                let rank = axes.len();
                let perm: Vec<usize> = if transpose.perm.is_empty() {
                    (0..rank).rev().collect()
                } else {
                    transpose.perm.iter().map(|p| usize::try_from(*p).ok()).collect::<Option<_>>()?
                };
                if perm.len() != rank {
                    return None;
                }
                let mut before = vec![0; rank];
                for (to, from) in perm.iter().enumerate() {
                    *before.get_mut(*from)? = axes[to];
                }
                axes = before;
                at = node.input(0)?;
            } else if let (Some((x, factor)), true) = (self.scaled(node), is_f32(self.cx, at)) {
                *scale *= factor;
                at = x;
            } else {
                break;
            }
            nodes.push(index);
        }
        let shape = self.shape(at)?;
        if shape.len() != axes.len() {
            return None;
        }
        let mut sizes = [1; 4];
        for (size, axis) in shape.iter().zip(&axes) {
            sizes[*axis] = *size;
        }
        let [_, heads, rows, size] = sizes;
        let rows = match axes[..] {
            [0, 1, 2, 3] | [0, 2, 3] => Rows::split(heads, rows, size),
            [0, 2, 1, 3] => Rows::joined(heads, rows, size),
            _ => return None,
        };
        Some(Operand { id: at, sizes, rows })
    }

    /// Attention around the softmax `index`.
    fn around(&self, index: NodeId) -> Option<Found> {
        let (cx, graph) = (self.cx, self.cx.graph);
        let softmax = self.node(index);
        let (x, y) = (softmax.input(0)?, *softmax.outputs.first()?);
        let shape = self.shape(x)?;
        let last = [-1, shape.len() as i64 - 1].contains(&attr(softmax, "axis", -1i64));
        if !last || attr(softmax, "coerced", false) || !is_f32(cx, x) || !is_f32(cx, y) {
            return None;
        }
        let mut rest = vec![index];
        // Back to the product of queries and keys.
        let mut mask = None;
        let mut product = self.product(x, &mut rest);
        if product.is_none() {
            rest.truncate(1);
            let add = self.inner(x)?;
            let [Some(a), Some(b)] = self.node(add).inputs[..] else { return None };
            if !self.node(add).op.is::<ops::Add>() {
                return None;
            }
            for (scores, other) in [(a, b), (b, a)] {
                rest.truncate(1);
                rest.push(add);
                product = self
                    .product(scores, &mut rest)
                    .filter(|_| is_f32(cx, other) && self.shape(scores) == self.shape(x));
                if product.is_some() {
                    mask = Some(other);
                    break;
                }
            }
        }
        let product = product?;
        // On to the product of weights and values.
        let (mut next, mut node) = cx.single_consumer(y)?;
        let mut weights = y;
        if node.op.is::<ops::Quantize>() {
            rest.push(next);
            weights = node.outputs[0];
            (next, node) = cx.single_consumer(weights)?;
        }
        if !node.op.is::<ops::MatMul>() || node.input(0) != Some(weights) || node.input(1) == Some(weights) {
            return None;
        }
        rest.push(next);
        let values = node.input(1)?;
        let result = node.outputs[0];
        // Heads that are joined right after.
        let mut output = result;
        let mut joined = false;
        if let Some((at, node)) = cx.single_consumer(result)
            && let Some(transpose) = node.op.downcast::<ops::Transpose>()
            && transpose.perm == [0, 2, 1, 3]
        {
            rest.push(at);
            output = node.outputs[0];
            joined = true;
        }
        let first = self.node(product.node);
        let (queries, keys) = (first.input(0)?, first.input(1)?);
        let mut factor = product.factor;
        let q = self.operand(queries, false, &mut factor, &mut rest)?;
        let k = self.operand(keys, true, &mut factor, &mut rest)?;
        let mut value_factor = 1.0;
        let v = self.operand(values, false, &mut value_factor, &mut rest)?;
        let [batch, heads, count, size] = q.sizes;
        let (key_count, value_size) = (k.sizes[2], v.sizes[3]);
        let fits = k.sizes == [batch, heads, key_count, size]
            && v.sizes[..3] == k.sizes[..3]
            && self.shape(first.outputs[0])? == shape
            && value_factor == 1.0;
        if !fits {
            return None;
        }
        let mask_rows = match mask {
            Some(mask) if shape.len() == 4 => Some(mask_rows(&self.shape(mask)?, [batch, heads, count, key_count])?),
            Some(_) => return None,
            None => None,
        };
        let y_rows =
            if joined { Rows::joined(heads, count, value_size) } else { Rows::split(heads, count, value_size) };
        let sizes = Heads {
            batch,
            heads,
            key_heads: heads,
            queries: count,
            keys: key_count,
            size,
            value_size,
            causal: false,
            q: q.rows,
            k: k.rows,
            v: v.rows,
            y: y_rows,
            mask: mask_rows,
        };
        let operands = [q.id, k.id, v.id, result];
        let kernel = if operands.iter().all(|id| is_f32(cx, *id)) && weights == y && !product.rounded {
            Kernel::Float(factor as f32)
        } else {
            let quantized = self.quantized(sizes, &product, first, [queries, keys, values], weights, result)?;
            Kernel::Quantized(Box::new(quantized))
        };
        debug_assert!(graph.nodes.len() > product.node);
        let inputs = [q.id, k.id, v.id].into_iter().chain(mask).collect();
        Some(Found { first: product.node, rest, inputs, output, heads: sizes, kernel })
    }

    /// The constants where queries, keys, weights, values and results are all quantized.
    fn quantized(
        &self,
        heads: Heads,
        product: &Product,
        first: &Node,
        operands: [ValueId; 3],
        weights: ValueId,
        result: ValueId,
    ) -> Option<QAttention> {
        let ty = |id: ValueId| self.cx.graph.ty(id);
        let stored = |id: ValueId, q: i32| u8::try_from(q + bias(ty(id).element)).ok();
        let mut scales = [0.0; 3];
        let mut zeros = [0; 3];
        for (i, id) in operands.into_iter().enumerate() {
            let from = arithmetic::per_tensor(ty(id)).ok()?;
            scales[i] = from.scale;
            zeros[i] = stored(id, from.zero)?;
        }
        let sums = first.outputs[0];
        let scores = match arithmetic::per_tensor(ty(sums)) {
            Ok(to) if product.rounded => {
                let step = arithmetic::dot_scale(scales[0], scales[1], to.scale);
                let (lo, hi) = ((to.lo - to.zero) as f32, (to.hi - to.zero) as f32);
                Scores { rounded: Some((step, lo, hi)), unit: (f64::from(to.scale) * product.factor) as f32 }
            }
            Err(_) if !product.rounded && is_f32(self.cx, sums) => {
                let unit = f64::from(scales[0]) * f64::from(scales[1]) * product.factor;
                Scores { rounded: None, unit: unit as f32 }
            }
            _ => return None,
        };
        let (weight_scale, weights) = clip_of(ty(weights))?;
        let to = arithmetic::per_tensor(ty(result)).ok()?;
        let scale = arithmetic::dot_scale(weight_scale, scales[2], to.scale);
        let output = Requantize {
            scale: vec![scale],
            zero: stored(result, to.zero)?,
            lo: stored(result, to.lo)?,
            hi: stored(result, to.hi)?,
            table: None,
        };
        if ty(result).element == Element::Bipolar {
            return None;
        }
        let attention = QAttention { heads, zeros, scores, weight_scale, weights, output };
        attention.check().is_ok().then_some(attention)
    }
}

//! Graph to [`Network`]: which nodes are layers, which the host computes, what is joined.

use std::collections::HashMap;

use qing_graph::{
    Element, Eval, Granularity, Graph, Node, QuantRule, Tensor as Values, Type, ValueId,
    arithmetic::{self, PerTensor},
    infer,
    ops::{self, support::window::WindowAttrs},
};

use super::{
    network::{Axis, Finish, Kind, Layer, Network, Port, Tensor, TensorId, View, Window},
    select::Selection,
};
use crate::NpuError;

/// Where a value of the graph is.
#[derive(Debug, Clone)]
enum Place {
    /// With the host, before the chip starts.
    Before,
    /// With the host, when the chip has ended.
    After,
    /// On the chip.
    Chip(View),
}

struct Lowering<'a> {
    graph: &'a Graph,
    network: Network,
    places: HashMap<ValueId, Place>,
    /// The layer that makes a tensor, if one alone does.
    makers: HashMap<TensorId, usize>,
    consumers: Vec<Vec<usize>>,
    /// Scales of tensors that hold sums.
    real: HashMap<TensorId, Vec<f32>>,
}

/// Splits a graph of known shapes (see [`infer::specialize`]) into what the host and what the chip computes.
///
/// # Errors
/// [`NpuError::Unmappable`] names the node that neither can.
pub(super) fn lower(graph: &Graph) -> Result<Network, NpuError> {
    let mut lowering = Lowering {
        graph,
        network: Network::default(),
        places: graph.inputs.iter().map(|id| (*id, Place::Before)).collect(),
        makers: HashMap::new(),
        consumers: graph.consumers(),
        real: HashMap::new(),
    };
    for (index, node) in graph.nodes.iter().enumerate() {
        if node.outputs.iter().all(|o| graph.constant(*o).is_some()) {
            continue;
        }
        lowering.node(index, node)?;
    }
    lowering.finish()
}

fn unmappable(node: &Node, what: impl Into<String>) -> NpuError {
    NpuError::Unmappable { node: node.name.clone(), op: node.op.name().into(), what: what.into() }
}

impl Lowering<'_> {
    fn node(&mut self, index: usize, node: &Node) -> Result<(), NpuError> {
        let rule = node.op.quantization();
        let data: Vec<ValueId> =
            node.inputs.iter().flatten().copied().filter(|id| self.graph.constant(*id).is_none()).collect();
        let after = data.iter().any(|id| matches!(self.places.get(id), Some(Place::After)));
        let on_chip = data.iter().any(|id| matches!(self.places.get(id), Some(Place::Chip(_))));
        let quantized = data.iter().all(|id| self.graph.ty(*id).quant.is_some()) && !data.is_empty();
        let computes = matches!(rule, QuantRule::Dot { .. } | QuantRule::Add | QuantRule::Mean | QuantRule::Table)
            || node.op.is::<ops::MaxPool>()
            || node.op.is::<ops::GlobalMaxPool>();
        if after {
            if quantized && matches!(rule, QuantRule::Dot { .. }) {
                return Err(unmappable(
                    node,
                    "it follows an island of floating point that the host computes; only the beginning and the end of a network may be floating point",
                ));
            }
            return self.host(index, node, false);
        }
        if !quantized || !(on_chip || computes) {
            if on_chip {
                return self.host(index, node, false);
            }
            return self.host(index, node, true);
        }
        for id in data {
            if matches!(self.places.get(&id), Some(Place::Before)) {
                self.upload(node, id)?;
            }
        }
        self.on_chip(index, node)
    }

    fn host(&mut self, index: usize, node: &Node, before: bool) -> Result<(), NpuError> {
        let list = if before { &mut self.network.before } else { &mut self.network.after };
        list.push(index);
        for output in &node.outputs {
            self.places.insert(*output, if before { Place::Before } else { Place::After });
        }
        Ok(())
    }

    fn shape(&self, node: &Node, id: ValueId) -> Result<Vec<usize>, NpuError> {
        self.graph
            .ty(id)
            .known_shape()
            .ok_or_else(|| unmappable(node, format!("`{}` has no known shape", self.graph.value(id).name)))
    }

    fn per_tensor(&self, node: &Node, id: ValueId) -> Result<PerTensor, NpuError> {
        let ty = self.graph.ty(id);
        if ty.element.bits() > 8 {
            return Err(unmappable(node, format!("{ty}: values have at most 8 bits")));
        }
        arithmetic::per_tensor(ty).map_err(|e| unmappable(node, e.to_string()))
    }

    /// A tensor for a value whose dimensions are batch, channels, and at most two more.
    fn tensor(&mut self, node: &Node, id: ValueId, shape: &[usize]) -> Result<View, NpuError> {
        let q = self.per_tensor(node, id)?;
        let element = self.graph.ty(id).element;
        let (batch, channels, height, width) = match *shape {
            [c] => (1, c, 1, 1),
            [n, c] => (1, c, n, 1),
            [n, c, w] => (n, c, 1, w),
            [n, c, h, w] => (n, c, h, w),
            _ => return Err(unmappable(node, format!("shape {shape:?}: at most four dimensions"))),
        };
        if batch != 1 {
            return Err(unmappable(node, format!("a batch of {batch}: the chip computes one frame at a time")));
        }
        let bipolar = element == Element::Bipolar;
        self.network.tensors.push(Tensor {
            name: self.graph.value(id).name.clone(),
            height,
            width,
            channels,
            bits: if bipolar { 2 } else { element.bits() },
            signed: q.lo < 0,
            zero: q.zero,
            unpacked: false,
            windowed: false,
            bipolar,
        });
        let tensor = self.network.tensors.len() - 1;
        let some = |axis, size| if size > 1 { vec![axis] } else { vec![] };
        let (c, h, w) = (some(Axis::Channel, channels), some(Axis::Row, height), some(Axis::Column, width));
        let dims = match shape.len() {
            1 => vec![c],
            2 => vec![h, c],
            3 => vec![vec![], c, w],
            _ => vec![vec![], c, h, w],
        };
        Ok(View { tensor, dims, shape: shape.to_vec() })
    }

    fn upload(&mut self, node: &Node, id: ValueId) -> Result<(), NpuError> {
        let shape = self.shape(node, id)?;
        let view = self.tensor(node, id, &shape)?;
        self.network.inputs.push(Port { value: id, view: view.clone(), real: None, unfold: None });
        self.places.insert(id, Place::Chip(view));
        Ok(())
    }

    fn view(&self, node: &Node, i: usize) -> Result<View, NpuError> {
        match node.input(i).and_then(|id| self.places.get(&id)) {
            Some(Place::Chip(view)) => Ok(view.clone()),
            _ => Err(unmappable(node, format!("input {i} is not an activation on the chip"))),
        }
    }

    /// The view of an input that must be pixels of channels: batch, channels, rows, columns.
    fn image(&self, node: &Node, i: usize) -> Result<View, NpuError> {
        let view = self.view(node, i)?;
        let expected: &[&[Axis]] = match view.shape.len() {
            3 => &[&[], &[Axis::Channel], &[Axis::Column]],
            4 => &[&[], &[Axis::Channel], &[Axis::Row], &[Axis::Column]],
            n => return Err(unmappable(node, format!("an input of {n} dimensions where an image is needed"))),
        };
        let fits = view.dims.iter().zip(expected).all(|(d, e)| d.is_empty() || d == e);
        if fits {
            Ok(view)
        } else {
            Err(unmappable(node, "its input is transposed on the chip; put the channels second"))
        }
    }

    fn on_chip(&mut self, index: usize, node: &Node) -> Result<(), NpuError> {
        let op = &node.op;
        if op.is::<ops::Conv>() {
            return self.conv(node);
        }
        if op.is::<ops::Gemm>() || op.is::<ops::MatMul>() {
            return self.product(node);
        }
        if op.is::<ops::Add>() {
            return self.add(node);
        }
        if op.is::<ops::Concat>() {
            return self.concat(node);
        }
        if let Some(pool) = op.downcast::<ops::AveragePool>() {
            let kernel = pool.kernel()?;
            return self.average(node, Some((pool.window(), kernel, pool.count_include_pad)));
        }
        if op.is::<ops::GlobalAveragePool>() || op.is::<ops::ReduceMean>() {
            return self.average(node, None);
        }
        if let Some(pool) = op.downcast::<ops::MaxPool>() {
            let kernel = pool.kernel()?;
            return self.maximum(node, Some((pool.window(), kernel)));
        }
        if op.is::<ops::GlobalMaxPool>() {
            return self.maximum(node, None);
        }
        if op.is::<ops::Resize>() || op.is::<ops::Upsample>() {
            return self.enlarge(node);
        }
        if op.is::<ops::Transpose>()
            || op.is::<ops::Reshape>()
            || op.is::<ops::Flatten>()
            || op.is::<ops::Squeeze>()
            || op.is::<ops::Unsqueeze>()
            || op.is::<ops::Identity>()
            || op.is::<ops::Dropout>()
        {
            return self.movement(node);
        }
        let quantized_output = self.graph.ty(node.outputs[0]).quant.is_some();
        if quantized_output && (op.quantization() == QuantRule::Table || op.is::<ops::Quantize>()) {
            return self.table(node);
        }
        if op.quantization() == QuantRule::Float || !quantized_output {
            return self.host(index, node, false);
        }
        if op.quantization() == QuantRule::Movement {
            return self.choice(node);
        }
        Err(unmappable(node, "the chip has no way to compute it; `qing inspect` shows the graph"))
    }

    /// Adds a layer with a new output tensor, and places the node's output.
    fn push(&mut self, node: &Node, kind: Kind, input: TensorId, finish: Finish, view: View, macs: u64) {
        let channels = self.network.tensors[view.tensor].channels;
        self.makers.insert(view.tensor, self.network.layers.len());
        self.network.layers.push(Layer {
            name: node.name.clone(),
            op: node.op.name().into(),
            kind,
            input,
            output: view.tensor,
            first_channel: 0,
            channels,
            merge: 1,
            finish,
            macs,
        });
        self.places.insert(node.outputs[0], Place::Chip(view));
    }

    /// Output tensor and finish of a dot of `channels` outputs with these weights' scales; `bias` includes the zero point.
    fn dot(
        &mut self,
        node: &Node,
        weights: &Type,
        bias: Vec<i32>,
        shape: &[usize],
    ) -> Result<(View, Finish), NpuError> {
        let x = self.per_tensor(node, node.inputs[0].unwrap_or(node.outputs[0]))?;
        let quant = weights.quant.clone().ok_or_else(|| unmappable(node, "its weights are not quantized"))?;
        let y = self.graph.ty(node.outputs[0]);
        let channels = bias.len();
        if quant.scales().len() != 1 && quant.scales().len() != channels {
            return Err(unmappable(node, "scales by group along the depth: one per output channel at most"));
        }
        if y.quant.is_none() {
            let scale = (0..channels).map(|c| x.scale * quant.scale(c)).collect();
            return self.raw(node, shape, bias, scale);
        }
        let to = self.per_tensor(node, node.outputs[0])?;
        let view = self.tensor(node, node.outputs[0], shape)?;
        let scale = (0..channels).map(|c| arithmetic::dot_scale(x.scale, quant.scale(c), to.scale)).collect();
        let finish = Finish { bias, scale, zero: to.zero, lo: to.lo, hi: to.hi, table: None, raw: false };
        Ok((view, finish))
    }

    /// An output of sums, which the host scales.
    fn raw(
        &mut self,
        node: &Node,
        shape: &[usize],
        bias: Vec<i32>,
        scale: Vec<f32>,
    ) -> Result<(View, Finish), NpuError> {
        let id = node.outputs[0];
        let (channels, height, width) = match *shape {
            [n, c] => (c, n, 1),
            [1, c, w] => (c, 1, w),
            [1, c, h, w] => (c, h, w),
            _ => return Err(unmappable(node, format!("an output of shape {shape:?}"))),
        };
        self.network.tensors.push(Tensor {
            name: self.graph.value(id).name.clone(),
            height,
            width,
            channels,
            bits: 32,
            signed: true,
            zero: 0,
            unpacked: false,
            windowed: false,
            bipolar: false,
        });
        let tensor = self.network.tensors.len() - 1;
        self.real.insert(tensor, scale);
        let some = |axis, size| if size > 1 { vec![axis] } else { vec![] };
        let (c, h, w) = (some(Axis::Channel, channels), some(Axis::Row, height), some(Axis::Column, width));
        let dims = match shape.len() {
            2 => vec![h, c],
            3 => vec![vec![], c, w],
            _ => vec![vec![], c, h, w],
        };
        let finish = Finish { bias, scale: vec![1.0], zero: 0, lo: -256, hi: 255, table: None, raw: true };
        Ok((View { tensor, dims, shape: shape.to_vec() }, finish))
    }

    fn weights(&self, node: &Node, i: usize) -> Result<(Values, Type, Vec<i32>), NpuError> {
        let id = node.input(i).ok_or_else(|| unmappable(node, "it has no weights"))?;
        let values = self.graph.constant(id).ok_or_else(|| unmappable(node, "its weights are not constant"))?;
        let ty = self.graph.ty(id).clone();
        let quant = ty.quant.as_deref().ok_or_else(|| unmappable(node, "its weights are not quantized"))?;
        if matches!(quant.granularity(), Granularity::Block { .. }) {
            return Err(unmappable(
                node,
                "its weights have scales by blocks of the depth; quantize per output channel",
            ));
        }
        let shape = values.shape().to_vec();
        let ints = values.to_ints();
        let centered = ints.iter().enumerate().map(|(k, w)| w - quant.zero(quant.slice_of(&shape, k))).collect();
        Ok((values.clone(), ty, centered))
    }

    fn bias(&self, node: &Node, i: usize, channels: usize) -> Result<Vec<i32>, NpuError> {
        let Some(id) = node.input(i) else { return Ok(vec![0; channels]) };
        let values = self.graph.constant(id).ok_or_else(|| unmappable(node, "its bias is not constant"))?.to_ints();
        if values.len() == channels {
            Ok(values)
        } else {
            Err(unmappable(node, format!("a bias of {} values for {channels} channels", values.len())))
        }
    }

    fn conv(&mut self, node: &Node) -> Result<(), NpuError> {
        let Some(op) = node.op.downcast::<ops::Conv>() else { return Ok(()) };
        let view = self.image(node, 0)?;
        let input = self.network.tensors[view.tensor].clone();
        let (values, ty, weights) = self.weights(node, 1)?;
        let shape = values.shape().to_vec();
        let groups = op.groups()?;
        let (outputs, depth) = (shape[0], shape[1]);
        let (kernel, window) = spatial(node, op.window(), &view.shape[2..], &shape[2..])?;
        let taps = kernel.iter().product::<usize>();
        let y = self.shape(node, node.outputs[0])?;
        let mut bias = self.bias(node, 2, outputs)?;
        for (o, b) in bias.iter_mut().enumerate() {
            let sum: i32 = weights[o * depth * taps..(o + 1) * depth * taps].iter().sum();
            *b = b.wrapping_sub(input.zero.wrapping_mul(sum));
        }
        let macs = (y[2..].iter().product::<usize>() * weights.len()) as u64;
        let (output, finish) = self.dot(node, &ty, bias, &y)?;
        let small = |range: std::ops::RangeInclusive<i32>| weights.iter().all(|w| range.contains(w));
        let depthwise = groups > 1
            && depth == 1
            && outputs == groups
            && small(-128..=127)
            && window.dilation == [1, 1]
            && !input.bipolar;
        let kind = if depthwise {
            Kind::Depthwise { weights: weights.iter().map(|w| *w as i8).collect(), window }
        } else {
            if !small(-255..=255) {
                return Err(unmappable(node, "weights minus their zero point do not fit nine bits"));
            }
            // `[output][tap][channel]`, with zeros where a group does not look.
            let channels = depth * groups;
            let mut dense = vec![0i16; outputs * taps * channels];
            for o in 0..outputs {
                let first = o / (outputs / groups) * depth;
                for d in 0..depth {
                    for t in 0..taps {
                        dense[(o * taps + t) * channels + first + d] = weights[(o * depth + d) * taps + t] as i16;
                    }
                }
            }
            Kind::Dense { weights: dense, window }
        };
        self.push(node, kind, view.tensor, finish, output, macs);
        if depthwise {
            let shifts = self.network.layers.last().is_some_and(|l| l.shifts(&input));
            let host = self.network.inputs.iter().any(|p| p.view.tensor == view.tensor);
            let tensor = &mut self.network.tensors[view.tensor];
            tensor.windowed = true;
            tensor.unpacked |= !shifts || host;
        }
        Ok(())
    }

    fn product(&mut self, node: &Node) -> Result<(), NpuError> {
        let view = self.view(node, 0)?;
        let (values, ty, weights) = self.weights(node, 1)?;
        let mut transposed = false;
        if let Some(op) = node.op.downcast::<ops::Gemm>() {
            if op.transA || op.alpha != 1.0 || (op.beta != 1.0 && node.input(2).is_some()) {
                return Err(unmappable(node, "transA, alpha and beta other than 1 are not for the chip"));
            }
            transposed = op.transB;
        }
        let [rows, columns] = *values.shape() else {
            return Err(unmappable(node, format!("weights of shape {:?}: a matrix is needed", values.shape())));
        };
        let (outputs, depth) = if transposed { (rows, columns) } else { (columns, rows) };
        let weight = |o: usize, k: usize| if transposed { weights[o * depth + k] } else { weights[k * outputs + o] };
        let input = self.network.tensors[view.tensor].clone();
        let y = self.shape(node, node.outputs[0])?;
        let mut bias = self.bias(node, 2, outputs)?;
        for (o, b) in bias.iter_mut().enumerate() {
            let sum: i32 = (0..depth).map(|k| weight(o, k)).sum();
            *b = b.wrapping_sub(input.zero.wrapping_mul(sum));
        }
        if weights.iter().any(|w| !(-255..=255).contains(w)) {
            return Err(unmappable(node, "weights minus their zero point do not fit nine bits"));
        }
        // The last dimension is what is summed over; those before are pixels.
        let Some((last, outer)) = view.dims.split_last() else {
            return Err(unmappable(node, "its input has no dimensions"));
        };
        let outer: Vec<Axis> = outer.iter().flatten().copied().collect();
        let sizes = |a: &Axis| match a {
            Axis::Channel => input.channels,
            Axis::Row => input.height,
            Axis::Column => input.width,
        };
        let whole = last.contains(&Axis::Row) || last.contains(&Axis::Column);
        let ordered =
            outer.is_empty() || outer == [Axis::Row] || outer == [Axis::Column] || outer == [Axis::Row, Axis::Column];
        if outer.contains(&Axis::Channel) || (whole && !outer.is_empty()) || !ordered {
            return Err(unmappable(node, "its input mixes pixels and channels in a way the chip cannot read"));
        }
        let window =
            if whole { Window { kernel: [input.height, input.width], ..Window::POINT } } else { Window::POINT };
        let taps = window.taps();
        let mut dense = vec![0i16; outputs * depth];
        for k in 0..depth {
            // Position of depth k in row, column and channel.
            let (mut rest, mut at) = (k, [0; 3]);
            for axis in last.iter().rev() {
                at[*axis as usize] = rest % sizes(axis);
                rest /= sizes(axis);
            }
            let tap = at[Axis::Row as usize] * window.kernel[1] + at[Axis::Column as usize];
            for o in 0..outputs {
                dense[(o * taps + tap) * input.channels + at[Axis::Channel as usize]] = weight(o, k) as i16;
            }
        }
        let macs = (outputs * depth) as u64 * y[..y.len() - 1].iter().product::<usize>() as u64;
        // Pixels stay where they are.
        let (height, width) = if whole { (1, 1) } else { (input.height, input.width) };
        let (mut output, finish) = self.dot(node, &ty, bias, &[height * width, outputs])?;
        let tensor = &mut self.network.tensors[output.tensor];
        (tensor.height, tensor.width) = (height, width);
        let channel = if outputs > 1 { vec![Axis::Channel] } else { vec![] };
        output.dims = view.dims[..view.dims.len() - 1].iter().map(|d| if whole { vec![] } else { d.clone() }).collect();
        output.dims.push(channel);
        output.shape = y;
        self.push(node, Kind::Dense { weights: dense, window }, view.tensor, finish, output, macs);
        Ok(())
    }

    fn add(&mut self, node: &Node) -> Result<(), NpuError> {
        let (a, b) = (self.view(node, 0), self.view(node, 1));
        let (Ok(a), Ok(b)) = (a, b) else {
            return Err(unmappable(node, "both operands must be computed on the chip"));
        };
        if a.shape != b.shape || a.dims != b.dims {
            return Err(unmappable(node, format!("operands of shapes {:?} and {:?}", a.shape, b.shape)));
        }
        let (Some(ia), Some(ib)) = (node.input(0), node.input(1)) else { return Ok(()) };
        let (qa, qb) = (self.per_tensor(node, ia)?, self.per_tensor(node, ib)?);
        let y = self.per_tensor(node, node.outputs[0])?;
        let s = arithmetic::add_scales(qa.scale, qb.scale, y.scale);
        let bias = (qa.zero.wrapping_mul(s.a)).wrapping_add(qb.zero.wrapping_mul(s.b)).wrapping_neg();
        let finish = Finish {
            bias: vec![bias],
            scale: vec![s.scale],
            zero: y.zero,
            lo: y.lo,
            hi: y.hi,
            table: None,
            raw: false,
        };
        let output = self.like(node, &a)?;
        let kind = Kind::Add { second: b.tensor, multipliers: [s.a, s.b] };
        self.push(node, kind, a.tensor, finish, output, 0);
        Ok(())
    }

    /// A new tensor with the pixels, channels and dimensions of another, typed as the node's output.
    fn like(&mut self, node: &Node, view: &View) -> Result<View, NpuError> {
        let from = self.network.tensors[view.tensor].clone();
        let made = self.tensor(node, node.outputs[0], &[1, from.channels, from.height, from.width])?;
        Ok(View { tensor: made.tensor, dims: view.dims.clone(), shape: view.shape.clone() })
    }

    fn average(&mut self, node: &Node, window: Option<(WindowAttrs<'_>, Vec<usize>, bool)>) -> Result<(), NpuError> {
        let view = self.image(node, 0)?;
        let input = self.network.tensors[view.tensor].clone();
        let x = self.per_tensor(node, node.inputs[0].unwrap_or(node.outputs[0]))?;
        let y = self.shape(node, node.outputs[0])?;
        let kept = y.len() == view.shape.len();
        let window = match window {
            Some((attrs, kernel, counts)) => {
                let (_, window) = spatial(node, attrs, &view.shape[2..], &kernel)?;
                let covers = |d: usize, size: usize| {
                    (self.output_size(&y, d) - 1) * window.stride[d] + window.kernel[d] <= size + window.pad[d]
                };
                let padded = window.pad != [0, 0] || !covers(0, input.height) || !covers(1, input.width);
                if padded && !counts {
                    return Err(unmappable(node, "a mean whose windows reach into padding that does not count"));
                }
                window
            }
            None => {
                let reduced: usize = view.shape.iter().product::<usize>() / y.iter().product::<usize>().max(1);
                if reduced != input.pixels() {
                    return Err(unmappable(node, "a mean over other axes than all of the image"));
                }
                Window { kernel: [input.height, input.width], ..Window::POINT }
            }
        };
        self.network.tensors[view.tensor].unpacked |= window.taps() > 1;
        self.network.tensors[view.tensor].windowed |= window.taps() > 1;
        let n = window.taps();
        let bias = vec![x.zero.wrapping_mul(n as i32).wrapping_neg()];
        let (height, width) = match (kept, y.len()) {
            (true, 4) => (y[2], y[3]),
            (true, 3) => (1, y[2]),
            _ => (1, 1),
        };
        let image = [1, input.channels, height, width];
        let (mut output, finish) = if self.graph.ty(node.outputs[0]).quant.is_some() {
            let to = self.per_tensor(node, node.outputs[0])?;
            let scale = vec![arithmetic::mean_scale(x.scale, n, to.scale)];
            let finish = Finish { bias, scale, zero: to.zero, lo: to.lo, hi: to.hi, table: None, raw: false };
            (self.tensor(node, node.outputs[0], &image)?, finish)
        } else {
            let scale = vec![arithmetic::mean_scale(x.scale, n, 1.0); input.channels];
            self.raw(node, &image, bias, scale)?
        };
        if y.len() == 2 {
            output.dims.truncate(2);
        } else if y.len() == 3 {
            output.dims.remove(2);
        }
        output.shape = y;
        self.push(node, Kind::Sum { window, repeat: [1, 1] }, view.tensor, finish, output, 0);
        Ok(())
    }

    /// Size of spatial axis `d` (0 rows, 1 columns) of an image's shape.
    fn output_size(&self, shape: &[usize], d: usize) -> usize {
        match (shape.len(), d) {
            (4, d) => shape[2 + d],
            (3, 1) => shape[2],
            _ => 1,
        }
    }

    /// What keeps integers as they are.
    fn unchanged(&self, node: &Node) -> Result<Finish, NpuError> {
        let y = self.per_tensor(node, node.outputs[0])?;
        Ok(Finish { bias: vec![0], scale: vec![1.0], zero: 0, lo: y.lo, hi: y.hi, table: None, raw: false })
    }

    fn maximum(&mut self, node: &Node, window: Option<(WindowAttrs<'_>, Vec<usize>)>) -> Result<(), NpuError> {
        let view = self.image(node, 0)?;
        let input = self.network.tensors[view.tensor].clone();
        let window = match window {
            Some((attrs, kernel)) => spatial(node, attrs, &view.shape[2..], &kernel)?.1,
            None => Window { kernel: [input.height, input.width], ..Window::POINT },
        };
        if window.dilation != [1, 1] {
            return Err(unmappable(node, "a dilated maximum"));
        }
        self.network.tensors[view.tensor].unpacked = true;
        self.network.tensors[view.tensor].windowed = true;
        let finish = self.unchanged(node)?;
        let y = self.shape(node, node.outputs[0])?;
        let output = self.tensor(node, node.outputs[0], &y)?;
        self.push(node, Kind::Max { window }, view.tensor, finish, output, 0);
        Ok(())
    }

    fn enlarge(&mut self, node: &Node) -> Result<(), NpuError> {
        let view = self.image(node, 0)?;
        let y = self.shape(node, node.outputs[0])?;
        let input = self.network.tensors[view.tensor].clone();
        let factors = [self.output_size(&y, 0) / input.height, self.output_size(&y, 1) / input.width];
        // Evaluated on positions: only whole repetition is for the chip.
        let plane: Vec<f32> = (0..input.pixels()).map(|i| i as f32).collect();
        let mut shape = view.shape.clone();
        shape[1] = 1;
        let mut expected_shape = y.clone();
        expected_shape[1] = 1;
        // Sizes speak of all channels; scales are the same for one.
        let result = self.moved(node, &shape, plane, &[expected_shape.clone()]);
        let whole = result.ok().and_then(|r| r.into_iter().next()).is_some_and(|r| {
            r.shape() == expected_shape
                && r.to_f32s().iter().enumerate().all(|(i, v)| {
                    let (oy, ox) = (i / (input.width * factors[1]), i % (input.width * factors[1]));
                    *v == ((oy / factors[0].max(1)) * input.width + ox / factors[1].max(1)) as f32
                })
        });
        if !whole || factors.iter().any(|f| !(1..=4).contains(f)) {
            return Err(unmappable(node, "only enlarging by repeating every pixel two to four times is for the chip"));
        }
        self.network.tensors[view.tensor].unpacked = true;
        let finish = self.unchanged(node)?;
        let output = self.tensor(node, node.outputs[0], &y)?;
        self.push(node, Kind::Sum { window: Window::POINT, repeat: factors }, view.tensor, finish, output, 0);
        Ok(())
    }

    fn movement(&mut self, node: &Node) -> Result<(), NpuError> {
        let view = self.view(node, 0)?;
        let y = self.shape(node, node.outputs[0])?;
        let dims = if let Some(op) = node.op.downcast::<ops::Transpose>() {
            let rank = view.dims.len();
            let perm: Vec<usize> = if op.perm.is_empty() {
                (0..rank).rev().collect()
            } else {
                op.perm.iter().map(|p| *p as usize).collect()
            };
            perm.iter().map(|p| view.dims[*p].clone()).collect()
        } else {
            self.regroup(&view, &y).ok_or_else(|| unmappable(node, "it cuts an axis that lies together on the chip"))?
        };
        let moved = View { tensor: view.tensor, dims, shape: y };
        self.places.insert(node.outputs[0], Place::Chip(moved));
        Ok(())
    }

    /// An op that chooses among pixels and channels: evaluated on positions.
    fn choice(&mut self, node: &Node) -> Result<(), NpuError> {
        let view = self.image(node, 0)?;
        let input = self.network.tensors[view.tensor].clone();
        let refused = || unmappable(node, "the chip has no way to compute it; `qing inspect` shows the graph");
        if input.bipolar || node.inputs.iter().skip(1).flatten().any(|id| self.graph.constant(*id).is_none()) {
            return Err(refused());
        }
        let filling = node.input(2).filter(|_| node.op.is::<ops::Pad>()).and_then(|id| self.graph.constant(id));
        if filling.is_some_and(|v| !v.element().is_float() || v.to_f32s().iter().any(|v| *v != 0.0)) {
            return Err(unmappable(node, "only padding with zeros is for the chip"));
        }
        let from = [input.channels, input.height, input.width];
        let count = from.iter().product::<usize>();
        // Forwards and backwards: what compares values does not choose the same places both times.
        let shapes = node.outputs.iter().map(|id| self.shape(node, *id)).collect::<Result<Vec<_>, _>>()?;
        let moved = |values: Vec<f32>| self.moved(node, &view.shape, values, &shapes);
        let forwards = moved((1..=count).map(|i| i as f32).collect())?;
        let backwards = moved((1..=count).rev().map(|i| i as f32).collect())?;
        let mut outputs = vec![];
        for (k, id) in node.outputs.iter().enumerate() {
            let place = |v: f32| (v > 0.0).then(|| v as usize - 1);
            let (forwards, backwards) = (forwards[k].to_f32s(), backwards[k].to_f32s());
            let picked: Vec<Option<usize>> = forwards.iter().map(|v| place(*v)).collect();
            let agree = picked.iter().zip(&backwards).all(|(p, v)| *p == place(*v).map(|i| count - 1 - i));
            let output = self.tensor(node, *id, &shapes[k])?;
            let tensor = &self.network.tensors[output.tensor];
            let (to, channels) = ([tensor.channels, tensor.height, tensor.width], tensor.channels);
            let selection = Selection::of(from, to, &picked).filter(|_| agree).ok_or_else(refused)?;
            let (window, weights) = selection
                .dot(input.channels)
                .ok_or_else(|| unmappable(node, "it moves pixels farther than the chip's windows reach"))?;
            let zero = |c| if selection.comes_from_input(c) { 0 } else { input.zero };
            let finish = Finish { bias: (0..channels).map(zero).collect(), ..self.unchanged(node)? };
            self.push(node, Kind::Dense { weights, window }, view.tensor, finish, output.clone(), 0);
            outputs.push((*id, Place::Chip(output)));
        }
        self.places.extend(outputs);
        Ok(())
    }

    /// What an op of one activation makes of these values, in the shapes that it is to give.
    fn moved(
        &self,
        node: &Node,
        shape: &[usize],
        values: Vec<f32>,
        shapes: &[Vec<usize>],
    ) -> Result<Vec<Values>, NpuError> {
        let failed = |e: qing_graph::OpError| unmappable(node, e.to_string());
        let probe = Values::new(shape, values).map_err(|e| failed(e.into()))?;
        let mut inputs: Vec<Option<&Values>> =
            node.inputs.iter().map(|id| id.and_then(|id| self.graph.constant(id))).collect();
        inputs[0] = Some(&probe);
        let outputs: Vec<Type> = shapes.iter().map(|shape| Type::new(Element::F32, shape.iter().copied())).collect();
        let types: Vec<Option<&Type>> = node.inputs.iter().map(|_| None).collect();
        node.op.eval(&Eval { inputs: &inputs, types: &types, outputs: &outputs }).map_err(failed)
    }

    /// The axes of a view in the dimensions of another shape, if none is cut.
    fn regroup(&self, view: &View, shape: &[usize]) -> Option<Vec<Vec<Axis>>> {
        let tensor = &self.network.tensors[view.tensor];
        let mut axes = view.dims.iter().flatten().copied().collect::<std::collections::VecDeque<_>>();
        let mut dims = Vec::new();
        for size in shape {
            let (mut dim, mut have) = (vec![], 1);
            while have < *size {
                let axis = axes.pop_front()?;
                have *= match axis {
                    Axis::Channel => tensor.channels,
                    Axis::Row => tensor.height,
                    Axis::Column => tensor.width,
                };
                dim.push(axis);
            }
            if have != *size {
                return None;
            }
            dims.push(dim);
        }
        axes.is_empty().then_some(dims)
    }

    /// The output integer for every input integer of an elementwise op of one activation.
    fn entries(&self, node: &Node) -> Result<(PerTensor, Vec<i32>), NpuError> {
        let Some(id) = node.input(0) else { return Err(unmappable(node, "it has no input")) };
        let x = self.per_tensor(node, id)?;
        let codes: Vec<i32> =
            if self.graph.ty(id).element == Element::Bipolar { vec![-1, 1] } else { (x.lo..=x.hi).collect() };
        let fail = |e: qing_graph::OpError| unmappable(node, e.to_string());
        let all = Values::from_ints(self.graph.ty(id).element, &[codes.len()], &codes).map_err(|e| fail(e.into()))?;
        let mut inputs: Vec<Option<&Values>> =
            node.inputs.iter().map(|id| id.and_then(|id| self.graph.constant(id))).collect();
        inputs[0] = Some(&all);
        let types: Vec<Option<&Type>> = node.inputs.iter().map(|id| id.map(|id| self.graph.ty(id))).collect();
        let out = vec![self.graph.ty(node.outputs[0]).with_shape(None)];
        let result = node.op.evaluate(&Eval { inputs: &inputs, types: &types, outputs: &out }).map_err(fail)?;
        Ok((x, result[0].to_ints()))
    }

    fn table(&mut self, node: &Node) -> Result<(), NpuError> {
        let view = self.view(node, 0)?;
        let (x, entries) = self.entries(node)?;
        let y = self.per_tensor(node, node.outputs[0])?;
        let Some(id) = node.input(0) else { return Ok(()) };
        let element = self.graph.ty(node.outputs[0]).element;
        if self.graph.ty(id).element == Element::Bipolar {
            return Err(unmappable(node, "a function of a bipolar value"));
        }
        // A clamp, if it is one.
        let (low, high) = (entries[0], entries[entries.len() - 1]);
        let clamp = entries.iter().zip(x.lo..).all(|(e, q)| *e == q.clamp(low, high)) && low <= high;
        let mut bytes = vec![0u8; 256];
        for (e, q) in entries.iter().zip(x.lo..) {
            bytes[(q & 255) as usize] = *e as u8;
        }
        let single = self.consumers[id.0 as usize].len() == 1 && !self.graph.outputs.contains(&id);
        let maker = self.makers.get(&view.tensor).copied().filter(|_| single);
        if let Some(layer) = maker.map(|l| &mut self.network.layers[l])
            && layer.finish.table.is_none()
            && !layer.finish.raw
        {
            if clamp {
                layer.finish.lo = layer.finish.lo.clamp(low, high);
                layer.finish.hi = layer.finish.hi.clamp(low, high);
            } else {
                layer.finish.table = Some(bytes);
            }
            let tensor = &mut self.network.tensors[view.tensor];
            tensor.name = self.graph.value(node.outputs[0]).name.clone();
            tensor.bipolar = element == Element::Bipolar;
            tensor.bits = if tensor.bipolar { 2 } else { element.bits() };
            tensor.signed = y.lo < 0;
            tensor.zero = y.zero;
            self.places.insert(node.outputs[0], Place::Chip(view));
            return Ok(());
        }
        // Another scale alone needs none of the chip's few tables.
        let (lo, hi) = entries.iter().fold((i32::MAX, i32::MIN), |(lo, hi), e| (lo.min(*e), hi.max(*e)));
        let scale = arithmetic::rescale_scale(x.scale, y.scale);
        let rescaled = |q: i32| arithmetic::requantize(q - x.zero, scale, y.zero, lo, hi);
        let finish = match entries.iter().zip(x.lo..).all(|(e, q)| *e == rescaled(q)) && element != Element::Bipolar {
            true => Finish { bias: vec![-x.zero], scale: vec![scale], zero: y.zero, lo, hi, table: None, raw: false },
            false => {
                Finish { bias: vec![0], scale: vec![1.0], zero: 0, lo: x.lo, hi: x.hi, table: Some(bytes), raw: false }
            }
        };
        let output = self.like(node, &view)?;
        self.push(node, Kind::Sum { window: Window::POINT, repeat: [1, 1] }, view.tensor, finish, output, 0);
        Ok(())
    }

    fn concat(&mut self, node: &Node) -> Result<(), NpuError> {
        let y = self.shape(node, node.outputs[0])?;
        let to = self.per_tensor(node, node.outputs[0])?;
        let views = (0..node.inputs.len()).map(|i| self.image(node, i)).collect::<Result<Vec<View>, _>>()?;
        let output = self.tensor(node, node.outputs[0], &y)?;
        let mut first = 0;
        for (i, view) in views.iter().enumerate() {
            let input = self.network.tensors[view.tensor].clone();
            let Some(id) = node.input(i) else { continue };
            let x = self.per_tensor(node, id)?;
            let same = x.scale == to.scale && x.zero == to.zero;
            let scale = if same { 1.0 } else { arithmetic::rescale_scale(x.scale, to.scale) };
            let (bias, zero) = if same { (0, 0) } else { (-x.zero, to.zero) };
            let finish =
                Finish { bias: vec![bias], scale: vec![scale], zero, lo: to.lo, hi: to.hi, table: None, raw: false };
            self.network.layers.push(Layer {
                name: node.name.clone(),
                op: node.op.name().into(),
                kind: Kind::Sum { window: Window::POINT, repeat: [1, 1] },
                input: view.tensor,
                output: output.tensor,
                first_channel: first,
                channels: input.channels,
                merge: 1,
                finish,
                macs: 0,
            });
            self.network.tensors[view.tensor].unpacked = true;
            first += input.channels;
        }
        let axis = y.iter().zip(&views[0].shape).position(|(a, b)| a != b);
        if first != y.get(1).copied().unwrap_or(0) || axis.is_some_and(|a| a != 1) {
            return Err(unmappable(node, "only channels can be joined on the chip"));
        }
        self.places.insert(node.outputs[0], Place::Chip(output));
        Ok(())
    }

    /// Finds what the host takes from the chip.
    fn finish(mut self) -> Result<Network, NpuError> {
        let mut wanted: Vec<ValueId> = Vec::new();
        for index in &self.network.after {
            wanted.extend(self.graph.nodes[*index].inputs.iter().flatten());
        }
        wanted.extend(&self.graph.outputs);
        for id in wanted {
            if self.network.outputs.iter().any(|p| p.value == id) {
                continue;
            }
            if let Some(Place::Chip(view)) = self.places.get(&id) {
                let real = self.real.get(&view.tensor).cloned();
                self.network.outputs.push(Port { value: id, view: view.clone(), real, unfold: None });
            }
        }
        if self.network.layers.is_empty() {
            return Err(NpuError::Limit(
                "no node of this network is quantized: make it lighter first (`qing lighten MODEL`)".into(),
            ));
        }
        Ok(self.network)
    }
}

/// Kernel and window of an image of one or two spatial axes.
fn spatial(
    node: &Node,
    attrs: WindowAttrs<'_>,
    input: &[usize],
    kernel: &[usize],
) -> Result<([usize; 2], Window), NpuError> {
    let axes = attrs.axes(input, kernel).map_err(|e| unmappable(node, e.to_string()))?;
    let mut window = Window::POINT;
    match *axes {
        [w] => {
            window.kernel[1] = w.kernel;
            window.stride[1] = w.stride;
            window.dilation[1] = w.dilation;
            window.pad[1] = w.pad;
        }
        [h, w] => {
            window.kernel = [h.kernel, w.kernel];
            window.stride = [h.stride, w.stride];
            window.dilation = [h.dilation, w.dilation];
            window.pad = [h.pad, w.pad];
        }
        _ => return Err(unmappable(node, format!("{} spatial axes: one or two", axes.len()))),
    }
    Ok((window.kernel, window))
}

/// Binds unknown dimensions (the batch) of the inputs to 1.
///
/// # Errors
/// If an input has no rank, or the graph does not allow it.
pub(super) fn bind(graph: &Graph) -> Result<Graph, NpuError> {
    let mut shapes = Vec::new();
    for id in &graph.inputs {
        let value = graph.value(*id);
        let dims = value.ty.shape.as_ref();
        let dims = dims.ok_or_else(|| NpuError::Limit(format!("input `{}` has no known rank", value.name)))?;
        shapes.push(dims.iter().map(|d| d.known().unwrap_or(1)).collect::<Vec<usize>>());
    }
    Ok(infer::specialize(graph, &shapes)?)
}

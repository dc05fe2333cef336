//! What each op costs.

use qing_graph::{Graph, Node, QuantRule, Tensor, ValueId, infer, ops};

use super::{
    Cost, Line, Rules, Sums,
    constants::{integer_bits, is_power_of_two, real_bits, stored, values},
    widths::{Width, Widths},
};
use crate::LightenError;

/// Counts the nodes of a graph in order.
pub(super) struct Counter<'a> {
    graph: &'a Graph,
    rules: &'a Rules,
    widths: Widths<'a>,
    /// Constants that were counted, so that none counts twice.
    stored: Vec<bool>,
    pub(super) assumed: Vec<(String, String)>,
}

/// The multipliers that bring the sums of a layer to what it gives.
struct Scales {
    multipliers: Vec<f64>,
    /// Zero point of the output.
    zero: i32,
}

impl<'a> Counter<'a> {
    pub(super) fn new(graph: &'a Graph, rules: &'a Rules) -> Counter<'a> {
        let stored = vec![false; graph.values().len()];
        Counter { graph, rules, widths: Widths::new(graph), stored, assumed: vec![] }
    }

    /// What a node costs; `None` if that is nothing.
    pub(super) fn line(&mut self, node: &Node) -> Result<Option<Line>, LightenError> {
        let mut line = Line {
            name: node.name.clone(),
            op: node.op.name().into(),
            weights: 0,
            nonzero: 0,
            weight_bits: 0,
            activation_bits: self.widths.of_inputs(node).bits as u8,
            cost: Cost::default(),
        };
        let outputs = self.elements(node, node.outputs[0])?;
        match node.op.quantization() {
            QuantRule::Dot { weight, bias, axis } if self.constant(node, weight).is_some() => {
                self.dot(node, (weight, bias, axis), outputs, &mut line);
            }
            _ => self.other(node, outputs, &mut line)?,
        }
        Ok((line.cost != Cost::default()).then_some(line))
    }

    fn constant(&self, node: &Node, i: usize) -> Option<&'a Tensor> {
        self.graph.constant(node.input(i)?)
    }

    /// Numbers in a value.
    fn elements(&self, node: &Node, id: ValueId) -> Result<f64, LightenError> {
        let shape = self.graph.ty(id).known_shape().ok_or_else(|| {
            let name = &self.graph.value(id).name;
            LightenError::Option(format!("{} `{}`: the shape of `{name}` is not known", node.op.name(), node.name))
        })?;
        Ok(shape.iter().product::<usize>() as f64)
    }

    /// Constants that are parameters, once each: `count` numbers (one, as the released counter counts) in their narrowest format.
    fn parameters(&mut self, id: ValueId) -> f64 {
        let Some(tensor) = self.graph.constant(id) else { return 0.0 };
        if std::mem::replace(&mut self.stored[id.0 as usize], true) {
            return 0.0;
        }
        self.numbers(&values(tensor, self.graph.ty(id)))
    }

    /// Bits of scales or biases.
    fn numbers(&self, values: &[f64]) -> f64 {
        let count = if self.rules.as_released { 1 } else { values.len() };
        count as f64 * f64::from(real_bits(values))
    }

    /// Width of an addition of values of this width.
    fn addition(&self, width: Width) -> f64 {
        let real = self.rules.real_sums.filter(|_| !width.integer).map(u32::from);
        f64::from(real.unwrap_or(width.bits))
    }

    fn dot(&mut self, node: &Node, (weight, bias, axis): (usize, usize, usize), outputs: f64, line: &mut Line) {
        let Some(id) = node.input(weight) else { return };
        let Some(tensor) = self.graph.constant(id) else { return };
        let weights = values(tensor, self.graph.ty(id));
        let axis = if node.op.is::<ops::MatMul>() { tensor.rank().saturating_sub(1) } else { axis };
        let counts = per_channel(&weights, tensor.shape(), axis);
        let channels = counts.len() as f64;
        // A matrix product may have a matrix for every sample of a batch.
        let matrices = if node.op.is::<ops::MatMul>() && tensor.rank() > 2 {
            tensor.shape()[..tensor.rank() - 2].iter().product::<usize>() as f64
        } else {
            1.0
        };
        let positions = outputs / channels / matrices;
        let x = node.input(0).map_or(Width::real(32), |x| self.widths.of(x));
        let w = match integer_bits(&weights) {
            Some(bits) => Width { bits: bits.into(), integer: true, signed: weights.iter().any(|v| *v < 0.0) },
            None => Width::real(real_bits(&weights).into()),
        };
        let both = x.max(w);
        let both = if self.rules.as_released && !both.integer { Width::real(32) } else { both };
        let nonzero: f64 = counts.iter().map(|n| *n as f64).sum();
        let form = stored(&weights, self.rules.as_released);
        (line.weights, line.nonzero, line.weight_bits) = (weights.len() as u64, nonzero as u64, form.bits);
        line.activation_bits = x.bits as u8;
        if !std::mem::replace(&mut self.stored[id.0 as usize], true) {
            line.cost.add(&form.cost());
        }
        line.cost.multiplications += nonzero * positions * f64::from(both.bits);
        let (sums, mut sum) = self.sums(x, w, both, &counts, weights.len());
        line.cost.additions += sums * positions;
        if let Some(b) = node.input(bias)
            && let Some(values) = self.graph.constant(b).map(Tensor::to_f64s)
            && values.iter().any(|v| *v != 0.0)
        {
            line.cost.scales += self.parameters(b);
            let terms = Width { bits: real_bits(&values).into(), integer: sum.integer, signed: true };
            line.cost.additions += outputs * self.addition(sum.max(terms));
            sum.bits = sum.max(terms).bits + u32::from(sum.integer);
        }
        let (y, scales) = (node.outputs[0], self.scales(node, id));
        match scales {
            Some(scales) => {
                let points = scales.multipliers.iter().all(|s| is_power_of_two(*s));
                if !points {
                    let bits = real_bits(&scales.multipliers);
                    line.cost.scales += self.numbers(&scales.multipliers);
                    line.cost.multiplications += outputs * f64::from(sum.bits.max(bits.into()));
                }
                if scales.zero != 0 {
                    line.cost.scales += 8.0;
                    line.cost.additions += outputs * self.addition(sum);
                }
                let even = points && scales.multipliers.iter().all(|s| *s == scales.multipliers[0]);
                if even {
                    self.widths.set(y, Width::integer(sum.bits));
                }
            }
            None => self.widths.set(y, Width::real(self.graph.ty(y).element.bits() as u32)),
        }
    }

    /// Additions of one position over all channels, times their width, and the width of the sum.
    fn sums(&self, x: Width, w: Width, both: Width, counts: &[u64], weights: usize) -> (f64, Width) {
        let longest = counts.iter().copied().max().unwrap_or(0);
        let products = x.bits + w.bits - u32::from(x.signed && w.signed);
        let inner = weights as f64 / counts.len().max(1) as f64;
        let nonzero: f64 = counts.iter().map(|n| *n as f64).sum();
        let each = if self.rules.as_released {
            // As if all channels had the mean number of weights.
            nonzero * (1.0 - 1.0 / inner)
        } else {
            counts.iter().map(|n| n.saturating_sub(1) as f64).sum()
        };
        if !both.integer {
            return (each * f64::from(both.bits), Width::real(both.bits));
        }
        match self.rules.sums {
            Sums::Tree => {
                let sums = counts.iter().map(|n| tree(products, *n)).sum();
                let levels = longest.max(1).next_power_of_two().trailing_zeros();
                (sums, Width::integer(products + levels))
            }
            Sums::Fixed => {
                let largest = |v: Width| f64::from(v.bits - u32::from(v.signed)).exp2() - 1.0;
                let bits = (largest(x) * largest(w) * inner).max(1.0).log2().floor() as u32 + 1;
                // The released counter has no bit for the sign, and one addition fewer for channels without weights.
                let bits = if self.rules.as_released { bits } else { bits + 1 };
                let count = if self.rules.as_released { nonzero - counts.len() as f64 } else { each };
                (count * f64::from(bits), Width::integer(bits))
            }
            Sums::Bits(bits) => (each * f64::from(bits), Width::integer(bits.into())),
        }
    }

    /// The multipliers after a dot of quantized values; `None` if it is one of reals.
    fn scales(&self, node: &Node, weights: ValueId) -> Option<Scales> {
        let (x, w) = (self.graph.ty(node.input(0)?), self.graph.ty(weights));
        let (x_scale, _) = x.quant.as_deref()?.as_per_tensor()?;
        let (y_scale, zero) = match self.graph.ty(node.outputs[0]).quant.as_deref() {
            Some(quant) => quant.as_per_tensor()?,
            None => (1.0, 0),
        };
        let of = |s: &f32| f64::from(x_scale * s / y_scale);
        Some(Scales { multipliers: w.quant.as_deref()?.scales().iter().map(of).collect(), zero })
    }

    fn other(&mut self, node: &Node, outputs: f64, line: &mut Line) -> Result<(), LightenError> {
        let x = self.widths.of_inputs(node);
        let y = node.outputs[0];
        let real = Width::real(self.graph.ty(y).element.bits() as u32);
        let quantized = node.input(0).is_some_and(|id| self.graph.ty(id).quant.is_some());
        let cost = &mut line.cost;
        match node.op.name() {
            "Constant" | "Shape" | "Size" | "ConstantOfShape" | "Range" => {}
            "Quantize" | "Dequantize" | "Concat" => {
                let scales = self.rescaled(node);
                for (id, scale) in scales.iter().filter(|(_, s)| !is_power_of_two(*s)) {
                    let bits = u32::from(real_bits(&[*scale]));
                    line.cost.scales += self.numbers(&[*scale]);
                    line.cost.multiplications +=
                        self.elements(node, *id)? * f64::from(self.widths.of(*id).bits.max(bits));
                }
                let plain = scales.iter().all(|(_, s)| is_power_of_two(*s));
                self.widths.set(y, if plain { x } else { real });
            }
            "Cast" | "CastLike" => {
                // A real that was rounded to fewer bits stays rounded.
                let bits = if x.integer { real.bits } else { x.bits.min(real.bits) };
                let integer = !self.graph.ty(y).element.is_float();
                self.widths.set(y, Width { bits, integer, signed: true });
            }
            "Mul" | "Div" | "PRelu" => {
                let w = self.operands(node, line);
                let shift = |id: &ValueId| {
                    let constant = self.graph.constant(*id).map(Tensor::to_f64s);
                    constant.is_some_and(|v| v.iter().all(|v| is_power_of_two(*v) && *v > 0.0))
                };
                if node.op.name() == "PRelu" || !node.inputs.iter().flatten().any(shift) {
                    line.cost.multiplications += outputs * f64::from(w.bits);
                }
                self.widths.set(y, real);
            }
            "Add" | "Sub" | "Sum" => {
                let w = self.operands(node, line);
                let terms = node.inputs.iter().flatten().count().saturating_sub(1) as f64;
                line.cost.additions += outputs * terms * self.addition(w);
                if quantized {
                    // Operands of different scales are multiplied before and after.
                    for (id, scale) in self.rescaled(node).iter().filter(|(_, s)| !is_power_of_two(*s)) {
                        line.cost.scales += self.numbers(&[*scale]);
                        line.cost.multiplications +=
                            outputs * f64::from(self.widths.of(*id).bits.max(real_bits(&[*scale]).into()));
                    }
                }
                let grown = Width { bits: w.bits + 1, signed: true, ..w };
                self.widths.set(y, if w.integer { grown } else { real });
            }
            "Relu" | "Clip" | "LeakyRelu" => {
                cost.multiplications += outputs * f64::from(x.bits);
                self.widths.set(y, x);
            }
            _ if quantized && node.op.quantization() == QuantRule::Table => {
                let entries = f64::from(x.bits.min(16)).exp2();
                cost.scales += entries * self.graph.ty(y).element.bits() as f64;
            }
            "Sigmoid" | "HardSigmoid" | "Softmax" | "LogSoftmax" => {
                cost.multiplications += outputs * 2.0 * f64::from(x.bits);
                cost.additions += outputs * self.addition(x);
            }
            "Swish" | "HardSwish" | "Mish" | "Gelu" => {
                cost.multiplications += outputs * 3.0 * f64::from(x.bits);
                cost.additions += outputs * self.addition(x);
            }
            "BatchNormalization" => {
                let numbers = self.constant(node, 1).map_or(0, Tensor::len);
                cost.scales += if self.rules.as_released { 2.0 } else { 2.0 * numbers as f64 } * 32.0;
                cost.multiplications += outputs * f64::from(real.bits);
                cost.additions += outputs * self.addition(real);
            }
            "AveragePool" | "GlobalAveragePool" | "ReduceMean" | "ReduceSum" | "MaxPool" | "GlobalMaxPool"
            | "ReduceMax" | "ReduceMin" | "ArgMax" | "ArgMin" => self.window(node, x, outputs, line)?,
            _ if moves(node) => {
                self.indices(node, &mut line.cost);
                self.widths.set(y, x);
            }
            _ => self.unknown(node, outputs, x, line),
        }
        Ok(())
    }

    /// The widest operand of an elementwise op; constants among them are parameters.
    fn operands(&mut self, node: &Node, line: &mut Line) -> Width {
        let ids: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        for id in &ids {
            line.cost.scales += self.parameters(*id);
        }
        ids.iter().map(|id| self.widths.of(*id)).reduce(Width::max).unwrap_or(Width::real(32))
    }

    /// Inputs of a node and the factor from their scale to that of the output; reals have scale 1.
    fn rescaled(&self, node: &Node) -> Vec<(ValueId, f64)> {
        let scale = |id: ValueId| {
            let quant = self.graph.ty(id).quant.as_deref();
            quant.and_then(|q| q.as_per_tensor()).map_or(1.0, |(scale, _)| scale)
        };
        let to = scale(node.outputs[0]);
        let variable = |id: &&ValueId| self.graph.constant(**id).is_none();
        node.inputs.iter().flatten().filter(variable).map(|id| (*id, f64::from(scale(*id) / to))).collect()
    }

    /// Pooling and reduction: n − 1 additions or comparisons, and a multiplication if it is a mean.
    fn window(&mut self, node: &Node, x: Width, outputs: f64, line: &mut Line) -> Result<(), LightenError> {
        let Some(input) = node.input(0) else { return Ok(()) };
        let (name, shape) = (node.op.name(), self.graph.ty(input).known_shape().unwrap_or_default());
        let kernel = match node.op.downcast::<ops::AveragePool>() {
            Some(pool) => pool.kernel()?,
            None => node.op.downcast::<ops::MaxPool>().map_or(Ok(vec![]), ops::MaxPool::kernel)?,
        };
        let taps: f64 = match kernel.is_empty() {
            true => self.elements(node, input)? / outputs.max(1.0),
            false => kernel.iter().product::<usize>() as f64,
        };
        let mean = matches!(name, "AveragePool" | "GlobalAveragePool" | "ReduceMean");
        let side = kernel.first().or(shape.get(2)).copied().unwrap_or(1) as f64;
        let taps = if self.rules.as_released && mean { side } else { taps };
        let compares = !mean && name != "ReduceSum";
        let sums = if x.integer && self.rules.sums == Sums::Tree && taps.fract() == 0.0 && !compares {
            tree(x.bits, taps as u64)
        } else {
            (taps - 1.0) * self.addition(x)
        };
        line.cost.additions += outputs * sums;
        // The mean of 2^k integers moves the point, like every scale that is a power of two.
        let scale = self.rescaled(node).first().map_or(1.0, |(_, s)| *s) / taps.max(1.0);
        if mean && !(x.integer && is_power_of_two(scale)) {
            line.cost.multiplications += outputs * f64::from(x.bits);
        }
        if !matches!(name, "ArgMax" | "ArgMin") {
            let sum = if x.integer { (taps.max(1.0).log2().ceil()) as u32 } else { 0 };
            let grown = Width { bits: x.bits + sum, integer: x.integer && is_power_of_two(scale), ..x };
            self.widths.set(node.outputs[0], if mean || name == "ReduceSum" { grown } else { x });
        }
        Ok(())
    }

    /// Constant indices of what is moved.
    fn indices(&mut self, node: &Node, cost: &mut Cost) {
        let Some(id) = node.input(1) else { return };
        if node.op.name() != "Gather" || std::mem::replace(&mut self.stored[id.0 as usize], true) {
            return;
        }
        let Some(indices) = self.graph.constant(id).map(Tensor::to_i64s) else { return };
        let axis = node.op.attrs().read("axis", 0i64).unwrap_or(0);
        let shape = node.input(0).and_then(|id| self.graph.ty(id).known_shape()).unwrap_or_default();
        let at = if axis < 0 { axis + shape.len() as i64 } else { axis };
        let places = usize::try_from(at).ok().and_then(|at| shape.get(at)).copied().unwrap_or(1) as f64;
        let listed = indices.len() as f64 * places.log2().ceil();
        let ascending = indices.windows(2).all(|pair| pair[0] < pair[1]) && indices.first().is_none_or(|i| *i >= 0);
        cost.masks += if ascending { listed.min(places) } else { listed };
        if self.graph.constant(node.input(0).unwrap_or(id)).is_some() {
            // An embedding: the table is a parameter.
            cost.scales += node.input(0).map_or(0.0, |table| self.parameters(table));
        }
    }

    /// An op that no rule is for: its multiply–accumulates, or one multiplication for each output.
    fn unknown(&mut self, node: &Node, outputs: f64, x: Width, line: &mut Line) {
        let macs = infer::with_context(self.graph, node, |cx| node.op.macs(cx)) as f64;
        let real: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let mut density = 1.0;
        for id in real {
            let Some(tensor) = self.graph.constant(id) else { continue };
            if !tensor.element().is_float() && self.graph.ty(id).quant.is_none() {
                continue;
            }
            let form = stored(&values(tensor, self.graph.ty(id)), self.rules.as_released);
            if !std::mem::replace(&mut self.stored[id.0 as usize], true) {
                line.cost.add(&form.cost());
            }
            if tensor.rank() > 1 {
                line.weights += form.len;
                line.nonzero += form.nonzero;
                line.weight_bits = line.weight_bits.max(form.bits);
                density = line.nonzero as f64 / line.weights.max(1) as f64;
            }
        }
        if macs > 0.0 {
            line.cost.multiplications += macs * density * f64::from(x.bits);
            line.cost.additions += macs * density * self.addition(x);
            return;
        }
        self.assumed.push((node.name.clone(), node.op.name().into()));
        line.cost.multiplications += outputs * f64::from(x.bits);
    }
}

/// Weights that are not zero, for each slice of `axis`.
fn per_channel(weights: &[f64], shape: &[usize], axis: usize) -> Vec<u64> {
    let channels = shape.get(axis).copied().unwrap_or(1).max(1);
    let inner: usize = shape.iter().skip(axis + 1).product::<usize>().max(1);
    let mut counts = vec![0; channels];
    for (i, _) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
        counts[i / inner % channels] += 1;
    }
    counts
}

/// Additions of n values of `bits` in a tree whose levels are one bit wider than those below, times their width.
fn tree(mut bits: u32, mut n: u64) -> f64 {
    let mut sum = 0.0;
    while n > 1 {
        sum += (n / 2) as f64 * f64::from(bits);
        n = n.div_ceil(2);
        bits += 1;
    }
    sum
}

/// True for ops that only say where values go.
fn moves(node: &Node) -> bool {
    node.op.quantization() == QuantRule::Movement
        || matches!(
            node.op.name(),
            "Identity" | "Dropout" | "Expand" | "Tile" | "Pad" | "Resize" | "Upsample" | "Where"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adder_tree_grows_by_a_bit_a_level() {
        // Five values of eight bits: 2 additions of 8 bits, 1 of 9, 1 of 10.
        assert_eq!(tree(8, 5), 2.0 * 8.0 + 9.0 + 10.0);
        assert_eq!(tree(8, 1), 0.0);
        assert_eq!(tree(8, 0), 0.0);
    }

    #[test]
    fn weights_are_counted_by_channel() {
        assert_eq!(per_channel(&[1.0, 0.0, 2.0, 0.0, 0.0, 3.0], &[2, 3], 0), [2, 1]);
        assert_eq!(per_channel(&[1.0, 0.0, 2.0, 0.0, 0.0, 3.0], &[2, 3], 1), [1, 0, 2]);
    }
}

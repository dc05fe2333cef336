//! The training graph: integers in floating point where the network will compute on integers, batch normalization on sums.

use std::{collections::HashMap, sync::Arc};

use qing_graph::{Element, Graph, Node, NodeId, Op, Tensor, Type, ValueId, ops};

use super::{
    Config,
    outline::{Dot, Kind, Outline, Quantizer, is_activation},
    scales,
};
use crate::{
    TrainError,
    parameters::{Parameter, Role, Statistic},
};

/// Where the numbers of a dot are among parameters and statistics.
#[derive(Debug, Clone)]
pub(super) struct DotSlots {
    pub weight: usize,
    /// The scales of the weights; absent where only signs matter.
    pub scale: Option<usize>,
    pub bias: Option<usize>,
    /// Scale and shift of the normalization, and where its mean and variance are among the statistics.
    pub norm: Option<[usize; 2]>,
    pub statistics: usize,
    pub epsilon: f32,
}

/// Where the numbers of a network are.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    pub dots: HashMap<NodeId, DotSlots>,
    /// The parameter of each quantizer; `None` for those that are not learned.
    pub quantizers: Vec<Option<usize>>,
}

/// A training graph with what is trained.
pub(super) struct Built {
    pub graph: Graph,
    pub parameters: Vec<Parameter>,
    pub statistics: Vec<Statistic>,
    pub slots: Slots,
}

/// Builds the training graph of a float network; `shapes` is the same network at its batch.
///
/// # Errors
/// If an op refuses what it is given.
pub(super) fn build(shapes: &Graph, outline: &Outline, config: &Config) -> Result<Built, TrainError> {
    let mut graph = Graph::new(&shapes.name);
    graph.metadata.clone_from(&shapes.metadata);
    let built = Built { graph, parameters: vec![], statistics: vec![], slots: Slots::default() };
    let mut builder = Builder {
        from: shapes,
        outline,
        config,
        built,
        raw: HashMap::new(),
        real: HashMap::new(),
        codes: HashMap::new(),
        constants: HashMap::new(),
        scales: vec![],
    };
    builder.run()?;
    Ok(builder.built)
}

struct Builder<'a> {
    from: &'a Graph,
    outline: &'a Outline,
    config: &'a Config,
    built: Built,
    /// Results of nodes before they are quantized.
    raw: HashMap<ValueId, ValueId>,
    /// Values as reals, quantized where they are stored so.
    real: HashMap<ValueId, ValueId>,
    /// Values as integers of a quantizer, and as what these stand for.
    codes: HashMap<(ValueId, usize, bool), ValueId>,
    constants: HashMap<ValueId, ValueId>,
    /// The graph value that holds the scale of each quantizer.
    scales: Vec<ValueId>,
}

impl Builder<'_> {
    fn run(&mut self) -> Result<(), TrainError> {
        for id in &self.from.inputs {
            let value = self.from.value(*id);
            let input = self.built.graph.add_input(&value.name, value.ty.clone());
            self.raw.insert(*id, input);
        }
        self.quantizers();
        for (i, node) in self.from.nodes.iter().enumerate() {
            match self.outline.kinds[i].clone() {
                Kind::Dot(dot) => self.dot(i, node, &dot)?,
                Kind::Fused if node.op.is::<ops::BatchNormalization>() => {}
                // What is quantized from zero has no use for it.
                Kind::Fused | Kind::Movement => {}
                Kind::Stored | Kind::Float => self.plain(node)?,
            }
        }
        for id in &self.from.outputs {
            let output = self.real(*id)?;
            self.built.graph.mark_output(output);
        }
        Ok(())
    }

    fn quantizers(&mut self) {
        for quantizer in &self.outline.quantizers {
            let name = format!("{}.scale{}", self.from.value(quantizer.leader).name, quantizer.bits);
            let (slot, value) = if !quantizer.learns() {
                (None, self.built.graph.add_constant(&name, Tensor::vector(vec![quantizer.scale])))
            } else {
                let slot = self.parameter(&name, &[1], vec![quantizer.scale], Role::Scale);
                (Some(slot), self.built.parameters[slot].input)
            };
            self.built.slots.quantizers.push(slot);
            self.scales.push(value);
        }
    }

    fn parameter(&mut self, name: &str, shape: &[usize], value: Vec<f32>, role: Role) -> usize {
        let input = self.built.graph.add_input(name, Type::new(Element::F32, shape.iter().copied()));
        self.built.parameters.push(Parameter { name: name.into(), input, shape: shape.to_vec(), value, role });
        self.built.parameters.len() - 1
    }

    fn add(&mut self, op: Arc<dyn Op>, name: &str, inputs: &[ValueId]) -> Result<ValueId, TrainError> {
        let inputs: Vec<_> = inputs.iter().map(|id| Some(*id)).collect();
        Ok(self.built.graph.add_node(op, name, &inputs, 1)?[0])
    }

    fn constant(&mut self, id: ValueId) -> ValueId {
        let value = self.from.value(id);
        let graph = &mut self.built.graph;
        *self.constants.entry(id).or_insert_with(|| {
            let tensor = value.constant.clone().unwrap_or_else(|| Tensor::scalar(0f32));
            graph.add_typed_constant(&value.name, value.ty.clone(), tensor)
        })
    }

    fn quantize(&mut self, x: ValueId, index: usize, real: bool) -> Result<ValueId, TrainError> {
        let quantizer = &self.outline.quantizers[index];
        let (lo, hi) = quantizer.range();
        let features: usize = self.from.ty(quantizer.leader).known_shape().unwrap_or_default().iter().skip(1).product();
        let op = learned(self.config, (lo, hi), (false, quantizer.width()), 0, features, real);
        let name = format!("{}.q{}", self.from.value(quantizer.leader).name, quantizer.bits);
        self.add(op, &name, &[x, self.scales[index]])
    }

    /// The node whose only work is to move what becomes `id`.
    fn movement(&self, id: ValueId) -> Option<&'_ Node> {
        let moves = |i: &usize| self.outline.kinds[*i] == Kind::Movement && self.from.nodes[*i].outputs[0] == id;
        (0..self.from.nodes.len()).find(moves).map(|i| &self.from.nodes[i])
    }

    /// The same movement of another form of its input.
    fn moved(&mut self, node: &Node, x: ValueId) -> Result<ValueId, TrainError> {
        let mut inputs = vec![Some(x)];
        for id in node.inputs.iter().skip(1) {
            inputs.push(id.map(|id| self.constant(id)));
        }
        Ok(self.built.graph.add_node(node.op.clone(), &node.name, &inputs, 1)?[0])
    }

    fn raw(&self, id: ValueId) -> Result<ValueId, TrainError> {
        let name = &self.from.value(id).name;
        self.raw.get(&id).copied().ok_or_else(|| TrainError::invalid(format!("`{name}` is read before it is computed")))
    }

    /// The value as a real number, as its readers see it.
    fn real(&mut self, id: ValueId) -> Result<ValueId, TrainError> {
        if let Some(found) = self.real.get(&id) {
            return Ok(*found);
        }
        let made = if is_activation(self.from, id) && self.from.ty(id).element == Element::F32 {
            if let Some(node) = self.movement(id).cloned() {
                let x = self.real(node.inputs[0].unwrap_or(id))?;
                self.moved(&node, x)?
            } else {
                let raw = self.raw(id)?;
                match self.outline.home(id) {
                    Some(home) => self.quantize(raw, home, true)?,
                    None => raw,
                }
            }
        } else if self.from.constant(id).is_some() {
            self.constant(id)
        } else {
            self.raw(id)?
        };
        self.real.insert(id, made);
        Ok(made)
    }

    /// The value as integers of a quantizer, or as what these stand for.
    fn codes(&mut self, id: ValueId, index: usize, real: bool) -> Result<ValueId, TrainError> {
        let home = self.outline.quantizers[index].home;
        if home && real {
            return self.real(id);
        }
        if let Some(found) = self.codes.get(&(id, index, real)) {
            return Ok(*found);
        }
        let made = if let Some(node) = self.movement(id).cloned() {
            let x = self.codes(node.inputs[0].unwrap_or(id), index, real)?;
            self.moved(&node, x)?
        } else {
            let x = if home { self.raw(id)? } else { self.real(id)? };
            self.quantize(x, index, real)?
        };
        self.codes.insert((id, index, real), made);
        Ok(made)
    }

    fn plain(&mut self, node: &Node) -> Result<(), TrainError> {
        let mut inputs = vec![];
        for id in &node.inputs {
            inputs.push(id.map(|id| self.real(id)).transpose()?);
        }
        let outputs = self.built.graph.add_node(node.op.clone(), &node.name, &inputs, node.outputs.len())?;
        for (old, new) in node.outputs.iter().zip(outputs) {
            self.raw.insert(self.outline.end(*old), new);
        }
        Ok(())
    }

    fn dot(&mut self, index: NodeId, node: &Node, dot: &Dot) -> Result<(), TrainError> {
        let from = self.from.value(dot.weight);
        let Some(weights) = from.constant.as_ref() else { return Ok(()) };
        let (shape, values) = (weights.shape().to_vec(), weights.to_f32s());
        let (axis, name) = (dot.axis, from.name.clone());
        let channels = shape[axis];
        let own = || scales::of_weights(&values, &shape, axis, dot.bits);
        let scales = dot.scales.clone().unwrap_or_else(own);
        let x_scale = self.outline.quantizers[dot.x].scale;
        let units: Vec<f32> = scales.iter().map(|s| s * x_scale).collect();
        // A normalization takes the unit of the sums away; without one, integers are multiplied by their scales beforehand, where
        // the gradients of the scales are small differences rather than large sums.
        let real = dot.norm.is_none();
        let x = self.codes(node.input(0).unwrap_or(dot.weight), dot.x, real)?;

        let weight = self.parameter(&name, &shape, values, Role::Weight);
        // Signs have a size of their own; what they are rounded by is only the width of the estimated gradient, and stays.
        let signs = dot.bits == 1;
        let widths: Vec<f32> = scales.iter().map(|s| s * SIGN_WIDTH).collect();
        let scale =
            (!signs || real).then(|| self.parameter(&format!("{name}.scale"), &[channels], scales, Role::Scale));
        let divisor = match scale.filter(|_| !signs) {
            Some(slot) => self.built.parameters[slot].input,
            None => self.built.graph.add_constant(&format!("{name}.width"), Tensor::vector(widths)),
        };
        let per_scale = shape.iter().product::<usize>() / channels.max(1);
        let range = scales::weight_range(dot.bits);
        let op = learned(self.config, range, (signs, TWO_LEVELS), axis, per_scale, real && !signs);
        let weight_value = self.built.parameters[weight].input;
        let mut w = self.add(op, &format!("{name}.q"), &[weight_value, divisor])?;
        if let Some(slot) = scale.filter(|_| signs) {
            let mut along = vec![1i64; shape.len()];
            along[axis] = channels as i64;
            let along = self.built.graph.add_constant(&format!("{name}.scale.shape"), Tensor::vector(along));
            let scale = self.built.parameters[slot].input;
            let scale = self.add(Arc::new(ops::Reshape::default()), &format!("{name}.scale.along"), &[scale, along])?;
            w = self.add(Arc::new(ops::Mul {}), &format!("{name}.real"), &[w, scale])?;
        }
        let mut slots = DotSlots { weight, scale, bias: None, norm: None, statistics: 0, epsilon: 0.0 };
        let mut inputs = vec![x, w];
        if real && let Some((name, bias)) = dot.bias.and_then(|id| Some((id, self.from.constant(id)?))) {
            let (name, values) = (self.from.value(name).name.clone(), bias.to_f32s());
            let slot = self.parameter(&name, &[values.len()], values, Role::Bias);
            slots.bias = Some(slot);
            inputs.push(self.built.parameters[slot].input);
        }
        let with_bias = !node.op.is::<ops::MatMul>();
        let bias = inputs.pop_if(|_| !with_bias && slots.bias.is_some());
        let mut y = self.add(node.op.clone(), &node.name, &inputs)?;
        if let Some(bias) = bias {
            y = self.add(Arc::new(ops::Add {}), &format!("{}.biased", node.name), &[y, bias])?;
        }
        if let Some(norm) = dot.norm {
            y = self.normalize(&self.from.nodes[norm], y, (dot, &units), &mut slots)?;
        }
        self.built.slots.dots.insert(index, slots);
        self.raw.insert(self.outline.end(node.outputs[0]), y);
        Ok(())
    }

    /// Batch normalization of sums, whose unit the statistics take away.
    fn normalize(
        &mut self,
        norm: &Node,
        acc: ValueId,
        (dot, units): (&Dot, &[f32]),
        slots: &mut DotSlots,
    ) -> Result<ValueId, TrainError> {
        let Some(op) = norm.op.downcast::<ops::BatchNormalization>() else { return Ok(acc) };
        let mut named = vec![];
        for slot in 1..5 {
            let value = norm.input(slot).map(|id| self.from.value(id));
            let Some((name, constant)) = value.and_then(|v| Some((v.name.clone(), v.constant.as_ref()?))) else {
                return Err(TrainError::invalid(format!("node `{}`: its input {slot} is not constant", norm.name)));
            };
            named.push((name, constant.to_f32s()));
        }
        let bias = dot.bias.and_then(|id| self.from.constant(id)).map(Tensor::to_f32s);
        let [gamma, beta, mean, var] =
            <[_; 4]>::try_from(named).map_err(|_| TrainError::invalid("a normalization has four parameters"))?;
        let count = gamma.1.len();
        let gamma = self.parameter(&gamma.0, &[count], gamma.1, Role::Normalization);
        let beta = self.parameter(&beta.0, &[count], beta.1, Role::Normalization);
        let inputs = [acc, self.built.parameters[gamma].input, self.built.parameters[beta].input].map(Some);
        let training = Arc::new(ops::BatchNormTraining { epsilon: op.epsilon });
        let outputs = self.built.graph.add_node(training, &norm.name, &inputs, 3)?;
        slots.norm = Some([gamma, beta]);
        slots.statistics = self.built.statistics.len();
        slots.epsilon = op.epsilon;
        // In units of the sums, from which the bias of the layer is left out.
        let shift = |c: usize| bias.as_ref().and_then(|b| b.get(c)).copied().unwrap_or(0.0);
        let means = mean.1.iter().zip(units).enumerate().map(|(c, (m, u))| (m - shift(c)) / u).collect();
        let variances = var.1.iter().zip(units).map(|(v, u)| v / (u * u)).collect();
        for (name, batch, running) in [(mean.0, outputs[1], means), (var.0, outputs[2], variances)] {
            self.built.statistics.push(Statistic { name, batch, running, momentum: op.momentum });
        }
        Ok(outputs[0])
    }
}

/// A vector of channels in a shape that broadcasts to the results of a dot: channels are axis 1 after a convolution, and
/// last after a product.
///
/// # Errors
/// If it is no vector.
pub(super) fn along_channels(
    graph: &mut Graph,
    node: &Node,
    rank: usize,
    vector: ValueId,
) -> Result<ValueId, TrainError> {
    if !node.op.name().starts_with("Conv") || rank <= 2 {
        return Ok(vector);
    }
    let channels = graph.ty(vector).known_shape().and_then(|s| s.first().copied()).unwrap_or(1);
    let mut shape = vec![channels as i64];
    shape.resize(rank - 1, 1);
    let name = format!("{}.channels", graph.value(vector).name);
    let shape = graph.add_constant(&format!("{name}.shape"), Tensor::vector(shape));
    Ok(graph.add_node(Arc::new(ops::Reshape::default()), &name, &[Some(vector), Some(shape)], 1)?[0])
}

/// How far from zero, in means of magnitudes, weights of one bit have a gradient.
const SIGN_WIDTH: f32 = 3.0;

/// How far from the threshold of two learned levels values have a gradient, in scales: up to both.
pub(super) const TWO_LEVELS: f32 = 0.5;

/// The op of a quantizer of `count` values per scale; `width` is for two levels of a range.
pub(super) fn learned(
    config: &Config,
    (lo, hi): (i32, i32),
    (bipolar, width): (bool, f32),
    axis: usize,
    count: usize,
    real: bool,
) -> Arc<dyn Op> {
    let estimator = if bipolar || hi - lo == 1 { config.sign } else { config.rounding };
    let (estimator, delta) = estimator.attributes();
    Arc::new(ops::LearnedQuantize {
        lo: lo.into(),
        hi: hi.into(),
        axis: axis as i64,
        bipolar,
        real,
        estimator: estimator.into(),
        delta,
        width,
        factor: 1.0 / (count.max(1) as f32 * hi.max(1) as f32).sqrt(),
    })
}

/// The least a learned scale may become, as a share of its initial value.
pub(super) const LEAST_SCALE: f32 = 1e-3;

impl Quantizer {
    /// The scale among trained values.
    pub(super) fn scale_in(&self, slot: Option<usize>, parameters: &[Vec<f32>]) -> f32 {
        slot.and_then(|i| parameters.get(i)?.first()).copied().unwrap_or(self.scale)
    }
}

//! Which nodes of a float network compute on integers, and which values are quantized, how often.
//!
//! A value is stored in one quantization, its home. A layer that wants it in fewer bits reads it rescaled. Movement does not
//! change the quantization, so what is moved has the home of its source, the leader.

use std::collections::{BTreeMap, BTreeSet};

use qing_graph::{Element, Graph, Node, NodeId, QuantRule, ValueId, ops, rewrite::View};

use super::{Config, build::TWO_LEVELS, dequantize::Known};
use crate::TrainError;

/// What becomes of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A dot of integers.
    Dot(Dot),
    /// Part of the node before it: the normalization of a dot, or a ReLU whose result is quantized from zero.
    Fused,
    /// A sum of stored values, or a mean, or a unary function, or a concatenation.
    Stored,
    /// Only moves values.
    Movement,
    /// Computed in floating point on what stored values stand for.
    Float,
}

/// A convolution or matrix product with its normalization.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dot {
    /// Constant weights, and the axis of their output channels.
    pub weight: ValueId,
    pub axis: usize,
    pub bias: Option<ValueId>,
    /// Bits of the weights.
    pub bits: u8,
    /// Their scales, if a quantized network says them.
    pub scales: Option<Vec<f32>>,
    /// The quantizer of its input.
    pub x: usize,
    /// The BatchNormalization that follows.
    pub norm: Option<NodeId>,
}

/// A quantization of a value. Its integers are those of `element` minus `zero`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantizer {
    /// The value, one that is not merely moved.
    pub leader: ValueId,
    pub bits: u8,
    /// Whether it is how the value is stored; else it is rescaled from there.
    pub home: bool,
    /// Whether the value is an input of the network: its scale is given by the data and not learned.
    pub input: bool,
    /// The initial scale, the element and the zero point: set by calibration.
    pub scale: f32,
    pub element: Element,
    pub zero: i32,
    /// For signs: how far from zero values have a gradient. What is quantized so has a scale so small that it rounds to 1 where it is
    /// larger than zero, and that is not learned.
    pub signs: Option<f32>,
}

impl Quantizer {
    /// Whether its scale is trained.
    pub(super) fn learns(&self) -> bool {
        !self.input && self.signs.is_none()
    }

    /// How far from the threshold between two levels values have a gradient, in scales.
    pub(super) fn width(&self) -> f32 {
        self.signs.map_or(TWO_LEVELS, |reach| reach / self.scale)
    }

    /// Least and largest integer, counted from the zero point.
    pub(super) fn range(&self) -> (i32, i32) {
        let (lo, hi) = self.element.range().unwrap_or((0, 1));
        (lo as i32 - self.zero, hi as i32 - self.zero)
    }
}

/// What was decided of a network.
#[derive(Debug, Clone)]
pub(super) struct Outline {
    /// For every node.
    pub kinds: Vec<Kind>,
    pub quantizers: Vec<Quantizer>,
    /// The quantizer in which a leader is stored.
    homes: BTreeMap<ValueId, usize>,
    /// For values that are only moved: from where.
    moved: BTreeMap<ValueId, ValueId>,
    /// For results that fused nodes go on with: what they make of it in the end.
    ends: BTreeMap<ValueId, ValueId>,
}

/// What readers want of a value.
#[derive(Debug, Clone, Default)]
struct Wants {
    codes: BTreeSet<u8>,
    stored: bool,
    real: bool,
}

impl Wants {
    fn merge(&mut self, other: &Wants) {
        self.codes.extend(&other.codes);
        self.stored |= other.stored;
        self.real |= other.real;
    }

    /// Bits of the home, if the value has one.
    fn home(&self, stream: u8) -> Option<u8> {
        let most = self.codes.last().copied();
        match (self.stored || self.codes.len() > 1 || self.real, most) {
            (true, Some(most)) => Some(stream.max(most)),
            (true, None) => self.stored.then_some(stream),
            (false, most) => most,
        }
    }
}

impl Outline {
    /// Decides for a float network whose constants are folded.
    ///
    /// # Errors
    /// If nothing of it can be quantized, or a normalization follows no layer.
    pub(super) fn new(graph: &Graph, config: &Config) -> Result<Outline, TrainError> {
        let view = View::new(graph);
        let dots: Vec<NodeId> = (0..graph.nodes.len()).filter(|i| is_dot(graph, &graph.nodes[*i])).collect();
        if dots.is_empty() {
            return Err(TrainError::invalid(format!(
                "`{}` has no convolution or matrix product with constant f32 weights to quantize",
                graph.name
            )));
        }
        let producers = graph.producers();
        // From the back: what readers want decides how a node computes.
        let mut wants: BTreeMap<ValueId, Wants> = BTreeMap::new();
        for id in &graph.outputs {
            wants.entry(*id).or_default().real = true;
        }
        let mut kinds = vec![Kind::Float; graph.nodes.len()];
        let (mut moved, mut ends) = (BTreeMap::new(), BTreeMap::new());
        let end = |ends: &BTreeMap<ValueId, ValueId>, id: ValueId| ends.get(&id).copied().unwrap_or(id);
        for i in (0..graph.nodes.len()).rev() {
            let node = &graph.nodes[i];
            let result = end(&ends, node.outputs[0]);
            let given = wants.get(&result).cloned().unwrap_or_default();
            let has_home = given.home(config.stream_bits).is_some();
            let x = node.input(0).filter(|x| is_activation(graph, *x));
            let before = x
                .and_then(|x| producers[x.0 as usize])
                .filter(|_| x.is_some_and(|x| view.single_consumer(x).is_some() && !graph.outputs.contains(&x)));
            if node.op.is::<ops::BatchNormalization>() {
                let Some(x) = x.filter(|_| before.is_some_and(|b| dots.contains(&b))) else {
                    return Err(TrainError::invalid(format!(
                        "node `{}`: a BatchNormalization that does not follow a convolution or matrix product alone has no \
                         integer form; move it behind one",
                        node.name
                    )));
                };
                kinds[i] = Kind::Fused;
                ends.insert(x, result);
                continue;
            }
            if node.op.is::<ops::Relu>()
                && has_home
                && let (Some(x), Some(before)) = (x, before)
                && gives_sums(graph, &dots, before)
            {
                kinds[i] = Kind::Fused;
                ends.insert(x, result);
                continue;
            }
            let read: Vec<ValueId> =
                node.inputs.iter().flatten().copied().filter(|x| is_activation(graph, *x)).collect();
            let mut want = Wants::default();
            if let Some(at) = dots.iter().position(|d| *d == i) {
                let QuantRule::Dot { weight, bias, axis } = node.op.quantization() else { continue };
                let Some(weight) = node.input(weight) else { continue };
                let edge = at == 0 || at + 1 == dots.len();
                let bits = config.bits_of([&graph.value(weight).name, &node.name], edge);
                let bias = node.input(bias);
                kinds[i] = Kind::Dot(Dot { weight, axis, bias, bits: bits.weights, scales: None, x: 0, norm: None });
                want.codes.insert(bits.activations);
            } else {
                let all = !read.is_empty() && node.outputs.len() == 1 && is_activation(graph, node.outputs[0]);
                kinds[i] = match node.op.quantization() {
                    QuantRule::Movement
                        if all && read.len() == 1 && read.first() == x.as_ref() && moves(graph, node) =>
                    {
                        Kind::Movement
                    }
                    QuantRule::Add if all && has_home && read.len() == 2 => Kind::Stored,
                    QuantRule::Mean | QuantRule::Table if all && has_home && read.len() == 1 => Kind::Stored,
                    QuantRule::Rescale if all && has_home && read.len() == node.inputs.len() => Kind::Stored,
                    _ => Kind::Float,
                };
                match kinds[i] {
                    Kind::Movement => {
                        moved.insert(node.outputs[0], read[0]);
                        want = given;
                    }
                    Kind::Stored => want.stored = true,
                    _ => want.real = true,
                }
            }
            for x in read {
                wants.entry(x).or_default().merge(&want);
            }
        }
        let mut outline = Outline { kinds, quantizers: vec![], homes: BTreeMap::new(), moved, ends };
        outline.attach(graph, &wants, &dots, config)?;
        Ok(outline)
    }

    /// Makes the quantizers, and gives dots theirs and their normalizations.
    fn attach(
        &mut self,
        graph: &Graph,
        wants: &BTreeMap<ValueId, Wants>,
        dots: &[NodeId],
        config: &Config,
    ) -> Result<(), TrainError> {
        let mut made: BTreeMap<(ValueId, u8), usize> = BTreeMap::new();
        for (id, want) in wants {
            let Some(home) = want.home(config.stream_bits) else { continue };
            if self.leader(*id) != *id {
                continue;
            }
            for bits in [home].into_iter().chain(want.codes.iter().copied().filter(|b| *b != home)) {
                let index = self.quantizers.len();
                made.insert((*id, bits), index);
                if bits == home {
                    self.homes.insert(*id, index);
                }
                let (home, input) = (bits == home, graph.inputs.contains(id));
                let unset = (1.0, Element::U8, 0);
                self.quantizers.push(Quantizer {
                    leader: *id,
                    bits,
                    home,
                    input,
                    scale: unset.0,
                    element: unset.1,
                    zero: unset.2,
                    signs: None,
                });
            }
        }
        for (at, i) in dots.iter().enumerate() {
            let node = &graph.nodes[*i];
            let Kind::Dot(mut dot) = self.kinds[*i].clone() else { continue };
            let edge = at == 0 || at + 1 == dots.len();
            let bits = config.bits_of([&graph.value(dot.weight).name, &node.name], edge).activations;
            let x = node.input(0).map(|x| self.leader(x)).and_then(|x| made.get(&(x, bits)));
            dot.x = *x.ok_or_else(|| {
                TrainError::invalid(format!("node `{}` reads a value that is not quantized", node.name))
            })?;
            dot.norm = (0..graph.nodes.len()).find(|j| {
                graph.nodes[*j].op.is::<ops::BatchNormalization>() && graph.nodes[*j].input(0) == Some(node.outputs[0])
            });
            self.kinds[*i] = Kind::Dot(dot);
        }
        Ok(())
    }

    /// Takes over what a quantized network says of values that it stores in as many bits.
    pub(super) fn keep(&mut self, graph: &Graph, known: &Known) {
        for quantizer in &mut self.quantizers {
            let name = &graph.value(quantizer.leader).name;
            if let Some(found) = known.activation(name, quantizer.bits) {
                (quantizer.element, quantizer.scale, quantizer.zero) = found;
            }
        }
        for kind in &mut self.kinds {
            if let Kind::Dot(dot) = kind {
                let found = known.weights(&graph.value(dot.weight).name, dot.bits);
                dot.scales = found.map(<[f32]>::to_vec);
            }
        }
    }

    /// Where a value that is only moved comes from.
    pub(super) fn leader(&self, value: ValueId) -> ValueId {
        let mut at = value;
        while let Some(next) = self.moved.get(&at) {
            at = *next;
        }
        at
    }

    /// What the nodes fused to the one that gives `value` make of it.
    pub(super) fn end(&self, value: ValueId) -> ValueId {
        self.ends.get(&value).copied().unwrap_or(value)
    }

    /// The quantizer in which a value is stored; `None` if it is a real number.
    pub(super) fn home(&self, value: ValueId) -> Option<usize> {
        self.homes.get(&self.leader(value)).copied()
    }
}

/// Whether a value is computed, or an input, in f32.
pub(super) fn is_activation(graph: &Graph, id: ValueId) -> bool {
    graph.ty(id).element == Element::F32 && graph.constant(id).is_none()
}

/// Whether a node of movement only moves values: a pad may also write a number, which must be zero.
fn moves(graph: &Graph, node: &Node) -> bool {
    let zero = |id| graph.constant(id).is_some_and(|t| t.to_f32s().iter().all(|v| *v == 0.0));
    !node.op.is::<ops::Pad>() || node.input(2).is_none_or(zero)
}

/// A layer with constant weights of floats that is no more than a dot and a bias.
fn is_dot(graph: &Graph, node: &Node) -> bool {
    let QuantRule::Dot { weight, bias, axis } = node.op.quantization() else { return false };
    let Some(w) = node.input(weight).and_then(|id| graph.constant(id)) else { return false };
    let attrs = node.op.attrs();
    let one = |name| attrs.read(name, 1.0f32).is_ok_and(|v| v == 1.0);
    let plain = one("alpha") && one("beta") && attrs.read("transA", 0i64).is_ok_and(|v| v == 0);
    let vector = |id| graph.constant(id).is_some_and(|b| b.len() == w.shape()[axis]);
    w.element() == Element::F32
        && axis < w.rank()
        && !w.is_empty()
        && (node.op.name() != "MatMul" || w.rank() == 2)
        && plain
        && node.input(bias).is_none_or(vector)
        && node.input(0).is_some_and(|x| is_activation(graph, x))
}

/// Whether the results of a node are rounded from sums, so that a ReLU after it only narrows their range.
fn gives_sums(graph: &Graph, dots: &[NodeId], node: NodeId) -> bool {
    let op = &graph.nodes[node].op;
    dots.contains(&node)
        || op.is::<ops::BatchNormalization>()
        || matches!(op.quantization(), QuantRule::Add | QuantRule::Mean)
}

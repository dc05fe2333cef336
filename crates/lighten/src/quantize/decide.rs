//! Which nodes compute on integers, and which values share a quantization.

use std::collections::{BTreeMap, BTreeSet};

use qing_graph::{Element, Graph, Node, NodeId, QuantRule, ValueId, rewrite::View};

use super::options::QuantizeOptions;

/// How a node will compute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mode {
    /// On integers, giving integers.
    Integer,
    /// A dot of integers whose result is wanted as a real number.
    RealDot,
    /// In floating point, and why.
    Float(String),
}

/// What was decided for a graph.
#[derive(Debug)]
pub(super) struct Decision {
    /// For every node.
    pub modes: Vec<Mode>,
    /// Values that take the quantization of another: results of movements that of their source, layers that of the
    /// activation function fused into them.
    follows: BTreeMap<ValueId, ValueId>,
    /// Activation functions that only narrow the range of the layer before them.
    fused: BTreeSet<NodeId>,
}

impl Decision {
    /// True if the node only narrows the range of the layer before it.
    pub(super) fn fused(&self, node: NodeId) -> bool {
        self.fused.contains(&node)
    }

    /// The value whose statistics and quantization `value` uses.
    pub(super) fn leader(&self, value: ValueId) -> ValueId {
        let mut at = value;
        while let Some(next) = self.follows.get(&at) {
            at = *next;
        }
        at
    }

    /// True if the node works on integers.
    pub(super) fn is_integer(&self, node: NodeId) -> bool {
        !matches!(self.modes[node], Mode::Float(_))
    }
}

/// Inputs of a node that carry activations which an integer form of it reads quantized.
pub(super) fn activations(graph: &Graph, node: &Node) -> Vec<ValueId> {
    let all = || node.inputs.iter().flatten().copied().collect::<Vec<_>>();
    let wanted: Vec<ValueId> = match node.op.quantization() {
        QuantRule::Add => all(),
        QuantRule::Rescale if node.op.name() == "Concat" => all(),
        QuantRule::Float => vec![],
        _ => node.input(0).into_iter().collect(),
    };
    wanted.into_iter().filter(|id| graph.ty(*id).element == Element::F32 && graph.constant(*id).is_none()).collect()
}

/// Decides for every node of a float graph.
pub(super) fn decide(graph: &Graph, options: &QuantizeOptions) -> Decision {
    let view = View::new(graph);
    let mut modes: Vec<Mode> = vec![];
    // Values that some node before gives as integers.
    let mut integer: Vec<bool> = vec![false; graph.values().len()];
    for node in &graph.nodes {
        let mode = forward(graph, node, options, &integer);
        for id in &node.outputs {
            integer[id.0 as usize] = mode == Mode::Integer;
        }
        modes.push(mode);
    }
    // From the back: what only floats read need not be integer.
    let consumers = graph.consumers();
    for i in (0..graph.nodes.len()).rev() {
        if matches!(modes[i], Mode::Float(_)) {
            continue;
        }
        let node = &graph.nodes[i];
        let wanted = node.outputs.iter().any(|id| {
            consumers[id.0 as usize]
                .iter()
                .any(|c| !matches!(modes[*c], Mode::Float(_)) && activations(graph, &graph.nodes[*c]).contains(id))
        });
        if !wanted {
            modes[i] = if matches!(node.op.quantization(), QuantRule::Dot { .. }) {
                Mode::RealDot
            } else {
                Mode::Float("only floating-point nodes read it".into())
            };
        }
    }
    let mut decision = Decision { modes, follows: BTreeMap::new(), fused: BTreeSet::new() };
    for (i, node) in graph.nodes.iter().enumerate() {
        if decision.modes[i] != Mode::Integer {
            continue;
        }
        let (Some(x), y) = (node.input(0), node.outputs[0]) else { continue };
        if node.op.quantization() == QuantRule::Movement {
            for y in &node.outputs {
                decision.follows.insert(*y, decision.leader(x));
            }
        } else if fuses(node)
            && view.single_consumer(x).is_some()
            && let Some(before) = graph.nodes[..i].iter().position(|n| n.outputs.contains(&x))
            && decision.modes[before] == Mode::Integer
            && matches!(graph.nodes[before].op.quantization(), QuantRule::Dot { .. } | QuantRule::Add | QuantRule::Mean)
        {
            decision.follows.insert(x, y);
            decision.fused.insert(i);
        }
    }
    decision
}

/// True for activation functions that only narrow the range of the layer before them.
fn fuses(node: &Node) -> bool {
    matches!(node.op.name(), "Relu" | "Clip") && node.op.spec().domain.is_empty()
}

fn forward(graph: &Graph, node: &Node, options: &QuantizeOptions, integer: &[bool]) -> Mode {
    let float = |why: &str| Mode::Float(why.into());
    if options.keeps_float(&node.name) {
        return float("kept by request");
    }
    if node.outputs.iter().any(|id| graph.ty(*id).element != Element::F32) {
        return float("its result is not f32");
    }
    if node.inputs.iter().flatten().chain(&node.outputs).any(|id| graph.ty(*id).quant.is_some()) {
        return float("it is quantized already");
    }
    let reads = activations(graph, node);
    match node.op.quantization() {
        QuantRule::Float => float("no integer rule"),
        QuantRule::Dot { weight, bias, axis } => {
            let Some(w) = node.input(weight).and_then(|id| graph.constant(id)) else {
                return float("its weights are not constant");
            };
            if w.element() != Element::F32 || axis >= w.rank() || w.is_empty() {
                return float("its weights are not f32");
            }
            if node.op.name() == "MatMul" && w.rank() != 2 {
                return float("its weights are not one matrix");
            }
            if node.input(bias).is_some_and(|id| graph.constant(id).is_none_or(|b| b.len() != w.shape()[axis])) {
                return float("its bias is not one constant per output channel");
            }
            if !plain(node) {
                return float("attributes without an integer rule");
            }
            if reads.is_empty() { float("its input is constant") } else { Mode::Integer }
        }
        // Everything else is integer if what it reads is.
        rule => {
            if reads.is_empty() || !reads.iter().any(|id| integer[id.0 as usize]) {
                return float("its inputs are floating-point");
            }
            // Constants among the operands can be quantized where they are operands like any other.
            let others = node.inputs.iter().flatten().filter(|id| graph.constant(**id).is_some()).count();
            match rule {
                QuantRule::Add if others > 0 => float("it adds a constant"),
                QuantRule::Rescale if node.op.name() == "Concat" && others > 0 => float("it concatenates a constant"),
                _ if node.outputs.len() > 1 && rule != QuantRule::Movement => float("more than one result"),
                _ => Mode::Integer,
            }
        }
    }
}

/// A matrix product without factors.
fn plain(node: &Node) -> bool {
    let attrs = node.op.attrs();
    let one = |name| attrs.read(name, 1.0f32).is_ok_and(|v| v == 1.0);
    node.op.name() != "Gemm" || (one("alpha") && one("beta") && attrs.read("transA", 0i64).is_ok_and(|v| v == 0))
}

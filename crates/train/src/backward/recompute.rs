//! Memory for time: forward values that are cheap to compute from others that are kept anyway are computed again where the
//! backward pass first reads them, instead of being kept from the forward pass (Chen et al., "Training deep nets with sublinear
//! memory cost", 2016; for normalization and activation Rota Bulò et al., "In-place activated BatchNorm", 2018).
//!
//! Behind a convolution come normalization and activation: the gradient of the normalization needs the output of the
//! convolution, that of the next convolution the activation. With the first kept, the second is an affine map and a maximum.

use std::{collections::HashMap, sync::Arc};

use qing_graph::{
    Graph, GraphError, Node, Op, Tensor, ValueId,
    ops::{Add, BatchNormTraining, Div, Mul, Reshape, Sqrt, Sub},
};

/// The most nodes that are computed again for one value. Along a residual network every value rests on the one before, so
/// without a bound all would be computed again for each.
const LONGEST: usize = 6;

/// Ops, beside the functions of single values, that cost no more than reading their inputs.
const CHEAP: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Clip",
    "PRelu",
    "Where",
    "Cast",
    "Identity",
    "Reshape",
    "Flatten",
    "LearnedQuantize",
];

fn is_cheap(node: &Node) -> bool {
    node.op.map(0.0).is_some() || node.op.is::<BatchNormTraining>() || CHEAP.contains(&node.op.name())
}

/// Replaces what the nodes from `end` on, the backward pass, read of the nodes before it.
pub(super) fn recompute(graph: &mut Graph, end: usize) -> Result<(), GraphError> {
    let producers = graph.producers();
    let mut read = vec![false; graph.values().len()];
    for node in &graph.nodes[end..] {
        node.inputs.iter().flatten().for_each(|id| read[id.0 as usize] = true);
    }
    // What is there during the backward pass without being computed again.
    let mut kept: Vec<bool> =
        graph.values().map(|(id, v)| v.constant.is_some() || graph.inputs.contains(&id)).collect();
    // The forward nodes that give a value anew, in order.
    let mut chains: HashMap<ValueId, Vec<usize>> = HashMap::new();
    for i in 0..end {
        let node = &graph.nodes[i];
        for (k, id) in node.outputs.iter().enumerate() {
            let first = k == 0 && graph.ty(*id).rank().is_some_and(|r| r > 1);
            match chain(graph, node, i, &kept, &chains).filter(|_| first) {
                Some(nodes) => {
                    chains.insert(*id, nodes);
                }
                None => kept[id.0 as usize] |= read[id.0 as usize],
            }
        }
    }
    let first_reads = first_reads(graph, end);
    let mut added: Vec<(usize, Vec<Node>)> = vec![];
    let mut renamed: HashMap<ValueId, ValueId> = HashMap::new();
    for (at, value) in first_reads {
        let Some(nodes) = chains.get(&value).filter(|_| producers[value.0 as usize].is_some_and(|p| p < end)) else {
            continue;
        };
        let start = graph.nodes.len();
        let mut again: HashMap<ValueId, ValueId> = HashMap::new();
        for i in nodes {
            let node = graph.nodes[*i].clone();
            let inputs: Vec<Option<ValueId>> =
                node.inputs.iter().map(|id| id.map(|id| again.get(&id).copied().unwrap_or(id))).collect();
            let output = repeat(graph, &node, &inputs)?;
            again.insert(node.outputs[0], output);
        }
        if let Some(new) = again.get(&value) {
            renamed.insert(value, *new);
            added.push((at, graph.nodes.split_off(start)));
        }
    }
    let mut added = added.into_iter().peekable();
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for (i, mut node) in std::mem::take(&mut graph.nodes).into_iter().enumerate() {
        while let Some((_, more)) = added.next_if(|(at, _)| *at == i) {
            nodes.extend(more);
        }
        if i >= end {
            for id in node.inputs.iter_mut().flatten() {
                *id = renamed.get(id).copied().unwrap_or(*id);
            }
        }
        nodes.push(node);
    }
    graph.nodes = nodes;
    Ok(())
}

/// The nodes that compute the first output of `node` from kept values, if they are few and cheap.
fn chain(
    graph: &Graph,
    node: &Node,
    at: usize,
    kept: &[bool],
    chains: &HashMap<ValueId, Vec<usize>>,
) -> Option<Vec<usize>> {
    if !is_cheap(node) {
        return None;
    }
    let mut nodes = vec![];
    for id in node.inputs.iter().flatten() {
        // The statistics of a channel are small, whatever becomes of them.
        let small = graph.ty(*id).rank().is_some_and(|r| r <= 1);
        if !kept[id.0 as usize] && !small {
            nodes.extend(chains.get(id)?);
        }
    }
    nodes.push(at);
    nodes.sort_unstable();
    nodes.dedup();
    (nodes.len() <= LONGEST).then_some(nodes)
}

/// For every value that the backward pass reads, the first node that does, in order.
fn first_reads(graph: &Graph, end: usize) -> Vec<(usize, ValueId)> {
    let mut seen = vec![false; graph.values().len()];
    let mut all = vec![];
    for (i, node) in graph.nodes.iter().enumerate().skip(end) {
        for id in node.inputs.iter().flatten() {
            if !std::mem::replace(&mut seen[id.0 as usize], true) {
                all.push((i, *id));
            }
        }
    }
    all
}

/// Adds `node` once more, reading `inputs`; gives its first output. Of a normalization the statistics are known: what is left is
/// a factor and a term for each channel.
fn repeat(graph: &mut Graph, node: &Node, inputs: &[Option<ValueId>]) -> Result<ValueId, GraphError> {
    let name = format!("{}.again", node.name);
    let Some(norm) = node.op.downcast::<BatchNormTraining>() else {
        return Ok(graph.add_node(node.op.clone(), &name, inputs, 1)?[0]);
    };
    let (x, scale, bias) = match inputs {
        [Some(x), Some(scale), Some(bias)] => (*x, *scale, *bias),
        _ => return Err(GraphError::Malformed(format!("node `{}` has no scale and bias", node.name))),
    };
    let (mean, var) = (node.outputs[1], node.outputs[2]);
    let element = graph.ty(mean).element;
    let mut shape = vec![1i64; graph.ty(x).rank().unwrap_or(2)];
    shape[1] = -1;
    let epsilon = graph.add_constant("epsilon", Tensor::scalar(norm.epsilon).cast(element));
    let shape = graph.add_constant("shape", Tensor::vector(shape));
    let mut add = |op: Arc<dyn Op>, a: ValueId, b: Option<ValueId>| {
        let inputs: Vec<Option<ValueId>> = [Some(a), b].into_iter().take(1 + usize::from(b.is_some())).collect();
        graph.add_node(op, &name, &inputs, 1).map(|ids| ids[0])
    };
    let deviation = add(Arc::new(Add {}), var, Some(epsilon))?;
    let deviation = add(Arc::new(Sqrt {}), deviation, None)?;
    let factor = add(Arc::new(Div {}), scale, Some(deviation))?;
    let term = add(Arc::new(Mul {}), mean, Some(factor))?;
    let term = add(Arc::new(Sub {}), bias, Some(term))?;
    let factor = add(Arc::new(Reshape::default()), factor, Some(shape))?;
    let term = add(Arc::new(Reshape::default()), term, Some(shape))?;
    let scaled = add(Arc::new(Mul {}), x, Some(factor))?;
    add(Arc::new(Add {}), scaled, Some(term))
}

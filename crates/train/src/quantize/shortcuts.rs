//! A shortcut around every convolution, for networks of so few bits that a block loses too much of what it reads.

use std::sync::Arc;

use qing_graph::{Graph, NodeId, ValueId, ops};

use crate::TrainError;

/// Rewires residual blocks of two convolutions, `relu(norm(conv(relu(norm(conv(x))))) + s)` with `s` from `x`, so that each
/// convolution has a shortcut of its own: `y = relu(norm(conv(x)) + s)`, then `relu(norm(conv(y)) + y)`. That is Liu et al.,
/// “Bi-Real Net”, arXiv:1808.00278. With `signs`, for convolutions that read signs alone, it is so without the activation functions
/// before them, as in that network: half of what they let through would be zeros, which lie on one side of any threshold. Gives the
/// number of blocks.
///
/// # Errors
/// If the graph would be malformed.
pub fn shortcuts(graph: &mut Graph, signs: bool) -> Result<usize, TrainError> {
    let mut blocks = 0;
    let mut read = vec![];
    let mut at = 0;
    while at < graph.nodes.len() {
        if let Some(block) = block(graph, at) {
            read.extend([block.x, graph.nodes[block.relu].outputs[0]]);
            rewire(graph, &block)?;
            blocks += 1;
        }
        at += 1;
    }
    if signs {
        read.into_iter().for_each(|id| leave_out_relu(graph, id));
        graph.remove_dead_nodes();
    }
    Ok(blocks)
}

/// Lets all who read what a ReLU gives read what it reads.
fn leave_out_relu(graph: &mut Graph, result: ValueId) {
    let relu = graph.nodes.iter().find(|n| n.op.is::<ops::Relu>() && n.outputs[0] == result);
    let Some(x) = relu.and_then(|n| n.input(0)) else { return };
    let reads = graph.nodes.iter_mut().flat_map(|n| &mut n.inputs);
    reads.filter(|id| **id == Some(result)).for_each(|id| *id = Some(x));
}

/// A residual block.
struct Block {
    add: NodeId,
    relu: NodeId,
    /// What the first convolution reads.
    x: ValueId,
    /// What the first normalization gives, and the shortcut.
    first: ValueId,
    second: ValueId,
    shortcut: ValueId,
}

fn block(graph: &Graph, add: NodeId) -> Option<Block> {
    let node = &graph.nodes[add];
    let [Some(a), Some(b)] = node.inputs[..] else { return None };
    if !node.op.is::<ops::Add>() {
        return None;
    }
    let (producers, consumers) = (graph.producers(), graph.consumers());
    let alone = |id: ValueId| consumers[id.0 as usize].len() == 1 && !graph.outputs.contains(&id);
    let before = |id: ValueId| producers[id.0 as usize].filter(|_| alone(id)).map(|i| (i, &graph.nodes[i]));
    let normalized = |id: ValueId| {
        let (_, norm) = before(id).filter(|(_, n)| n.op.is::<ops::BatchNormalization>())?;
        let (_, conv) = before(norm.input(0)?).filter(|(_, n)| n.op.is::<ops::Conv>())?;
        conv.input(0)
    };
    [(a, b), (b, a)].into_iter().find_map(|(second, shortcut)| {
        let middle = normalized(second)?;
        let (relu, node) = before(middle).filter(|(_, n)| n.op.is::<ops::Relu>())?;
        let first = node.input(0)?;
        let x = normalized(first)?;
        // The shortcut is there when the first convolution is done, and as large as its results.
        let known = producers[shortcut.0 as usize].is_none_or(|i| i < add);
        let fits = graph.ty(first).shape.is_some() && graph.ty(first).shape == graph.ty(shortcut).shape;
        (known && fits && graph.constant(shortcut).is_none()).then_some(Block { add, relu, x, first, second, shortcut })
    })
}

fn rewire(graph: &mut Graph, block: &Block) -> Result<(), TrainError> {
    let middle = graph.nodes[block.relu].outputs[0];
    let name = format!("{}.shortcut", graph.nodes[block.relu].name);
    let inner = graph.add_node(Arc::new(ops::Add {}), &name, &[Some(block.first), Some(block.shortcut)], 1)?[0];
    let node = graph.nodes.pop().ok_or_else(|| TrainError::invalid("a node was added"))?;
    graph.nodes[block.relu].inputs[0] = Some(inner);
    graph.nodes[block.add].inputs = vec![Some(block.second), Some(middle)];
    graph.nodes.insert(block.relu, node);
    sort(graph);
    Ok(())
}

/// Every node behind those whose results it reads, otherwise in the order in which they were.
fn sort(graph: &mut Graph) {
    let mut waiting = std::mem::take(&mut graph.nodes);
    let mut defined: std::collections::HashSet<ValueId> = graph.inputs.iter().copied().collect();
    while !waiting.is_empty() {
        let ready = |n: &qing_graph::Node| {
            n.inputs.iter().flatten().all(|id| defined.contains(id) || graph.constant(*id).is_some())
        };
        let next = waiting.iter().position(ready).unwrap_or(0);
        let node = waiting.remove(next);
        defined.extend(&node.outputs);
        graph.nodes.push(node);
    }
}

//! Where a network can be cut: pieces that one value enters and one value leaves.
//!
//! A residual connection keeps two values alive, so nothing cuts it: what it goes around stays together, as the blocks of
//! BRECQ (arXiv:2102.05426) do.

use std::ops::Range;

use qing_graph::{Element, Graph, NodeId, QuantRule, ValueId};

use crate::{LightenError, quantize::options::Granularity};

/// Layers in a row that are taken together where no residual goes around them.
const LONGEST_CHAIN: usize = 3;

/// A piece of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Its nodes.
    pub nodes: Range<NodeId>,
    /// The one value it reads.
    pub input: ValueId,
    /// The one value that is read of it.
    pub output: ValueId,
}

/// The blocks of a network, in order: every node is in one. `dots` are the layers with weights.
///
/// # Errors
/// If the network has not one input and one output of f32.
pub(super) fn blocks(graph: &Graph, dots: &[NodeId], granularity: Granularity) -> Result<Vec<Block>, LightenError> {
    let refuse = |what: &str, n: usize| {
        LightenError::Option(format!(
            "`{}` has {n} {what}s; reconstruction by blocks is for networks with one input and one output of f32. Use \
             another rounding",
            graph.name
        ))
    };
    let ([input], [output]) = (&graph.inputs[..], &graph.outputs[..]) else {
        let (what, n) = match graph.inputs.len() {
            1 => ("output", graph.outputs.len()),
            n => ("input", n),
        };
        return Err(refuse(what, n));
    };
    let (input, output) = (*input, *output);
    let mut merged: Vec<(Block, usize, bool)> = vec![];
    for piece in pieces(graph, input, output) {
        let layers = dots.iter().filter(|i| piece.nodes.contains(i)).count();
        // A chain of single layers, as opposed to what a residual goes around.
        let chain = layers == 1;
        match merged.last_mut() {
            Some((block, have, was_chain)) => {
                let longer = granularity == Granularity::Block && chain && *was_chain && *have < LONGEST_CHAIN;
                if layers == 0 || *have == 0 || longer {
                    block.nodes.end = piece.nodes.end;
                    block.output = piece.output;
                    *was_chain = if *have == 0 { chain } else { *was_chain };
                    *have += layers;
                    continue;
                }
                merged.push((piece, layers, chain));
            }
            None => merged.push((piece, layers, chain)),
        }
    }
    Ok(merged.into_iter().map(|(block, ..)| block).collect())
}

/// The smallest pieces.
fn pieces(graph: &Graph, input: ValueId, output: ValueId) -> Vec<Block> {
    let end = graph.nodes.len();
    let mut last = vec![0usize; graph.values().len()];
    for (id, readers) in graph.values().map(|(id, _)| id).zip(graph.consumers()) {
        last[id.0 as usize] = readers.last().copied().unwrap_or(0);
    }
    last[output.0 as usize] = end;
    let mut alive: Vec<ValueId> = vec![input];
    let (mut found, mut from, mut entry) = (vec![], 0, input);
    for (i, node) in graph.nodes.iter().enumerate() {
        alive.extend(node.outputs.iter().filter(|id| last[id.0 as usize] > i));
        alive.retain(|id| last[id.0 as usize] > i);
        // What is moved keeps the quantization of where it came from, which must not be another block.
        let moved = i + 1 < end && node.op.quantization() == QuantRule::Movement;
        if let [one] = alive[..]
            && one != entry
            && !moved
            && (graph.ty(one).element == Element::F32 || i + 1 == end)
        {
            found.push(Block { nodes: from..i + 1, input: entry, output: one });
            (from, entry) = (i + 1, one);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qing_graph::{Tensor, Type, ops};

    use super::*;

    /// Three layers in a row, a residual around two, a ReLU, and a layer.
    fn network() -> (Graph, Vec<NodeId>) {
        let mut g = Graph::new("t");
        let mut x = g.add_input("x", Type::new(Element::F32, [1usize, 2, 4, 4]));
        let conv = |g: &mut Graph, x: ValueId, name: &str| {
            let w = g.add_constant("w", Tensor::new(&[2, 2, 1, 1], vec![1.0f32; 4]).unwrap());
            g.add_node(Arc::new(ops::Conv::default()), name, &[Some(x), Some(w)], 1).unwrap()[0]
        };
        for name in ["a", "b", "c", "d"] {
            x = conv(&mut g, x, name);
            x = g.add_node(Arc::new(ops::Relu {}), "relu", &[Some(x)], 1).unwrap()[0];
        }
        let y = conv(&mut g, x, "e");
        let y = conv(&mut g, y, "f");
        let x = g.add_node(Arc::new(ops::Add {}), "add", &[Some(x), Some(y)], 1).unwrap()[0];
        let x = g.add_node(Arc::new(ops::Relu {}), "last", &[Some(x)], 1).unwrap()[0];
        let x = conv(&mut g, x, "g");
        g.mark_output(x);
        let dots = (0..g.nodes.len()).filter(|i| g.nodes[*i].op.name() == "Conv").collect();
        (g, dots)
    }

    #[test]
    fn residuals_stay_together_and_rows_are_cut() {
        let (g, dots) = network();
        let layers = |granularity| -> Vec<String> {
            let all = blocks(&g, &dots, granularity).unwrap();
            assert_eq!(all.iter().map(|b| b.nodes.len()).sum::<usize>(), g.nodes.len());
            assert!(all.windows(2).all(|w| w[0].output == w[1].input && w[0].nodes.end == w[1].nodes.start));
            let names =
                |b: &Block| b.nodes.clone().filter(|i| dots.contains(i)).map(|i| g.nodes[i].name.clone()).collect();
            all.iter().map(names).collect()
        };
        assert_eq!(layers(Granularity::Block), ["abc", "d", "ef", "g"]);
        assert_eq!(layers(Granularity::Layer), ["a", "b", "c", "d", "ef", "g"]);
    }

    #[test]
    fn networks_with_many_ends_are_refused() {
        let (mut g, dots) = network();
        let first = g.nodes[0].outputs[0];
        g.mark_output(first);
        let error = blocks(&g, &dots, Granularity::Block).unwrap_err().to_string();
        assert!(error.contains("2 outputs"), "{error}");
    }
}

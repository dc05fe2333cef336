//! How many bits each weight and each value has.
//!
//! A value is stored in one quantization. What is added, pooled or otherwise combined has at least
//! [`QuantizeOptions::stream_bits`]; a layer that multiplies it in fewer bits reads it rescaled (arithmetic of the design:
//! residual streams lose too much to few bits, and gain nothing from them).

use std::collections::BTreeMap;

use qing_graph::{Graph, NodeId, QuantRule, ValueId};

use super::{
    decide::{Decision, activations},
    options::QuantizeOptions,
};

/// Widths of all weights and activations.
pub(super) struct Widths {
    /// Of the weights of every dot.
    pub weights: BTreeMap<NodeId, u8>,
    /// Of what dots read, where that is less than the value is stored in.
    pub narrow: BTreeMap<NodeId, u8>,
    stored: BTreeMap<ValueId, u8>,
    default: u8,
}

impl Widths {
    pub(super) fn new(graph: &Graph, decision: &Decision, dots: &[NodeId], options: &QuantizeOptions) -> Widths {
        let stream = options.stream_bits.unwrap_or(0).max(options.bits.activations);
        let mut weights = BTreeMap::new();
        let mut wanted: BTreeMap<NodeId, (ValueId, u8)> = BTreeMap::new();
        let mut stored: BTreeMap<ValueId, u8> = BTreeMap::new();
        for i in dots {
            let node = &graph.nodes[*i];
            let (mut bits, named) = options.bits_of(&node.name);
            let edge = dots.first() == Some(i) || dots.last() == Some(i);
            let x = node.input(0).map(|x| decision.leader(x));
            if let Some(least) = options.edge_bits
                && !named
            {
                if edge {
                    bits.weights = bits.weights.max(least);
                }
                if x.is_some_and(|x| graph.inputs.contains(&x)) {
                    bits.activations = bits.activations.max(least);
                }
            }
            weights.insert(*i, bits.weights);
            if let Some(x) = x {
                wanted.insert(*i, (x, bits.activations));
                // A value that several layers read has the width of the most demanding.
                let width = stored.entry(x).or_insert(bits.activations);
                *width = (*width).max(bits.activations);
            }
        }
        for (i, node) in graph.nodes.iter().enumerate() {
            let combines = decision.is_integer(i)
                && !matches!(node.op.quantization(), QuantRule::Dot { .. } | QuantRule::Movement)
                && !decision.fused(i);
            if let (true, Some(least)) = (combines, options.stream_bits) {
                for x in activations(graph, node) {
                    if let Some(width) = stored.get_mut(&decision.leader(x)) {
                        *width = (*width).max(least);
                    }
                }
            }
        }
        let narrow = wanted
            .into_iter()
            .filter(|(_, (x, bits))| options.stream_bits.is_some() && stored.get(x).is_some_and(|width| width > bits))
            .map(|(i, (_, bits))| (i, bits))
            .collect();
        Widths { weights, narrow, stored, default: stream }
    }

    /// Bits in which a value is stored.
    pub(super) fn activation(&self, leader: ValueId) -> u8 {
        self.stored.get(&leader).copied().unwrap_or(self.default)
    }
}

//! How much an error in each channel of what a block gives matters to what reads it.
//!
//! Channels may have any scale, as those that read them undo it (and [`equalize`](crate::quantize::equalize) chooses scales that suit
//! quantization), so their squared errors cannot be added as they are. An error in a channel is worth what it becomes in the
//! layers that read it: its power times the power of the weights that it meets there.

use std::collections::BTreeSet;

use qing_graph::{Graph, ValueId};

use crate::quantize::equalize::{layer, transparent};

/// Factors of the squared errors of the channels of `value`, 1 on average; nothing if no layer is known to read it.
pub(super) fn importance(graph: &Graph, value: ValueId) -> Option<Vec<f64>> {
    let channels = graph.ty(value).shape.as_ref()?.get(1)?.known()?;
    let mut same = BTreeSet::from([value]);
    let mut energy = vec![0.0; channels];
    for node in &graph.nodes {
        if !node.inputs.iter().flatten().any(|id| same.contains(id)) {
            continue;
        }
        if let Some((weights, groups)) = layer(graph, node) {
            let (shape, values) = (weights.shape(), weights.to_f32s());
            let (per_group, taps) = (shape[1], shape[2..].iter().product::<usize>().max(1));
            let rows = (shape[0] / groups).max(1);
            for (i, w) in values.iter().enumerate() {
                let channel = i / (per_group * taps) / rows * per_group + i / taps % per_group;
                *energy.get_mut(channel)? += f64::from(w * w);
            }
        } else if transparent(graph, node) {
            same.extend(&node.outputs);
        }
    }
    let mean = energy.iter().sum::<f64>() / channels.max(1) as f64;
    (mean > 0.0 && mean.is_finite()).then(|| energy.iter().map(|e| e / mean).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qing_graph::{Element, Tensor, Type, ops};

    use super::*;

    /// Two channels, read through a ReLU by a pointwise layer and beside that by a depthwise one.
    fn network(pointwise: [f32; 4], depthwise: [f32; 2]) -> (Graph, ValueId) {
        let mut g = Graph::new("t");
        let x = g.add_input("x", Type::new(Element::F32, [1usize, 2, 4, 4]));
        let w = g.add_constant("w", Tensor::new(&[2, 2, 1, 1], pointwise.to_vec()).unwrap());
        let d = g.add_constant("d", Tensor::new(&[2, 1, 1, 1], depthwise.to_vec()).unwrap());
        let relu = g.add_node(Arc::new(ops::Relu {}), "relu", &[Some(x)], 1).unwrap()[0];
        let dense = g.add_node(Arc::new(ops::Conv::default()), "dense", &[Some(relu), Some(w)], 1).unwrap()[0];
        let op = ops::Conv { group: 2, ..ops::Conv::default() };
        let own = g.add_node(Arc::new(op), "own", &[Some(x), Some(d)], 1).unwrap()[0];
        g.mark_output(dense);
        g.mark_output(own);
        (g, x)
    }

    #[test]
    fn a_channel_counts_by_the_weights_that_read_it() {
        let (g, x) = network([1.0, 0.0, 0.0, -2.0], [1.0, 0.0]);
        // (1 + 1) and 4.
        assert_eq!(importance(&g, x), Some(vec![2.0 / 3.0, 4.0 / 3.0]));
        // Halved where it is written and doubled where it is read, a channel of errors half as large counts the same.
        let (g, x) = network([1.0, 0.0, 0.0, -4.0], [1.0, 0.0]);
        let factors = importance(&g, x).unwrap();
        assert_eq!(factors[1] / factors[0], 4.0 * 2.0);
    }

    #[test]
    fn what_no_layer_reads_has_none() {
        let (g, _) = network([1.0; 4], [1.0; 2]);
        assert_eq!(importance(&g, g.outputs[0]), None);
        let (g, x) = network([0.0; 4], [0.0; 2]);
        assert_eq!(importance(&g, x), None);
    }
}

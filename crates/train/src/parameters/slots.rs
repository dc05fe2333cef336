//! Which inputs of which ops hold something to train.

use qing_graph::{Graph, Node};

use super::Role;

/// Ops with the inputs that are trained when they are constant.
const SLOTS: &[(&str, &[(usize, Role)])] = &[
    ("Conv", &[(1, Role::Weight), (2, Role::Bias)]),
    ("ConvTranspose", &[(1, Role::Weight), (2, Role::Bias)]),
    ("Gemm", &[(0, Role::Weight), (1, Role::Weight), (2, Role::Bias)]),
    ("MatMul", &[(0, Role::Weight), (1, Role::Weight)]),
    ("PRelu", &[(1, Role::Bias)]),
    ("Gather", &[(0, Role::Weight)]),
    ("BatchNormalization", &[(1, Role::Normalization), (2, Role::Normalization)]),
    ("InstanceNormalization", &[(1, Role::Normalization), (2, Role::Normalization)]),
    ("LayerNormalization", &[(1, Role::Normalization), (2, Role::Normalization)]),
    ("GroupNormalization", &[(1, Role::Normalization), (2, Role::Normalization)]),
    ("RMSNormalization", &[(1, Role::Normalization)]),
];

/// The inputs of `node` that hold something to train, if they are constant.
pub(super) fn slots(graph: &Graph, node: &Node) -> Vec<(usize, Role)> {
    if !node.op.spec().domain.is_empty() {
        return vec![];
    }
    if let Some((_, slots)) = SLOTS.iter().find(|(name, _)| *name == node.op.name()) {
        return slots.to_vec();
    }
    // Exporters write the bias of a matrix product as an addition.
    if node.op.name() == "Add" {
        let multiplied = |id| {
            graph.nodes.iter().any(|n| n.outputs.contains(&id) && matches!(n.op.name(), "MatMul" | "Gemm" | "Conv"))
        };
        return match (node.input(0), node.input(1)) {
            (Some(a), Some(b)) if multiplied(a) && graph.constant(b).is_some() => vec![(1, Role::Bias)],
            (Some(a), Some(b)) if multiplied(b) && graph.constant(a).is_some() => vec![(0, Role::Bias)],
            _ => vec![],
        };
    }
    vec![]
}

//! The order in which nodes can run. ONNX asks for it; not every exporter delivers.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use super::proto::NodeProto;
use crate::FormatError;

/// Positions of `nodes` in an order in which every value is defined before it is used, as near to the given order as
/// that allows. Values that no node defines are taken as given.
///
/// # Errors
/// If two nodes define the same value, or values depend on themselves.
pub(super) fn execution_order(nodes: &[&NodeProto]) -> Result<Vec<usize>, FormatError> {
    let mut producer: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if let Some(other) = producer.insert(output, i) {
                let message = format!("defined by node {} `{}` and node {i} `{}`", other, nodes[other].name, node.name);
                return Err(FormatError::malformed(format!("value `{output}`"), message));
            }
        }
    }
    let mut waits = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for &from in node.input.iter().filter_map(|name| producer.get(name.as_str())) {
            waits[i] += 1;
            readers[from].push(i);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        waits.iter().enumerate().filter(|(_, w)| **w == 0).map(|(i, _)| Reverse(i)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &reader in &readers[i] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if let Some(i) = waits.iter().position(|w| *w > 0) {
        let node = nodes[i];
        return Err(FormatError::malformed(
            format!("node {i} `{}` ({})", node.name, node.op_type),
            "it depends on itself",
        ));
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let strings = |names: &[&str]| names.iter().map(|s| s.to_string()).collect();
        NodeProto { input: strings(inputs), output: strings(outputs), ..NodeProto::default() }
    }

    fn order(nodes: &[NodeProto]) -> Result<Vec<usize>, FormatError> {
        execution_order(&nodes.iter().collect::<Vec<_>>())
    }

    #[test]
    fn sorted_nodes_stay_and_others_move_as_little_as_possible() {
        let sorted = [node(&["x"], &["a"]), node(&["a", ""], &["b"]), node(&["b", "a"], &["c"])];
        assert_eq!(order(&sorted).unwrap(), [0, 1, 2]);
        let reversed = [node(&["b", "a"], &["c"]), node(&["a"], &["b"]), node(&["x"], &["a"])];
        assert_eq!(order(&reversed).unwrap(), [2, 1, 0]);
    }

    #[test]
    fn cycles_and_double_definitions_are_refused() {
        let cycle = [node(&["b"], &["a"]), node(&["a"], &["b"])];
        assert!(order(&cycle).unwrap_err().to_string().contains("depends on itself"));
        let twice = [node(&[], &["a"]), node(&[], &["a"])];
        assert!(order(&twice).unwrap_err().to_string().contains("value `a`: defined by node 0"));
        assert_eq!(order(&[node(&[], &["", ""])]).unwrap(), [0]);
    }
}

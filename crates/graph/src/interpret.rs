//! The reference evaluator: every node by its op's own semantics, in order, nothing fused.
//!
//! Slow and obviously right. Fast executors are measured against it, to the bit for integers.

use qing_tensor::Tensor;

use crate::{Eval, Graph, GraphError, OpError, Type, ValueId};

/// Runs the graph on `inputs`, one for each graph input, and gives its outputs.
///
/// # Errors
/// If an input does not fit its declared type, or an op fails; the error names the node.
pub fn interpret(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, GraphError> {
    interpret_with(graph, inputs, |_, _| {})
}

/// [`interpret`], showing every value that a node defines to `observe`.
///
/// # Errors
/// As [`interpret`].
pub fn interpret_with(
    graph: &Graph,
    inputs: &[Tensor],
    mut observe: impl FnMut(ValueId, &Tensor),
) -> Result<Vec<Tensor>, GraphError> {
    let mut values: Vec<Option<Tensor>> = graph.values().map(|(_, v)| v.constant.clone()).collect();
    check_inputs(graph, inputs)?;
    for (id, tensor) in graph.inputs.iter().zip(inputs) {
        values[id.0 as usize] = Some(tensor.clone());
    }
    let last_use = last_uses(graph);
    for (i, node) in graph.nodes.iter().enumerate() {
        if node.outputs.iter().all(|o| values[o.0 as usize].is_some()) {
            continue;
        }
        let tensors: Vec<Option<&Tensor>> =
            node.inputs.iter().map(|id| id.and_then(|id| values[id.0 as usize].as_ref())).collect();
        for (slot, id) in tensors.iter().zip(&node.inputs) {
            if slot.is_none()
                && let Some(id) = id
            {
                let name = &graph.value(*id).name;
                return Err(GraphError::Malformed(format!("node `{}` reads `{name}` before it is defined", node.name)));
            }
        }
        let types: Vec<Option<&Type>> = node.inputs.iter().map(|id| id.map(|id| graph.ty(id))).collect();
        let outputs: Vec<Type> = node.outputs.iter().map(|id| graph.ty(*id).clone()).collect();
        let results = node
            .op
            .evaluate(&Eval { inputs: &tensors, types: &types, outputs: &outputs })
            .map_err(|source| graph.node_error(node, source))?;
        if results.len() < node.outputs.len() {
            let source = OpError::unsupported(format!("{} outputs; it gave {}", node.outputs.len(), results.len()));
            return Err(graph.node_error(node, source));
        }
        for (id, tensor) in node.outputs.iter().zip(results) {
            observe(*id, &tensor);
            values[id.0 as usize] = Some(tensor);
        }
        for id in node.inputs.iter().flatten() {
            if last_use[id.0 as usize] == i {
                values[id.0 as usize] = None;
            }
        }
    }
    graph
        .outputs
        .iter()
        .map(|id| {
            values[id.0 as usize]
                .clone()
                .ok_or_else(|| GraphError::Malformed(format!("output `{}` is never defined", graph.value(*id).name)))
        })
        .collect()
}

/// Checks that there is a tensor for each graph input and that it fits the declared type.
///
/// # Errors
/// [`GraphError::Input`] names the first that does not.
pub fn check_inputs(graph: &Graph, inputs: &[Tensor]) -> Result<(), GraphError> {
    if inputs.len() != graph.inputs.len() {
        let (want, got) = (graph.inputs.len(), inputs.len());
        return Err(GraphError::Malformed(format!("the model has {want} inputs, {got} were given")));
    }
    for (id, tensor) in graph.inputs.iter().zip(inputs) {
        let value = graph.value(*id);
        let dims_fit = value.ty.shape.as_ref().is_none_or(|dims| {
            dims.len() == tensor.rank()
                && dims.iter().zip(tensor.shape()).all(|(d, n)| d.known().is_none_or(|k| k == *n))
        });
        if !dims_fit || value.ty.element != tensor.element() {
            return Err(GraphError::Input {
                name: value.name.clone(),
                expected: value.ty.to_string(),
                actual: format!("{}{:?}", tensor.element(), tensor.shape()),
            });
        }
    }
    Ok(())
}

/// For every value, the last node that reads it; `usize::MAX` for outputs and values nobody reads.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last = vec![usize::MAX; graph.values().len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        for id in node.inputs.iter().flatten() {
            last[id.0 as usize] = i;
        }
    }
    for (id, value) in graph.values() {
        if value.constant.is_some() {
            last[id.0 as usize] = usize::MAX;
        }
    }
    for id in &graph.outputs {
        last[id.0 as usize] = usize::MAX;
    }
    last
}

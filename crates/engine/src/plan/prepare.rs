//! From the graph as given to the graph that is lowered: concrete shapes, constants folded.

use qing_graph::{
    Graph,
    infer::{self, is_pure},
    passes,
    rewrite::rewrite,
};

use super::recognize;
use crate::EngineError;

/// Binds the inputs to `shapes` and computes everything that follows from constants.
pub(super) fn prepare(graph: &Graph, shapes: &[Vec<usize>]) -> Result<Graph, EngineError> {
    let mut graph = infer::specialize(graph, shapes)?;
    passes::normalize(&mut graph)?;
    rewrite(&mut graph, recognize::RULES)?;
    fold(&mut graph)?;
    Ok(graph.compacted())
}

/// Computes the nodes whose inputs are all constant.
fn fold(graph: &mut Graph) -> Result<(), EngineError> {
    for node in graph.nodes.clone() {
        let open = node.outputs.iter().any(|id| graph.constant(*id).is_none());
        let constant = node.inputs.iter().flatten().all(|id| graph.constant(*id).is_some());
        if open && constant && is_pure(&node) {
            for (id, value) in node.outputs.iter().zip(infer::eval_node(graph, &node)?) {
                let shape = value.shape().iter().map(|d| (*d).into()).collect();
                let ty = &mut graph.value_mut(*id).ty;
                ty.shape = Some(shape);
                graph.value_mut(*id).constant = Some(value);
            }
        }
    }
    let nodes = std::mem::take(&mut graph.nodes);
    graph.nodes = nodes.into_iter().filter(|n| n.outputs.iter().any(|id| graph.constant(*id).is_none())).collect();
    infer::infer(graph)?;
    Ok(())
}

//! Statistics of normalizations anew, for a network that was rewired.

use std::sync::Arc;

use qing_engine::{Options, Plan, Session};
use qing_graph::{Element, Graph, Node, NodeId, Tensor, Type, ValueId, ops};

use crate::TrainError;

/// Gives every BatchNormalization the mean and the variance of what it reads when all of them normalize by their batch, averaged over
/// `batches`.
///
/// # Errors
/// If there are no batches, they do not fit the network, or statistics are no constants.
pub fn renormalize(graph: &mut Graph, batches: &[Vec<Tensor>]) -> Result<(), TrainError> {
    if batches.is_empty() {
        return Err(TrainError::invalid("statistics of normalizations need at least one batch of data"));
    }
    let norms: Vec<(NodeId, [ValueId; 2])> = statistics(graph)?;
    if norms.is_empty() {
        return Ok(());
    }
    let mut watched = graph.clone();
    watched.outputs.clear();
    for (at, statistics) in &norms {
        let Some(op) = graph.nodes[*at].op.downcast::<ops::BatchNormalization>() else { continue };
        let made = statistics.map(|id| {
            let value = graph.value(id);
            let ty = Type::maybe(Element::F32, value.ty.shape.clone());
            watched.add_undefined(&format!("{}.batch", value.name), ty)
        });
        let node = &mut watched.nodes[*at];
        node.op = Arc::new(ops::BatchNormTraining { epsilon: op.epsilon });
        node.inputs.truncate(3);
        node.outputs.truncate(1);
        node.outputs.extend(made);
        watched.outputs.extend(made);
    }
    watched.remove_dead_nodes();
    let mut sums: Vec<Vec<f64>> = vec![];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for batch in batches {
        let shapes = Some(batch.iter().map(|t| t.shape().to_vec()).collect());
        let options = Options { threads, input_shapes: shapes, ..Options::default() };
        let found = Session::new(Plan::new(&watched, &options)?.into()).run(batch)?;
        sums.resize(found.len(), vec![]);
        for (sum, found) in sums.iter_mut().zip(found) {
            sum.resize(found.len(), 0.0);
            sum.iter_mut().zip(found.to_f32s()).for_each(|(s, v)| *s += f64::from(v) / batches.len() as f64);
        }
    }
    for (id, sum) in norms.iter().flat_map(|(_, ids)| ids).zip(sums) {
        let values = sum.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
        graph.value_mut(*id).constant = Some(Tensor::vector(values));
    }
    Ok(())
}

/// The normalizations, with where they keep mean and variance.
fn statistics(graph: &Graph) -> Result<Vec<(NodeId, [ValueId; 2])>, TrainError> {
    let constant = |node: &Node, i: usize| {
        let id = node.input(i).filter(|id| graph.constant(*id).is_some());
        id.ok_or_else(|| TrainError::invalid(format!("node `{}`: its input {i} is not constant", node.name)))
    };
    let norms = graph.nodes.iter().enumerate().filter(|(_, n)| n.op.is::<ops::BatchNormalization>());
    norms.map(|(at, node)| Ok((at, [constant(node, 3)?, constant(node, 4)?]))).collect()
}

use qing_graph::{Graph, Tensor, ValueId, gradient::reverse};

use super::recompute::recompute;
use crate::TrainError;

/// How the backward pass is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackwardOptions {
    /// Whether to compute cheap forward values (normalized, activated, added) again in the backward pass instead of keeping
    /// them: less memory for a little more time. The gradients differ by rounding.
    pub recompute: bool,
}

/// A graph with its gradients.
#[derive(Debug, Clone)]
pub struct Differentiated {
    /// The graph, extended. Its outputs are those it had, then the loss if it was none of them, then the gradients.
    pub graph: Graph,
    /// For each value that was asked for, its gradient: of the same shape and element.
    pub gradients: Vec<ValueId>,
}

/// Extends a graph by the gradients of `loss`, one number, for each of the values `wrt`: inputs, constants, or anything
/// between. Ids of the graph stay valid. Shapes must be known, so bind a symbolic batch
/// ([`infer::specialize`](qing_graph::infer::specialize)) before.
///
/// # Errors
/// [`TrainError::Loss`] if the loss is not one float; [`TrainError::Unused`] if it does not depend on one of the values;
/// [`TrainError::Graph`], naming the node, where a gradient has to pass an op that has none.
pub fn differentiate(graph: &Graph, loss: ValueId, wrt: &[ValueId]) -> Result<Differentiated, TrainError> {
    differentiate_with(graph, loss, wrt, BackwardOptions::default())
}

/// [`differentiate`] with options.
///
/// # Errors
/// As [`differentiate`].
pub fn differentiate_with(
    graph: &Graph,
    loss: ValueId,
    wrt: &[ValueId],
    options: BackwardOptions,
) -> Result<Differentiated, TrainError> {
    let ty = graph.ty(loss);
    let shape = ty.known_shape().filter(|s| s.iter().product::<usize>() == 1 && ty.element.is_float());
    let Some(shape) = shape else {
        return Err(TrainError::Loss { name: graph.value(loss).name.clone(), ty: ty.to_string() });
    };
    let mut graph = graph.clone();
    let one = Tensor::new(&shape, vec![1f32]).map_err(qing_graph::OpError::from)?.cast(graph.ty(loss).element);
    let seed = graph.add_constant("loss.grad", one);
    let end = graph.nodes.len();
    let found = reverse(&mut graph, 0..end, &[(loss, seed)], wrt)?;
    let mut gradients = vec![];
    for (value, gradient) in wrt.iter().zip(found) {
        let unused = || TrainError::Unused {
            loss: graph.value(loss).name.clone(),
            name: graph.value(*value).name.clone(),
            why: dead_end(&graph, end, *value),
        };
        gradients.push(gradient.ok_or_else(unused)?);
    }
    if options.recompute {
        drop_unread(&mut graph, end, loss, &gradients);
        recompute(&mut graph, end)?;
    }
    if !graph.outputs.contains(&loss) {
        graph.mark_output(loss);
    }
    for gradient in &gradients {
        graph.mark_output(*gradient);
    }
    graph.remove_dead_nodes();
    if cfg!(debug_assertions) {
        qing_graph::verify::verify(&graph)?;
    }
    Ok(Differentiated { graph, gradients })
}

/// Takes out the nodes behind `end` that no gradient needs: they must not count as readers.
fn drop_unread(graph: &mut Graph, end: usize, loss: ValueId, gradients: &[ValueId]) {
    let mut live = vec![false; graph.values().len()];
    gradients.iter().chain([&loss]).for_each(|id| live[id.0 as usize] = true);
    let mut backward = graph.nodes.split_off(end);
    backward.reverse();
    backward.retain(|node| {
        let needed = node.outputs.iter().any(|id| live[id.0 as usize]);
        if needed {
            node.inputs.iter().flatten().for_each(|id| live[id.0 as usize] = true);
        }
        needed
    });
    backward.reverse();
    graph.nodes.extend(backward);
}

/// Where the way from a value towards the loss ends, as part of a message.
fn dead_end(graph: &Graph, end: usize, value: ValueId) -> String {
    let mut reached = vec![false; graph.values().len()];
    reached[value.0 as usize] = true;
    let mut last = None;
    for node in &graph.nodes[..end] {
        if node.inputs.iter().flatten().any(|id| reached[id.0 as usize]) {
            node.outputs.iter().for_each(|id| reached[id.0 as usize] = true);
            last = Some(node);
        }
    }
    last.map_or_else(String::new, |node| {
        format!("; what it leads to ends at node `{}` ({})", node.name, node.op.name())
    })
}

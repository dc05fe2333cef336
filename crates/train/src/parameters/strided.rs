use std::sync::Arc;

use qing_graph::{Graph, Node, Op, ops};

/// Every how-manieth pixel (the shortcut of He et al., option A) as pooling of windows of one pixel, whose gradient has a
/// kernel. Shapes must be known.
pub(super) fn pool_slices(graph: &mut Graph) {
    for i in 0..graph.nodes.len() {
        if let Some(strides) = strides(graph, &graph.nodes[i]) {
            let pool = ops::MaxPool { kernel_shape: vec![1; strides.len()], strides, ..ops::MaxPool::default() };
            let node = &mut graph.nodes[i];
            node.op = Arc::new(pool) as Arc<dyn Op>;
            node.inputs.truncate(1);
        }
    }
}

/// The steps of a slice that takes every so-manieth pixel from the first on, and leaves samples and channels alone.
fn strides(graph: &Graph, node: &Node) -> Option<Vec<i64>> {
    if !node.op.is::<ops::Slice>() {
        return None;
    }
    let shape = graph.ty(node.input(0)?).known_shape().filter(|s| s.len() > 2)?;
    let constant = |i: usize| node.input(i).map(|id| graph.constant(id));
    let optional = |i: usize| constant(i).map_or(Some(None), |c| c.map(Some));
    let spans = ops::Slice::spans(&shape, constant(1)??, constant(2)??, optional(3)?, optional(4)?).ok()?;
    let whole = |axis: usize| spans[axis].step == 1 && spans[axis].count == shape[axis];
    let every = |axis: usize| {
        let span = &spans[axis];
        let step = usize::try_from(span.step).ok().filter(|_| span.start == 0)?;
        (span.count == shape[axis].div_ceil(step)).then_some(step as i64)
    };
    let steps: Vec<i64> = (2..shape.len()).map(every).collect::<Option<_>>()?;
    (whole(0) && whole(1) && steps.iter().any(|s| *s > 1)).then_some(steps)
}

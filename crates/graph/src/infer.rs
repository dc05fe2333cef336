//! Types from types: running every op's shape rule, with constants propagated through the small integer computations that
//! models make of shapes.
//!
//! A graph is imported with whatever dimensions it has: symbolic or unknown ones are kept. When a plan is made,
//! [`specialize`] binds the inputs to concrete shapes, and everything that follows from them becomes known.

use qing_tensor::{Tensor, element_count};

use crate::{Dim, Eval, Graph, GraphError, Infer, Node, OpError, Type, ValueId};

/// Constants larger than this are not computed during inference; folding weights is a pass of its own.
const LARGEST_PROPAGATED: usize = 4096;

/// Types of the outputs of `node`, from what the graph knows of its inputs.
///
/// # Errors
/// If the op refuses its inputs.
pub fn infer_node(graph: &Graph, node: &Node, outputs: usize) -> Result<Vec<Type>, GraphError> {
    let types: Vec<Option<&Type>> = node.inputs.iter().map(|i| i.map(|id| graph.ty(id))).collect();
    let constants: Vec<Option<&Tensor>> = node.inputs.iter().map(|i| i.and_then(|id| graph.constant(id))).collect();
    let cx = Infer { types: &types, constants: &constants, outputs };
    let fail = |source| graph.node_error(node, source);
    let spec = node.op.spec();
    if node.inputs.len() < spec.inputs.min || node.inputs.len() > spec.inputs.max {
        let (min, max) = (spec.inputs.min, spec.inputs.max);
        return Err(fail(OpError::invalid(format!("takes {min} to {max} inputs, got {}", node.inputs.len()))));
    }
    if outputs < spec.outputs.min || outputs > spec.outputs.max {
        let (min, max) = (spec.outputs.min, spec.outputs.max);
        return Err(fail(OpError::invalid(format!("gives {min} to {max} outputs, asked for {outputs}"))));
    }
    let types = node.op.infer(&cx).map_err(fail)?;
    if types.len() < outputs {
        return Err(fail(OpError::unsupported(format!("{outputs} outputs; it gives {}", types.len()))));
    }
    Ok(types.into_iter().take(outputs).collect())
}

/// Reads of a node as its op's context; for costs.
pub fn with_context<T>(graph: &Graph, node: &Node, f: impl FnOnce(&Infer<'_>) -> T) -> T {
    let types: Vec<Option<&Type>> = node.inputs.iter().map(|i| i.map(|id| graph.ty(id))).collect();
    let constants: Vec<Option<&Tensor>> = node.inputs.iter().map(|i| i.and_then(|id| graph.constant(id))).collect();
    f(&Infer { types: &types, constants: &constants, outputs: node.outputs.len() })
}

/// Infers the types of all values again, in order, and computes small constants. Elements and quantization that a value
/// already has are kept where the value, or an input of its node, is quantized: they were assigned, not inferred.
///
/// # Errors
/// If an op refuses its inputs, or a declared dimension contradicts the inferred one.
pub fn infer(graph: &mut Graph) -> Result<(), GraphError> {
    for i in 0..graph.nodes.len() {
        infer_at(graph, i)?;
    }
    Ok(())
}

/// [`infer`] for the node at `i` alone; the importer's step.
///
/// # Errors
/// As [`infer`].
pub fn infer_at(graph: &mut Graph, i: usize) -> Result<(), GraphError> {
    let node = graph.nodes[i].clone();
    let inferred = infer_node(graph, &node, node.outputs.len())?;
    let reads_quantized = node.inputs.iter().flatten().any(|id| graph.ty(*id).quant.is_some());
    for (id, ty) in node.outputs.iter().zip(inferred) {
        let old = graph.ty(*id);
        let keep = old.quant.is_some() || reads_quantized;
        let shape = match (ty.shape, &old.shape) {
            (Some(new), Some(declared)) if new.len() == declared.len() => {
                Some(new.into_iter().zip(declared).map(|(n, d)| prefer(n, d)).collect())
            }
            (None, Some(declared)) => Some(declared.clone()),
            (new, _) => new,
        };
        let ty = if keep {
            Type { element: old.element, shape, quant: old.quant.clone() }
        } else {
            Type { element: ty.element, shape, quant: ty.quant }
        };
        graph.value_mut(*id).ty = ty;
    }
    propagate(graph, &node)
}

/// The inferred dimension unless it is unknown; a declared symbol names it then.
fn prefer(inferred: Dim, declared: &Dim) -> Dim {
    match (&inferred, declared) {
        (Dim::Unknown, d) => d.clone(),
        _ => inferred,
    }
}

/// Computes the outputs of a node whose inputs are all constant and small integers or scalars.
fn propagate(graph: &mut Graph, node: &Node) -> Result<(), GraphError> {
    let from_types = with_context(graph, node, |cx| node.op.value_of_types(cx));
    if let Some(value) = from_types {
        graph.value_mut(node.outputs[0]).constant = Some(value);
        return Ok(());
    }
    let small = |id: &ValueId| graph.constant(*id).is_some_and(|t| t.len() <= LARGEST_PROPAGATED);
    let gives_small = node.outputs.iter().all(|id| {
        let shape = graph.ty(*id).known_shape();
        shape.and_then(|s| element_count(&s).ok()).is_some_and(|count| count <= LARGEST_PROPAGATED)
    });
    if node.inputs.iter().flatten().all(small) && gives_small && is_pure(node) {
        for (id, value) in node.outputs.clone().into_iter().zip(eval_node(graph, node)?) {
            graph.value_mut(id).constant = Some(value);
        }
    }
    Ok(())
}

/// False for ops whose result is not a function of their inputs.
pub fn is_pure(node: &Node) -> bool {
    !matches!(
        node.op.name(),
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" | "Multinomial" | "Bernoulli"
    )
}

/// The outputs of a node whose inputs are all constant.
///
/// # Errors
/// If the op fails, or an input is not constant.
pub fn eval_node(graph: &Graph, node: &Node) -> Result<Vec<Tensor>, GraphError> {
    let inputs: Vec<Option<&Tensor>> = node.inputs.iter().map(|i| i.and_then(|id| graph.constant(id))).collect();
    let types: Vec<Option<&Type>> = node.inputs.iter().map(|i| i.map(|id| graph.ty(id))).collect();
    let outputs: Vec<Type> = node.outputs.iter().map(|id| graph.ty(*id).clone()).collect();
    node.op
        .evaluate(&Eval { inputs: &inputs, types: &types, outputs: &outputs })
        .map_err(|source| graph.node_error(node, source))
}

/// The graph with its inputs bound to concrete shapes, and everything that follows from them known.
///
/// # Errors
/// If a shape contradicts a declared dimension or an op refuses it.
pub fn specialize(graph: &Graph, shapes: &[Vec<usize>]) -> Result<Graph, GraphError> {
    let mut graph = graph.clone();
    if shapes.len() != graph.inputs.len() {
        let (want, got) = (graph.inputs.len(), shapes.len());
        return Err(GraphError::Malformed(format!("the model has {want} inputs, {got} shapes were given")));
    }
    for (id, shape) in graph.inputs.clone().into_iter().zip(shapes) {
        let value = graph.value(id);
        let fits = value.ty.shape.as_ref().is_none_or(|dims| {
            dims.len() == shape.len() && dims.iter().zip(shape).all(|(d, n)| d.known().is_none_or(|k| k == *n))
        });
        if !fits {
            return Err(GraphError::Input {
                name: value.name.clone(),
                expected: value.ty.to_string(),
                actual: format!("{shape:?}"),
            });
        }
        graph.value_mut(id).ty.shape = Some(shape.iter().map(|&n| Dim::Known(n)).collect());
    }
    // Symbols and unknowns computed under other bindings are stale: forget them, keep what is known.
    for node in &graph.nodes.clone() {
        for id in &node.outputs {
            let ty = &mut graph.value_mut(*id).ty;
            if ty.shape.as_ref().is_some_and(|dims| dims.iter().any(|d| d.known().is_none())) {
                ty.shape = None;
            }
        }
    }
    infer(&mut graph)?;
    Ok(graph)
}

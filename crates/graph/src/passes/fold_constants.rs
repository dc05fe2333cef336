//! Nodes whose inputs are all constant become constants.

use crate::{
    Graph, GraphError, Node, OpError,
    infer::{eval_node, is_pure},
    rewrite::{Patch, Rule, View, rewrite},
};

/// A folded constant may be this many times larger than what it is made from, unless it is small.
const LARGEST_GROWTH: usize = 4;
const SMALL: usize = 1 << 16;

/// Computes every node whose inputs are constant, whatever their size. Weights that go through a dequantization stay as
/// they are: they say how the network is quantized.
///
/// # Errors
/// If a node cannot be evaluated.
pub fn fold_constants(graph: &mut Graph) -> Result<usize, GraphError> {
    rewrite(graph, &[&FoldConstants { quantized: false }])
}

/// [`fold_constants`], and quantized weights become the floats they stand for.
///
/// # Errors
/// If a node cannot be evaluated.
pub fn fold_all_constants(graph: &mut Graph) -> Result<usize, GraphError> {
    rewrite(graph, &[&FoldConstants { quantized: true }])
}

struct FoldConstants {
    quantized: bool,
}

/// True for ops that turn weights' integers into floats, or packed integers into wider ones: they say how wide the weights
/// are.
fn dequantizes(graph: &Graph, node: &Node) -> bool {
    let packed = || node.input(0).is_some_and(|id| graph.ty(id).element.is_packed());
    matches!(node.op.name(), "DequantizeLinear" | "Dequantize" | "Quant" | "IntQuant" | "BipolarQuant" | "Trunc")
        || (node.op.name() == "Cast" && packed())
}

impl Rule for FoldConstants {
    fn name(&self) -> &'static str {
        "fold constants"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let graph = view.graph;
        let constant = |id| {
            graph.constant(id).is_some()
                && (self.quantized || !view.producer(id).is_some_and(|n| dequantizes(graph, n)))
                && graph.ty(id).quant.is_none()
        };
        let typed = node.outputs.iter().any(|id| graph.ty(*id).quant.is_some());
        if !is_pure(node) || typed || (!self.quantized && dequantizes(graph, node)) {
            return Ok(None);
        }
        let known: Option<Vec<_>> = node.outputs.iter().map(|id| graph.constant(*id).cloned()).collect();
        let values = match known {
            // Shapes are known without their inputs.
            Some(values)
                if node
                    .inputs
                    .iter()
                    .flatten()
                    .all(|id| !view.producer(*id).is_some_and(|n| dequantizes(graph, n))) =>
            {
                values
            }
            _ => {
                if !node.inputs.iter().flatten().all(|id| constant(*id)) {
                    return Ok(None);
                }
                match eval_node(graph, node) {
                    Ok(values) => values,
                    // What the reference cannot compute stays where it is; running it will say why.
                    Err(_) => return Ok(None),
                }
            }
        };
        let read: usize =
            node.inputs.iter().flatten().filter_map(|id| graph.constant(*id)).map(|t| t.bytes().len()).sum();
        let made: usize = values.iter().map(|t| t.bytes().len()).sum();
        if made > SMALL && made > read.saturating_mul(LARGEST_GROWTH) {
            return Ok(None);
        }
        let mut patch = Patch::new();
        for (id, value) in node.outputs.iter().zip(values) {
            let constant = patch.constant(&graph.value(*id).name, value);
            patch.replace(*id, constant);
        }
        Ok(Some(patch))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qing_tensor::{Element, Tensor};

    use super::*;
    use crate::{Quant, Type, interpret::interpret, ops};

    #[test]
    fn constants_of_any_size_fold() {
        let mut graph = Graph::new("t");
        let x = graph.add_input("x", Type::new(Element::F32, [10_000usize]));
        let a = graph.add_constant("a", Tensor::vector(vec![1.5f32; 10_000]));
        let b = graph.add_constant("b", Tensor::vector(vec![2.0f32; 10_000]));
        let sum = graph.add_node(Arc::new(ops::Add {}), "sum", &[Some(a), Some(b)], 1).unwrap()[0];
        let y = graph.add_node(Arc::new(ops::Add {}), "y", &[Some(x), Some(sum)], 1).unwrap()[0];
        graph.mark_output(y);
        assert_eq!(fold_constants(&mut graph).unwrap(), 1);
        assert_eq!(graph.nodes.len(), 1);
        let out = interpret(&graph, &[Tensor::vector(vec![1.0f32; 10_000])]).unwrap();
        assert_eq!(out[0].to_f32s(), vec![4.5; 10_000]);
    }

    #[test]
    fn quantized_weights_stay_unless_asked() {
        let mut graph = Graph::new("t");
        let ty = Type::new(Element::I8, [2usize]).quantized(Element::I8, Quant::per_tensor(0.5, 0).unwrap());
        let w = graph.add_typed_constant("w", ty, Tensor::from_ints(Element::I8, &[2], &[3, -4]).unwrap());
        let real = graph.add_node(Arc::new(ops::Dequantize {}), "real", &[Some(w)], 1).unwrap()[0];
        graph.mark_output(real);
        assert_eq!(fold_constants(&mut graph).unwrap(), 0);
    }
}

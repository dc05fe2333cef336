//! What many nodes make of one quantized value, as one table.
//!
//! `x · sigmoid(x)` between quantized values is a lookup, two dequantizations, a product and a quantization. All of it is a function of
//! one integer of at most eight bits, so it is computed for every integer there is, by the nodes' own reference semantics, and
//! becomes a lookup that the layer before it does in its registers.

use std::{collections::HashMap, sync::Arc};

use qing_graph::{
    Graph, Node, OpError, Tensor, Type, ValueId, arithmetic,
    interpret::interpret,
    ops,
    rewrite::{Patch, Rule, View},
};

/// Nodes of a function that is looked at.
const MOST_NODES: usize = 24;

/// A quantization of a function of a single quantized value.
pub(super) struct Composed;

impl Rule for Composed {
    fn name(&self) -> &'static str {
        "function of one value"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let (Some(_), Some(x)) = (node.op.downcast::<ops::Quantize>(), node.input(0)) else { return Ok(None) };
        if view.graph.ty(x).quant.is_some() || !per_tensor(view.graph.ty(node.outputs[0])) {
            return Ok(None);
        }
        let mut function = Function { view, source: None, nodes: vec![] };
        let found = function.take(x);
        let (Some(()), Some(source)) = (found, function.source) else { return Ok(None) };
        // A dequantization alone is a rescaling, which has a rule of its own.
        if function.nodes.iter().all(|node| node.op.downcast::<ops::Dequantize>().is_some()) {
            return Ok(None);
        }
        function.nodes.push(node);
        let Some(table) = function.tabulate(source, node.outputs[0]) else { return Ok(None) };
        let mut patch = Patch::new();
        let ty = view.graph.ty(node.outputs[0]).clone();
        let y = patch.typed_node(Arc::new(ops::Lookup { table }), &node.name, &[Some(source.into())], ty);
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

/// Whether there are few enough values for a table.
fn per_tensor(ty: &Type) -> bool {
    ty.element.bits() <= 8 && arithmetic::per_tensor(ty).is_ok()
}

/// Functions of one or two values, element by element, beside those that have [`qing_graph::Op::map`].
const BINARY: [&str; 7] = ["Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"];

struct Function<'a, 'g> {
    view: &'a View<'g>,
    source: Option<ValueId>,
    /// In the order in which they can be computed.
    nodes: Vec<&'g Node>,
}

impl<'g> Function<'_, 'g> {
    /// Takes what computes `id` into the function; `None` if that is not a function of one value.
    fn take(&mut self, id: ValueId) -> Option<()> {
        let graph = self.view.graph;
        if let Some(constant) = graph.constant(id) {
            return (constant.len() == 1 && graph.ty(id).quant.is_none()).then_some(());
        }
        let producer = self.view.producer(id);
        if self.nodes.iter().any(|node| node.outputs.contains(&id)) {
            return Some(());
        }
        let quantized = graph.ty(id).quant.is_some();
        let inner = producer.filter(|node| {
            let elementwise = node.op.map(0.0).is_some() && node.inputs.len() == 1;
            let from_quantized = node.input(0).is_some_and(|x| graph.ty(x).quant.is_some());
            node.outputs.len() == 1
                && if quantized {
                    elementwise && from_quantized
                } else {
                    elementwise || node.op.name() == "Dequantize" || BINARY.contains(&node.op.name())
                }
        });
        let Some(node) = inner else {
            if !quantized || !per_tensor(graph.ty(id)) || self.source.is_some_and(|source| source != id) {
                return None;
            }
            self.source = Some(id);
            return Some(());
        };
        for input in node.inputs.iter().copied() {
            self.take(input?)?;
        }
        // Values of one shape: nothing is spread over an axis.
        let (x, y) = (self.source?, node.outputs[0]);
        if graph.ty(x).known_shape()? != graph.ty(y).known_shape()? || self.nodes.len() == MOST_NODES {
            return None;
        }
        self.nodes.push(node);
        Some(())
    }

    /// The integer of `y` for every integer of `x`.
    fn tabulate(&self, x: ValueId, y: ValueId) -> Option<Vec<i64>> {
        let graph = self.view.graph;
        let (lo, hi) = graph.ty(x).range()?;
        let all: Vec<i32> = (lo..=hi).collect();
        let shaped = |ty: &Type| ty.with_shape(Some(vec![all.len().into()]));
        let mut function = Graph::new("function");
        let mut of: HashMap<ValueId, ValueId> = HashMap::new();
        of.insert(x, function.add_input("x", shaped(graph.ty(x))));
        for node in &self.nodes {
            let mut inputs = vec![];
            for id in node.inputs.iter().copied() {
                let id = id?;
                if let Some(constant) = graph.constant(id) {
                    let scalar = constant.clone().reshaped(&[]).ok()?;
                    of.entry(id).or_insert_with(|| function.add_constant("constant", scalar));
                }
                inputs.push(Some(*of.get(&id)?));
            }
            let ty = shaped(graph.ty(node.outputs[0]));
            let outputs = function.add_typed_node(node.op.clone(), &node.name, &inputs, vec![ty]).ok()?;
            of.insert(node.outputs[0], outputs[0]);
        }
        function.mark_output(*of.get(&y)?);
        let input = Tensor::from_ints(graph.ty(x).element, &[all.len()], &all).ok()?;
        let results = interpret(&function, &[input]).ok()?;
        Some(results.first()?.to_ints().into_iter().map(i64::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use qing_graph::{Element, Quant, rewrite::rewrite};

    use super::*;

    /// x, sigmoid(x) quantized on its own, their product quantized; and the same times another value.
    fn silu(times_another: bool) -> Graph {
        let mut graph = Graph::new("silu");
        let quantized = |scale, zero| {
            Type::new(Element::F32, [256usize]).quantized(Element::U8, Quant::per_tensor(scale, zero).unwrap())
        };
        let x = graph.add_input("x", quantized(0.05, 120));
        let real =
            |graph: &mut Graph, id| graph.add_node(Arc::new(ops::Dequantize {}), "real", &[Some(id)], 1).unwrap()[0];
        let gate = graph
            .add_typed_node(Arc::new(ops::Sigmoid {}), "gate", &[Some(x)], vec![quantized(1.0 / 256.0, 0)])
            .unwrap()[0];
        let a = real(&mut graph, x);
        let b = real(&mut graph, gate);
        let mut y = graph.add_node(Arc::new(ops::Mul {}), "product", &[Some(a), Some(b)], 1).unwrap()[0];
        if times_another {
            let z = graph.add_input("z", quantized(0.1, 3));
            let z = real(&mut graph, z);
            y = graph.add_node(Arc::new(ops::Mul {}), "another", &[Some(y), Some(z)], 1).unwrap()[0];
        }
        let y = graph.add_typed_node(Arc::new(ops::Quantize {}), "y", &[Some(y)], vec![quantized(0.04, 7)]).unwrap()[0];
        graph.mark_output(y);
        graph
    }

    #[test]
    fn a_function_of_one_value_is_a_table_and_gives_the_same() {
        let mut graph = silu(false);
        let all: Vec<i32> = (0..256).collect();
        let input = Tensor::from_ints(Element::U8, &[256], &all).unwrap();
        let before = interpret(&graph, std::slice::from_ref(&input)).unwrap();
        rewrite(&mut graph, &[&Composed]).unwrap();
        assert_eq!(graph.nodes.iter().map(|n| n.op.name()).collect::<Vec<_>>(), ["Lookup"]);
        assert_eq!(interpret(&graph, &[input]).unwrap(), before);
        let values = before[0].to_ints();
        assert!(values.iter().min() < Some(&7) && values.iter().max() > Some(&100), "{values:?}");
    }

    #[test]
    fn a_function_of_two_values_stays() {
        let mut graph = silu(true);
        let count = graph.nodes.len();
        rewrite(&mut graph, &[&Composed]).unwrap();
        assert_eq!(graph.nodes.len(), count);
    }
}

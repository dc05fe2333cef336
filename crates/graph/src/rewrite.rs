//! The one way graphs are changed: a [`Rule`] looks at a node and its surroundings and proposes a [`Patch`].
//!
//! A patch adds nodes in place of the matched one and redirects uses; whatever is dead then is removed. In debug builds
//! and tests the graph is verified after each pass.

use std::sync::Arc;

use qing_tensor::Tensor;

use crate::{Graph, GraphError, Node, NodeId, Op, OpError, Type, ValueId, verify};

/// A graph with its def–use chains, as rules see it.
#[derive(Debug)]
pub struct View<'g> {
    /// The graph.
    pub graph: &'g Graph,
    producers: Vec<Option<NodeId>>,
    consumers: Vec<Vec<NodeId>>,
}

impl<'g> View<'g> {
    /// Indexes a graph.
    pub fn new(graph: &'g Graph) -> View<'g> {
        View { graph, producers: graph.producers(), consumers: graph.consumers() }
    }

    /// The node that defines a value.
    pub fn producer(&self, value: ValueId) -> Option<&'g Node> {
        self.producers[value.0 as usize].map(|i| &self.graph.nodes[i])
    }

    /// The nodes that read a value.
    pub fn consumers(&self, value: ValueId) -> impl ExactSizeIterator<Item = &'g Node> {
        let graph = self.graph;
        self.consumers[value.0 as usize].iter().map(move |i| &graph.nodes[*i])
    }

    /// The only reader of a value that is not a graph output.
    pub fn single_consumer(&self, value: ValueId) -> Option<&'g Node> {
        match self.consumers[value.0 as usize].as_slice() {
            [one] if !self.graph.outputs.contains(&value) => Some(&self.graph.nodes[*one]),
            _ => None,
        }
    }

    /// The producer of a value, if its op is a `T`: the op and the node.
    pub fn producer_as<T: Op>(&self, value: ValueId) -> Option<(&'g T, &'g Node)> {
        let node = self.producer(value)?;
        Some((node.op.downcast::<T>()?, node))
    }
}

/// What a rule proposes: new nodes and constants, and which values the new ones replace.
#[derive(Debug, Default)]
pub struct Patch {
    constants: Vec<(String, Type, Tensor)>,
    nodes: Vec<PatchNode>,
    replace: Vec<(ValueId, PatchValue)>,
    retype: Vec<(ValueId, Type)>,
}

#[derive(Debug)]
struct PatchNode {
    name: String,
    op: Arc<dyn Op>,
    inputs: Vec<Option<PatchValue>>,
    outputs: usize,
    types: Option<Vec<Type>>,
}

/// A value as seen by a patch: one of the graph's, or one the patch makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchValue {
    /// A value of the graph.
    Old(ValueId),
    /// Constant number `.0` of the patch.
    Constant(usize),
    /// Output `.1` of node `.0` of the patch.
    Output(usize, usize),
}

impl From<ValueId> for PatchValue {
    fn from(id: ValueId) -> PatchValue {
        PatchValue::Old(id)
    }
}

impl Patch {
    /// An empty patch.
    pub fn new() -> Patch {
        Patch::default()
    }

    /// Adds an unquantized constant.
    pub fn constant(&mut self, name: &str, value: Tensor) -> PatchValue {
        let ty = Type::new(value.element(), value.shape().iter().copied());
        self.typed_constant(name, ty, value)
    }

    /// Adds a constant of a given type.
    pub fn typed_constant(&mut self, name: &str, ty: Type, value: Tensor) -> PatchValue {
        self.constants.push((name.into(), ty, value));
        PatchValue::Constant(self.constants.len() - 1)
    }

    /// Adds a node with one output whose type is inferred.
    pub fn node(&mut self, op: impl Op, name: &str, inputs: &[PatchValue]) -> PatchValue {
        self.any_node(Arc::new(op), name, inputs.iter().copied().map(Some).collect(), 1, None)
    }

    /// Adds a node with one output of a given type.
    pub fn typed_node(&mut self, op: Arc<dyn Op>, name: &str, inputs: &[Option<PatchValue>], ty: Type) -> PatchValue {
        self.any_node(op, name, inputs.to_vec(), 1, Some(vec![ty]))
    }

    /// Adds any node; gives its output 0 (use [`PatchValue::Output`] for the others).
    pub fn any_node(
        &mut self,
        op: Arc<dyn Op>,
        name: &str,
        inputs: Vec<Option<PatchValue>>,
        outputs: usize,
        types: Option<Vec<Type>>,
    ) -> PatchValue {
        self.nodes.push(PatchNode { name: name.into(), op, inputs, outputs, types });
        PatchValue::Output(self.nodes.len() - 1, 0)
    }

    /// Redirects every use of `old` to `new`.
    pub fn replace(&mut self, old: ValueId, new: impl Into<PatchValue>) {
        self.replace.push((old, new.into()));
    }

    /// Changes the type of a value.
    pub fn retype(&mut self, value: ValueId, ty: Type) {
        self.retype.push((value, ty));
    }
}

/// A pattern and what to put in its place.
pub trait Rule {
    /// Name for logs and errors.
    fn name(&self) -> &'static str;

    /// A patch, if the pattern that ends in `node` matches. New nodes take the place right after `node`, so they may read
    /// whatever is defined up to there.
    ///
    /// # Errors
    /// If the pattern matches but cannot be rewritten legally.
    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError>;
}

/// Applies the rules to every node, in order, until none matches.
///
/// # Errors
/// If a rule fails, a patch does not type, or (debug builds) the result is malformed.
pub fn rewrite(graph: &mut Graph, rules: &[&dyn Rule]) -> Result<usize, GraphError> {
    let mut applied = 0;
    loop {
        let before = applied;
        let mut i = 0;
        'nodes: while i < graph.nodes.len() {
            let view = View::new(graph);
            // One index serves until a patch is applied.
            let mut at = i;
            let found = 'search: {
                while at < view.graph.nodes.len() {
                    let node = &view.graph.nodes[at];
                    for rule in rules {
                        let patch = rule.apply(&view, node).map_err(|source| view.graph.node_error(node, source))?;
                        if let Some(patch) = patch {
                            break 'search Some(patch);
                        }
                    }
                    at += 1;
                }
                None
            };
            let Some(patch) = found else { break 'nodes };
            apply(graph, at, patch)?;
            applied += 1;
            i = at.saturating_sub(8);
        }
        graph.remove_dead_nodes();
        if applied == before {
            break;
        }
    }
    if cfg!(debug_assertions) {
        verify::verify(graph)?;
    }
    Ok(applied)
}

/// Applies a patch whose new nodes go right after the node at `at`.
///
/// # Errors
/// If an op refuses its inputs.
pub fn apply(graph: &mut Graph, at: NodeId, patch: Patch) -> Result<(), GraphError> {
    for (id, ty) in patch.retype {
        graph.value_mut(id).ty = ty;
    }
    let constants: Vec<ValueId> =
        patch.constants.into_iter().map(|(name, ty, value)| graph.add_typed_constant(&name, ty, value)).collect();
    let tail = graph.nodes.split_off(at + 1);
    let mut made: Vec<Vec<ValueId>> = vec![];
    let resolve = |made: &[Vec<ValueId>], value: PatchValue| match value {
        PatchValue::Old(id) => id,
        PatchValue::Constant(i) => constants[i],
        PatchValue::Output(node, i) => made[node][i],
    };
    for node in patch.nodes {
        let inputs: Vec<Option<ValueId>> = node.inputs.iter().map(|v| v.map(|v| resolve(&made, v))).collect();
        made.push(match node.types {
            Some(types) => graph.add_typed_node(node.op, &node.name, &inputs, types)?,
            None => graph.add_node(node.op, &node.name, &inputs, node.outputs)?,
        });
    }
    let kept = graph.nodes.len() - made.len();
    graph.nodes.extend(tail);
    let replaced: Vec<(ValueId, ValueId)> =
        patch.replace.into_iter().map(|(old, new)| (old, resolve(&made, new))).collect();
    for (old, new) in &replaced {
        // Nodes of the patch itself keep reading the old value: that is how one wraps a value.
        for (i, node) in graph.nodes.iter_mut().enumerate() {
            if i >= kept && i < kept + made.len() {
                continue;
            }
            for input in node.inputs.iter_mut().flatten().filter(|id| *id == old) {
                *input = *new;
            }
        }
        let mut was_output = false;
        for out in graph.outputs.iter_mut().filter(|id| *id == old) {
            *out = *new;
            was_output = true;
        }
        if was_output {
            // The outside world knows an output by its name.
            let name = graph.value(*old).name.clone();
            graph.rename(*old, &format!("{name}.replaced"));
            graph.rename(*new, &name);
        }
    }
    graph.remove_dead_nodes();
    Ok(())
}

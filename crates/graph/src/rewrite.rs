//! The one way graphs are changed: a [`Rule`] looks at a node and its surroundings and proposes a [`Patch`].
//!
//! A patch adds nodes in place of the matched one and redirects uses; whatever is dead then is removed. In debug builds
//! and tests the graph is verified after each pass.

use std::{borrow::Cow, sync::Arc};

use qing_tensor::Tensor;

use crate::{Graph, GraphError, Node, NodeId, Op, OpError, Type, ValueId, verify};

/// A graph with its def–use chains, as rules see it.
#[derive(Debug)]
pub struct View<'g> {
    /// The graph.
    pub graph: &'g Graph,
    chains: Cow<'g, Chains>,
}

impl<'g> View<'g> {
    /// Indexes a graph.
    pub fn new(graph: &'g Graph) -> View<'g> {
        View { graph, chains: Cow::Owned(Chains::new(graph)) }
    }

    /// The node that defines a value.
    pub fn producer(&self, value: ValueId) -> Option<&'g Node> {
        self.chains.producers[value.0 as usize].map(|i| &self.graph.nodes[i])
    }

    /// The nodes that read a value.
    pub fn consumers(&self, value: ValueId) -> impl ExactSizeIterator<Item = &'g Node> {
        let graph = self.graph;
        self.chains.consumers[value.0 as usize].iter().map(move |i| &graph.nodes[*i])
    }

    /// The only reader of a value that is not a graph output.
    pub fn single_consumer(&self, value: ValueId) -> Option<&'g Node> {
        match self.chains.consumers[value.0 as usize].as_slice() {
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
        let mut chains = Chains::new(graph);
        let mut at = 0;
        while at < graph.nodes.len() {
            if chains.dead[at] {
                at += 1;
                continue;
            }
            let view = View { graph, chains: Cow::Borrowed(&chains) };
            let node = &graph.nodes[at];
            let mut found = None;
            for rule in rules {
                found = rule.apply(&view, node).map_err(|source| graph.node_error(node, source))?;
                if found.is_some() {
                    break;
                }
            }
            let Some(patch) = found else {
                at += 1;
                continue;
            };
            drop(view);
            // What comes a little before may match now.
            at = apply(graph, &mut chains, at, patch)?.saturating_sub(BACK);
            applied += 1;
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

/// Nodes before a patch that are looked at again in the same sweep.
const BACK: usize = 8;

/// Def–use chains that are kept while patches are applied. Dead nodes stay where they are until the sweep is over, so that the
/// others keep their places; they read nothing.
#[derive(Debug, Clone)]
struct Chains {
    producers: Vec<Option<NodeId>>,
    consumers: Vec<Vec<NodeId>>,
    dead: Vec<bool>,
}

impl Chains {
    fn new(graph: &Graph) -> Chains {
        let dead = vec![false; graph.nodes.len()];
        Chains { producers: graph.producers(), consumers: graph.consumers(), dead }
    }

    /// Makes room for values that were added.
    fn grow(&mut self, graph: &Graph) {
        self.producers.resize(graph.values().len(), None);
        self.consumers.resize(graph.values().len(), vec![]);
    }

    /// Takes out the node at `at` and what only it needed, if nobody needs it.
    fn bury(&mut self, graph: &mut Graph, at: NodeId) {
        let mut doubtful = vec![at];
        while let Some(at) = doubtful.pop() {
            let needed = |id: &ValueId| !self.consumers[id.0 as usize].is_empty() || graph.outputs.contains(id);
            if self.dead[at] || graph.nodes[at].outputs.iter().any(needed) {
                continue;
            }
            self.dead[at] = true;
            for id in graph.nodes[at].inputs.iter().flatten() {
                let readers = &mut self.consumers[id.0 as usize];
                if let Some(place) = readers.iter().position(|i| *i == at) {
                    readers.remove(place);
                }
                doubtful.extend(self.producers[id.0 as usize]);
            }
            graph.nodes[at].inputs.clear();
        }
    }
}

/// Applies a patch whose new nodes go right after the node at `at`; gives where that place is then.
fn apply(graph: &mut Graph, chains: &mut Chains, at: NodeId, patch: Patch) -> Result<NodeId, GraphError> {
    for (id, ty) in patch.retype {
        graph.value_mut(id).ty = ty;
    }
    let constants: Vec<ValueId> =
        patch.constants.into_iter().map(|(name, ty, value)| graph.add_typed_constant(&name, ty, value)).collect();
    let resolve = |made: &[Vec<ValueId>], value: PatchValue| match value {
        PatchValue::Old(id) => id,
        PatchValue::Constant(i) => constants[i],
        PatchValue::Output(node, i) => made[node][i],
    };
    // New nodes are appended for now.
    let kept = graph.nodes.len();
    let mut made: Vec<Vec<ValueId>> = vec![];
    for node in patch.nodes {
        let inputs: Vec<Option<ValueId>> = node.inputs.iter().map(|v| v.map(|v| resolve(&made, v))).collect();
        made.push(match node.types {
            Some(types) => graph.add_typed_node(node.op, &node.name, &inputs, types)?,
            None => graph.add_node(node.op, &node.name, &inputs, node.outputs)?,
        });
    }
    chains.grow(graph);
    let mut losers = vec![at];
    for (old, new) in patch.replace {
        let new = resolve(&made, new);
        losers.extend(chains.producers[old.0 as usize]);
        // Nodes of the patch itself keep reading the old value: that is how one wraps a value.
        for reader in std::mem::take(&mut chains.consumers[old.0 as usize]) {
            for input in graph.nodes[reader].inputs.iter_mut().flatten().filter(|id| **id == old) {
                *input = new;
            }
            chains.consumers[new.0 as usize].push(reader);
        }
        let mut was_output = false;
        for out in graph.outputs.iter_mut().filter(|id| **id == old) {
            *out = new;
            was_output = true;
        }
        if was_output {
            // The outside world knows an output by its name.
            let name = graph.value(old).name.clone();
            graph.rename(old, &format!("{name}.replaced"));
            graph.rename(new, &name);
        }
    }
    let own = graph.nodes.split_off(kept);
    let replaces_itself = {
        let outputs = &graph.nodes[at].outputs;
        let needed = |id: &ValueId| {
            let by_patch = own.iter().any(|node| node.inputs.iter().flatten().any(|input| input == id));
            by_patch || !chains.consumers[id.0 as usize].is_empty() || graph.outputs.contains(id)
        };
        !outputs.iter().any(needed)
    };
    let count = own.len();
    if count == 1 && replaces_itself {
        // The usual patch: one node takes the place of another, and all others keep theirs.
        for node in own {
            for id in node.inputs.iter().flatten() {
                chains.consumers[id.0 as usize].push(at);
            }
            for id in &node.outputs {
                chains.producers[id.0 as usize] = Some(at);
            }
            let old = std::mem::replace(&mut graph.nodes[at], node);
            for id in &old.outputs {
                chains.producers[id.0 as usize] = None;
            }
            for id in old.inputs.iter().flatten() {
                let readers = &mut chains.consumers[id.0 as usize];
                if let Some(place) = readers.iter().position(|i| *i == at) {
                    readers.remove(place);
                }
                losers.extend(chains.producers[id.0 as usize]);
            }
        }
    } else if count > 0 {
        graph.nodes.splice(at + 1..at + 1, own);
        graph.remove_dead_nodes();
        let gone = chains.dead[..at].iter().filter(|dead| **dead).count();
        *chains = Chains::new(graph);
        return Ok((at - gone).min(graph.nodes.len()));
    }
    for loser in losers {
        chains.bury(graph, loser);
    }
    Ok(at)
}
